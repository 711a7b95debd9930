package reward

import (
	"regexp"
	"slices"
	"strings"
)

// Code returns the program in an answer to tests, as models write them: what
// follows the model's thoughts; of its code blocks the last that defines what
// the tests use, or else the last that defines anything, or else the last; and
// all of it, less the sentences around the program, where there is no block.
func Code(answer string, ref Reference) string {
	code, _ := locate(answer, ref)
	return code
}

// locate is Code, and says whether the code comes from a block.
func locate(answer string, ref Reference) (code string, fenced bool) {
	answer = afterThought(strings.ReplaceAll(answer, "\r\n", "\n"))
	if i := strings.LastIndex(answer, "[BEGIN]"); i >= 0 {
		answer, _, _ = strings.Cut(answer[i+len("[BEGIN]"):], "[DONE]")
	}
	all := blocks(answer)
	if len(all) == 0 {
		if found := tagged(answer); len(found) > 0 && anyDefinition.MatchString(found[len(found)-1]) {
			answer = found[len(found)-1]
		}
		return withoutProse(answer), false
	}
	wanted := definitionOf(subjects(ref)...)
	for _, fits := range []*regexp.Regexp{wanted, anyDefinition} {
		for _, block := range slices.Backward(all) {
			if fits.MatchString(block) {
				return block, true
			}
		}
	}
	// The fence that opens the program was the prompt's, and the first one closes it.
	if first := fence.FindStringIndex(answer); first != nil && wanted.MatchString(answer[:first[0]]) {
		return withoutProse(answer[:first[0]]), false
	}
	return all[len(all)-1], true
}

// anyDefinition matches the beginning of a function or class.
var anyDefinition = regexp.MustCompile(`(?m)^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+\w`)

// definitionOf matches the definition of one of these names.
func definitionOf(names ...string) *regexp.Regexp {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	name := `(?:` + strings.Join(quoted, "|") + `)\b`
	return regexp.MustCompile(`(?m)^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+` + name + `|^` + name + `[ \t]*(?::[^=\n]*)?=[^=]`)
}

// call matches a name that is called, as a method too.
var call = regexp.MustCompile(`\.?\b[A-Za-z_]\w*[ \t]*\(`)

// subjects are the names that the answer must define: the entry point, or what
// the tests call that is not Python's own. Where they call nothing else, it is
// what they call.
func subjects(ref Reference) []string {
	if ref.EntryPoint != "" {
		return []string{ref.EntryPoint}
	}
	var all, own []string
	for _, test := range ref.Tests {
		for _, called := range call.FindAllString(test, -1) {
			name := strings.TrimRight(called, "( \t")
			if strings.HasPrefix(name, ".") || keywords[name] || slices.Contains(all, name) {
				continue
			}
			all = append(all, name)
			if !pythonsOwn[name] {
				own = append(own, name)
			}
		}
	}
	if len(own) > 0 {
		return own
	}
	return all
}

func set(names string) map[string]bool {
	m := map[string]bool{}
	for n := range strings.FieldsSeq(names) {
		m[n] = true
	}
	return m
}

// keywords may stand before a bracket; pythonsOwn are functions that tests call
// around the answer's.
var (
	keywords   = set("and as assert await del elif else for from if import in is lambda not or return while with yield")
	pythonsOwn = set(`abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format
		frozenset getattr hasattr hash hex id int isinstance issubclass iter len list map max min next object oct ord pow range
		repr reversed round set slice sorted str sum tuple type vars zip`)
)

// fence matches a line that opens or closes a Markdown code block.
var fence = regexp.MustCompile("(?m)^([ \t]*)(```+|~~~+)[ \t]*([^`\n]*)$")

// blocks returns the contents of the Markdown code blocks in text, the last one
// also where it is cut off.
func blocks(text string) []string {
	var all []string
	var block []string
	var mark, indent string
	closeBlock := func() {
		all = append(all, strings.Join(block, "\n")+"\n")
		block, mark = nil, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		m := fence.FindStringSubmatch(line)
		switch {
		case mark == "" && m != nil:
			indent, mark = m[1], m[2]
		case mark == "":
		case m != nil && strings.HasPrefix(m[2], mark) && m[3] == "":
			closeBlock()
		case strings.HasSuffix(line, mark):
			// The closing fence stands at the end of the last line.
			block = append(block, strings.TrimSuffix(line, mark))
			closeBlock()
		default:
			block = append(block, strings.TrimPrefix(line, indent))
		}
	}
	if mark != "" {
		closeBlock()
	}
	return all
}

// prose matches the beginning of a line of prose, statement the beginning of a
// line that can only be a program's.
var (
	prose     = regexp.MustCompile(`^[A-Z][\w']*(?:,? [a-z]|[\w ]*:\s*$)`)
	statement = regexp.MustCompile(`^(?:(?:async[ \t]+)?def |class |import |from \w[\w.]* import |@\w)`)
)

// withoutProse takes the sentences off that stand before and after a program;
// text without a program stays as it is.
func withoutProse(text string) string {
	lines := strings.Split(text, "\n")
	first := slices.IndexFunc(lines, statement.MatchString)
	if first < 0 {
		return text
	}
	// What stands before may be a program, too.
	if !slices.ContainsFunc(lines[:first], prose.MatchString) {
		first = 0
	}
	lines = lines[first:]
	quotes := 0
	for i, line := range lines {
		if quotes%2 == 0 && prose.MatchString(line) {
			lines = lines[:i]
			break
		}
		quotes += strings.Count(line, `"""`) + strings.Count(line, `'''`)
	}
	return strings.Join(lines, "\n")
}

// assemble makes the program that is run, and what runs before the tests.
func assemble(answer string, ref Reference) (extracted, program, setup string) {
	code, fenced := locate(answer, ref)
	if ref.EntryPoint == "" {
		return code, code, ref.Setup
	}
	// What the prompt has before the function, imports and helpers, is there for
	// the answer; the tests have it from the prompt, whatever the answer makes of
	// it.
	preamble := ref.Prompt
	if at := definitionOf(ref.EntryPoint).FindStringIndex(ref.Prompt); at != nil {
		preamble = ref.Prompt[:at[0]]
	}
	setup = strings.TrimSpace(preamble + "\n" + ref.Setup)
	if definitionOf(ref.EntryPoint).MatchString(code) {
		return code, preamble + "\n" + code, setup
	}
	body := continuation(code, fenced)
	return body, strings.TrimRight(ref.Prompt, " \t\n") + "\n" + body, setup
}

// continuation is the rest of a function's body: it ends where a line is not
// indented any more, as the evaluation of HumanEval has it. A body whose
// indentation was lost gets it back.
func continuation(code string, fenced bool) string {
	lines := strings.Split(strings.Trim(code, "\n"), "\n")
	indented := func(line string) bool { return strings.TrimLeft(line, " \t") != line }
	if !indented(lines[0]) {
		// Only the first line's, where a blank before the answer was left out.
		rest := slices.IndexFunc(lines[1:], func(l string) bool { return strings.TrimSpace(l) != "" })
		if fenced || strings.HasSuffix(strings.TrimSpace(lines[0]), ":") || rest < 0 || !indented(lines[1+rest]) {
			for i, line := range lines {
				lines[i] = "    " + line
			}
		} else {
			lines[0] = "    " + lines[0]
		}
	}
	for i, line := range lines {
		if strings.TrimSpace(line) != "" && !indented(line) {
			lines = lines[:i]
			break
		}
	}
	return strings.Join(lines, "\n") + "\n"
}
