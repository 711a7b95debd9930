package toolcall_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/toolcall"
	"github.com/transformersquared/operator/runtime/toolcall/toolcalltest"
)

// call is a call as a client puts it together.
type call struct{ Name, Arguments string }

// parse gives a parser an answer in pieces of so many bytes, and returns its text and calls.
func parse(t testing.TB, p *toolcall.Parser, answer string, size int) (text string, calls []call, ids []string) {
	t.Helper()
	take := func(pieces []toolcall.Piece) {
		for _, piece := range pieces {
			text += piece.Text
			c := piece.Call
			switch {
			case (c == nil) == (piece.Text == ""):
				t.Errorf("a piece with %q and %+v", piece.Text, c)
			case c == nil:
			case c.Index == len(calls) && c.ID != "" && c.Name != "":
				calls, ids = append(calls, call{c.Name, c.Arguments}), append(ids, c.ID)
			case c.Index == len(calls)-1 && c.ID == "" && c.Name == "":
				calls[c.Index].Arguments += c.Arguments
			default:
				t.Errorf("piece %+v behind %d calls", c, len(calls))
			}
		}
	}
	for rest := answer; rest != ""; {
		n := min(size, len(rest))
		take(p.Push(rest[:n]))
		rest = rest[n:]
	}
	take(p.Flush(false))
	if p.Calls() != len(calls) {
		t.Errorf("it counts %d calls, and hands on %d", p.Calls(), len(calls))
	}
	return text, calls, ids
}

// elements is a call as Qwen3-Coder writes it.
func elements(name string, arguments ...string) string {
	var s strings.Builder
	s.WriteString("<tool_call>\n<function=" + name + ">\n")
	for i := 0; i < len(arguments); i += 2 {
		s.WriteString("<parameter=" + arguments[i] + ">\n" + arguments[i+1] + "\n</parameter>\n")
	}
	return s.String() + "</function>\n</tool_call>"
}

// families are those of toolcalltest.
var families = slices.Sorted(maps.Keys(toolcalltest.Templates))

var offer = toolcall.Offer{Functions: []toolcall.Function{weather, {Name: "now"}}}

func TestAnswersAreTakenApart(t *testing.T) {
	bonn := call{"get_weather", `{"city": "Bonn"}`}
	for _, c := range []struct {
		family, name, answer, text string
		calls                      []call
	}{
		{"hermes", "text", "Rain.  \n", "Rain.  \n", nil},
		{"hermes", "nothing", "", "", nil},
		{"hermes", "white space", " \n", " \n", nil},
		{"hermes", "a call", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>", "", []call{bonn}},
		{"hermes", "a call behind text", "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>\n", "Let me see.", []call{bonn}},
		{"hermes", "two calls", `<tool_call>{"name":"get_weather","arguments":{"city": "Bonn"}}</tool_call>` + "\n" + `<tool_call> {"name":"now","arguments":{}} </tool_call>`, "", []call{bonn, {"now", "{}"}}},
		{"hermes", "text between two", `a<tool_call>{"name":"now","arguments":{}}</tool_call> b <tool_call>{"name":"now","arguments":{}}</tool_call>c`, "a bc", []call{{"now", "{}"}, {"now", "{}"}}},
		{"hermes", "the last marker left out", `<tool_call>{"name":"get_weather","arguments":{"city": "Bonn"}}`, "", []call{bonn}},
		{"hermes", "arguments first, and more members", `<tool_call>{"arguments": {"city": "Bonn"}, "id": [1, {"name": 2}], "name": "get_weather"}</tool_call>`, "", []call{bonn}},
		{"hermes", "no arguments", `<tool_call>{"name": "now"}</tool_call>`, "", []call{{"now", "{}"}}},
		{"hermes", "markers within a string", `<tool_call>{"name":"get_weather","arguments":{"city":"</tool_call><tool_call>{\"}"}}</tool_call>`, "", []call{{"get_weather", `{"city":"</tool_call><tool_call>{\"}"}`}}},
		{"hermes", "another function", `x <tool_call>{"name":"rm","arguments":{}}</tool_call>`, `x <tool_call>{"name":"rm","arguments":{}}</tool_call>`, nil},
		{"hermes", "no JSON", "<tool_call>now()</tool_call>", "<tool_call>now()</tool_call>", nil},
		{"hermes", "JSON that ends too early", `<tool_call>{"name":"now","arguments":{"a`, `<tool_call>{"name":"now","arguments":{"a`, nil},
		{"hermes", "arguments that are no object", `<tool_call>{"name":"now","arguments":"{}"}</tool_call>`, `<tool_call>{"name":"now","arguments":"{}"}</tool_call>`, nil},
		{"hermes", "a word that is none", `<tool_call>{"name":"now","arguments":{"a":nul}}</tool_call>`, `<tool_call>{"name":"now","arguments":{"a":nul}}</tool_call>`, nil},
		{"hermes", "another end", `<tool_call>{"name":"now"}</tool>`, `<tool_call>{"name":"now"}</tool>`, nil},
		{"hermes", "a call behind what is none", `<tool_call>{"name":<tool_call>{"name":"now"}</tool_call>`, `<tool_call>{"name":`, []call{{"now", "{}"}}},
		{"hermes", "the beginning of a marker", "a <tool_cal", "a <tool_cal", nil},
		{"hermes", "a marker alone", "<tool_call>", "<tool_call>", nil},
		{"mistral", "text", "Rain.", "Rain.", nil},
		{"mistral", "a call", `[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Bonn"}}]`, "", []call{bonn}},
		{"mistral", "two", `[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Bonn"}, "id": "abcdefgh1"}, {"name":"now","arguments":{}}]`, "", []call{bonn, {"now", "{}"}}},
		{"mistral", "text around", `So: [TOOL_CALLS] [{"name":"now","arguments":{}}] Done.`, "So: Done.", []call{{"now", "{}"}}},
		{"mistral", "one of another function", `[TOOL_CALLS] [{"name":"now","arguments":{}},{"name":"rm","arguments":{}}]`, `[TOOL_CALLS] [{"name":"now","arguments":{}},{"name":"rm","arguments":{}}]`, nil},
		{"mistral", "no list", `[TOOL_CALLS] {"name":"now"}`, `[TOOL_CALLS] {"name":"now"}`, nil},
		{"mistral", "an empty list", `[TOOL_CALLS] []`, `[TOOL_CALLS] []`, nil},
		{"mistral", "a list that ends too early", `[TOOL_CALLS] [{"name":"now"}`, `[TOOL_CALLS] [{"name":"now"}`, nil},
		{"llama", "text", "{Rain}, I'd say.", "{Rain}, I'd say.", nil},
		{"llama", "a call", `{"name": "get_weather", "parameters": {"city": "Bonn"}}`, "", []call{bonn}},
		{"llama", "white space around", " \n{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Bonn\"}}\n ", "", []call{bonn}},
		{"llama", "a type, and arguments by another name", `{"type": "function", "name": "get_weather", "arguments": {"city": "Bonn"}}`, "", []call{bonn}},
		{"llama", "two", `{"name": "get_weather", "parameters": {"city": "Bonn"}}; {"name": "now", "parameters": {}}`, "", []call{bonn, {"now", "{}"}}},
		{"llama", "text behind", `{"name": "now", "parameters": {}} is it.`, `{"name": "now", "parameters": {}} is it.`, nil},
		{"llama", "text before", `It is {"name": "now", "parameters": {}}`, `It is {"name": "now", "parameters": {}}`, nil},
		{"llama", "other JSON", `{"city": "Bonn"}`, `{"city": "Bonn"}`, nil},
		{"mistral-ids", "text", "Rain [A].", "Rain [A].", nil},
		{"mistral-ids", "a call", `[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Bonn"}`, "", []call{bonn}},
		{"mistral-ids", "two behind text", `So:[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Bonn"}[TOOL_CALLS]now[CALL_ID]abcdefgh1[ARGS]{}`, "So:", []call{bonn, {"now", "{}"}}},
		{"mistral-ids", "an id that is none", `[TOOL_CALLS]now[CALL_ID]call_1[ARGS]{}`, "", []call{{"now", "{}"}}},
		{"mistral-named", "a call", `[TOOL_CALLS]get_weather[ARGS]{"city": "Bonn"}`, "", []call{bonn}},
		{"mistral-named", "two, and text behind", `[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{"city": "Bonn"} Done.`, " Done.", []call{{"now", "{}"}, bonn}},
		{"mistral-named", "white space, and a mark left out", "[TOOL_CALLS] now [ARGS] {}\n[TOOL_CALLS]get_weather{\"city\": \"Bonn\"}", "", []call{{"now", "{}"}, bonn}},
		{"mistral-named", "marks within a string", `[TOOL_CALLS]get_weather[ARGS]{"city":"[TOOL_CALLS]now[ARGS]{}"}`, "", []call{{"get_weather", `{"city":"[TOOL_CALLS]now[ARGS]{}"}`}}},
		{"mistral-named", "another function", `[TOOL_CALLS]rm[ARGS]{}`, `[TOOL_CALLS]rm[ARGS]{}`, nil},
		{"mistral-named", "no JSON", `[TOOL_CALLS]now[ARGS]{a}`, `[TOOL_CALLS]now[ARGS]{a}`, nil},
		{"mistral-named", "a word that is none", `[TOOL_CALLS]now[ARGS]{"a":nul}`, `[TOOL_CALLS]now[ARGS]{"a":nul}`, nil},
		{"mistral-named", "arguments that are no object", `[TOOL_CALLS]now[ARGS][]`, `[TOOL_CALLS]now[ARGS][]`, nil},
		{"mistral-named", "no name", `[TOOL_CALLS][ARGS]{}`, `[TOOL_CALLS][ARGS]{}`, nil},
		{"mistral-named", "an older list", `[TOOL_CALLS] [{"name":"now","arguments":{}}]`, `[TOOL_CALLS] [{"name":"now","arguments":{}}]`, nil},
		{"mistral-named", "one that ends too early", `[TOOL_CALLS]now[ARGS]{"a`, `[TOOL_CALLS]now[ARGS]{"a`, nil},
		{"mistral-named", "a name that ends too early", `[TOOL_CALLS]no`, `[TOOL_CALLS]no`, nil},
		{"mistral-named", "two ids", `[TOOL_CALLS]now[CALL_ID]a[CALL_ID]b[ARGS]{}`, `[TOOL_CALLS]now[CALL_ID]a[CALL_ID]b[ARGS]{}`, nil},
		{"qwen-coder", "text", "a < b, </parameter>", "a < b, </parameter>", nil},
		{"qwen-coder", "a call", elements("get_weather", "city", "Bonn"), "", []call{bonn}},
		{"qwen-coder", "two behind text", "Let me see.\n\n" + elements("get_weather", "city", "Bonn", "days", "2") + "\n" + elements("now"), "Let me see.",
			[]call{{"get_weather", `{"city": "Bonn", "days": 2}`}, {"now", "{}"}}},
		{"qwen-coder", "on one line", `<tool_call><function=get_weather><parameter=city>Bonn</parameter></function></tool_call>`, "", []call{bonn}},
		{"qwen-coder", "no markers around", "<function=get_weather>\n<parameter=city>\nBonn\n</parameter>\n</function>", "", []call{bonn}},
		{"qwen-coder", "no marker before", "So: <function=get_weather>\n<parameter=city>\nBonn\n</parameter>\n</function>\n</tool_call> x", "So: x", []call{bonn}},
		{"qwen-coder", "the last marker left out", "<tool_call>\n<function=now>\n</function>", "", []call{{"now", "{}"}}},
		{"qwen-coder", "lines, quotes and elements within a string", elements("get_weather", "city", "\n<b>\"</parameter>\n\n<function=now>\\é\t"), "",
			[]call{{"get_weather", `{"city": "\n<b>\"</parameter>\n\n<function=now>\\é\t"}`}}},
		{"qwen-coder", "an empty string", elements("get_weather", "city", ""), "", []call{{"get_weather", `{"city": ""}`}}},
		{"qwen-coder", "a string that looks like something else", elements("get_weather", "city", "null"), "", []call{{"get_weather", `{"city": "null"}`}}},
		{"qwen-coder", "a number that is none", elements("get_weather", "days", "two"), "", []call{{"get_weather", `{"days": "two"}`}}},
		{"qwen-coder", "an argument that the schema does not list", elements("get_weather", "when", "1"), "", []call{{"get_weather", `{"when": "1"}`}}},
		{"qwen-coder", "one twice", elements("get_weather", "city", "Ulm", "days", "1", "city", "Bonn"), "", []call{{"get_weather", `{"city": "Bonn", "days": 1}`}}},
		{"qwen-coder", "another function", elements("rm"), elements("rm"), nil},
		{"qwen-coder", "no function", "<tool_call>\nnow()\n</tool_call>", "<tool_call>\nnow()\n</tool_call>", nil},
		{"qwen-coder", "another end", "<tool_call><function=now></function>x", "<tool_call>x", []call{{"now", "{}"}}},
		{"qwen-coder", "a call behind what is none", "<tool_call>x" + elements("now"), "<tool_call>x", []call{{"now", "{}"}}},
		{"qwen-coder", "one that ends too early", "<tool_call>\n<function=get_weather>\n<parameter=city>\nBo", "<tool_call>\n<function=get_weather>\n<parameter=city>\nBo", nil},
		{"qwen-coder", "the beginning of a marker", "a <func", "a <func", nil},
		{"json", "a call", `{"name": "get_weather", "arguments": {"city": "Bonn"}}`, "", []call{bonn}},
		{"json", "by the other name", `{"name": "get_weather", "parameters": {"city": "Bonn"}}`, "", []call{bonn}},
	} {
		t.Run(c.family+"/"+c.name, func(t *testing.T) {
			f := formatOf(t, c.family)
			for _, size := range []int{1, 2, 7, 1000} {
				text, calls, ids := parse(t, f.NewParser(offer, false), c.answer, size)
				if text != c.text || !cmp.Equal(calls, c.calls) {
					t.Errorf("in pieces of %d: %q and %v, want %q and %v", size, text, calls, c.text, c.calls)
				}
				for i, id := range ids {
					if nine := len(id) == 9; nine != strings.HasPrefix(c.family, "mistral") || strings.Contains(c.answer, "abcdefgh1") && (i == 0) != (id == "abcdefgh1") {
						t.Errorf("id %q", id)
					}
				}
			}
		})
	}
}

func TestParsersWithoutOffersPassTextOn(t *testing.T) {
	for _, family := range families {
		const answer = "<tool_call>{\"name\":\"now\"}</tool_call> [TOOL_CALLS] [{\"name\":\"now\"}]"
		if text, calls, _ := parse(t, formatOf(t, family).NewParser(toolcall.Offer{}, false), answer, 3); text != answer || calls != nil {
			t.Errorf("%s: %q, %v", family, text, calls)
		}
	}
}

// TestConstrainedCallsAreHandedOnAsTheyAreWritten follows an answer of which a constraint
// says that it is calls.
func TestConstrainedCallsAreHandedOnAsTheyAreWritten(t *testing.T) {
	required := offer
	required.Required = true
	for family, answer := range map[string]string{
		"mistral-ids": `[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{"city": "Bo\"n"}[TOOL_CALLS]now[CALL_ID]abcdefgh2[ARGS]{}`,
		"qwen-coder":  elements("get_weather", "city", `Bo"n`) + "\n" + elements("now"),
		"hermes":      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bo\\\"n\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
		"mistral":     `[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Bo\"n"}}, {"name": "now", "arguments": {}}]`,
	} {
		f := formatOf(t, family)
		for _, size := range []int{1, 2, 7, 1000} {
			text, calls, _ := parse(t, f.NewParser(required, true), answer, size)
			if want := []call{{"get_weather", `{"city": "Bo\"n"}`}, {"now", "{}"}}; text != "" || !cmp.Equal(calls, want) {
				t.Errorf("%s in pieces of %d: %q, %v", family, size, text, calls)
			}
		}
		// Whatever the answer's length cuts off, no markup comes.
		for cut := range len(answer) {
			text, calls, _ := parse(t, f.NewParser(required, false), answer[:cut], 3)
			if text != "" {
				t.Errorf("%s, cut behind %q: %q", family, answer[:cut], text)
			}
			named := strings.Count(answer[:cut], `": {`) + strings.Count(answer[:cut], "[ARGS]{") + strings.Count(answer[:cut], "weather>") + strings.Count(answer[:cut], "now>")
			if len(calls) != named {
				t.Errorf("%s, cut behind %q: %v", family, answer[:cut], calls)
			}
		}
		// Arguments come before the call is complete.
		p := f.NewParser(required, false)
		first, begun := answer[:strings.Index(answer, "Bo")], `{"city": "`
		if family == "qwen-coder" {
			begun = `{"city": `
		}
		if pieces := p.Push(first); len(pieces) != 2 || pieces[0].Call.Name != "get_weather" || pieces[1].Call.Arguments != begun {
			t.Errorf("%s: the first pieces are %+v", family, pieces)
		}
	}
}

// TestTextFunctionsTakeTheirTextAsItIs has a text in every family's spelling, whole, in pieces,
// and cut off anywhere.
func TestTextFunctionsTakeTheirTextAsItIs(t *testing.T) {
	const text = "a \"b\"\n\\c\té 🙂 {<x>}"
	o := toolcall.Offer{Functions: []toolcall.Function{weather, toolcall.TextFunction("patch", "Patches.")}}
	if !o.Functions[1].IsText() || weather.IsText() {
		t.Error("which is a function of a text?")
	}
	arguments := string(toolcall.TextArguments(text))
	escaped := `{"input":"a \u0022b\"\u000a\\c\té \ud83d\uDE42 {<x>}"}`
	for family, answers := range map[string][]string{
		"hermes":      {"<tool_call>\n{\"name\": \"patch\", \"arguments\": " + arguments + "}\n</tool_call>", "<tool_call>\n{\"name\": \"patch\", \"arguments\": " + escaped + "}\n</tool_call>"},
		"mistral-ids": {"[TOOL_CALLS]patch[CALL_ID]abcdefgh1[ARGS]" + escaped}, "llama": {`{"name": "patch", "parameters": ` + escaped + "}"},
		"qwen-coder": {elements("patch", "input", text)},
	} {
		f := formatOf(t, family)
		for _, answer := range answers {
			for _, structured := range []bool{false, true} { // Where it is a choice, and where not.
				for _, size := range []int{1, 3, 1000} {
					said, calls, _ := parse(t, f.NewParser(o, structured), answer, size)
					if want := []call{{"patch", text}}; said != "" || !cmp.Equal(calls, want) {
						t.Errorf("%s in pieces of %d: %q and %q", family, size, said, calls)
					}
				}
				for end := range len(answer) {
					p := f.NewParser(o, structured)
					come := ""
					for _, piece := range append(p.Push(answer[:end]), p.Flush(true)...) {
						if piece.Call != nil {
							come += piece.Call.Arguments
						}
					}
					if come = strings.TrimRight(come, "\ufffd"); !strings.HasPrefix(text, come) { // A character that is cut, too.
						t.Errorf("%s, cut behind %q: %q", family, answer[:end], come)
					}
				}
			}
		}
	}
	for _, bad := range []string{`{}`, `{"input": 1}`, `{"text": "x"}`, `{"input": "x", "y": "z"}`} {
		answer := `{"name": "patch", "parameters": ` + bad + `}`
		if said, calls, _ := parse(t, formatOf(t, "llama").NewParser(o, true), answer, 9); said != answer || len(calls) > 0 {
			t.Errorf("%s is read as %q and %v", answer, said, calls)
		}
	}
}

// FuzzParser gives every parser whatever comes, in pieces of any size: it loses nothing but
// white space of what is no call, hands on well-formed calls alone, and the pieces' size makes
// no difference.
func FuzzParser(f *testing.F) {
	for _, seed := range []string{
		"<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", `[TOOL_CALLS] [{"name":"now","arguments":{"a":[1,{"b":null}]}}]`,
		`{"name":"now","parameters":{}};{"name":"now"}`, "<tool_call><tool_call>{\"name\":\"now\"}", `{"name":"\u006eow","name":1}`, "a <tool_call>{\"\\", `[TOOL_CALLS][[[`,
		`[TOOL_CALLS]now[CALL_ID]abcdefgh1[ARGS]{"a":1}[TOOL_CALLS]now{}`, "<function=now></function></tool_call>", "<tool_call><function=get_weather><parameter=days>[</parameter>\n\n</function>",
		elements("get_weather", "city", "\n\xe2\x82", "days", "2", "x", "{\"</parameter>\"}", "city", ""),
		`{"name":"now","arguments":{}}`, "\xff<tool_call>{\"\xfe\":1}</tool_call>",
	} {
		f.Add(seed, 1)
		f.Add(seed, 5)
	}
	formats := map[string]*toolcall.Format{}
	for _, family := range families {
		formats[family] = formatOf(f, family)
	}
	f.Fuzz(func(t *testing.T, answer string, size int) {
		size = max(size%64, 1)
		for family, format := range formats {
			text, calls, _ := parse(t, format.NewParser(offer, false), answer, size)
			again, callsAgain, _ := parse(t, format.NewParser(offer, false), answer, len(answer)+1)
			if text != again || !cmp.Equal(calls, callsAgain) {
				t.Errorf("%s: in pieces of %d %q and %v, whole %q and %v", family, size, text, calls, again, callsAgain)
			}
			for _, c := range calls {
				var arguments map[string]any
				if err := json.Unmarshal([]byte(c.Arguments), &arguments); err != nil || c.Name != "get_weather" && c.Name != "now" {
					t.Errorf("%s: call %+v: %v", family, c, err)
				}
			}
			if len(calls) == 0 && text != answer {
				t.Errorf("%s: %q becomes %q", family, answer, text)
			}
			// Never panics, even so.
			required := offer
			required.Required = true
			required.Functions = append(slices.Clone(offer.Functions), toolcall.TextFunction("patch", ""))
			parse(t, format.NewParser(required, false), answer, size)
			for _, structured := range []bool{true, false} {
				p := format.NewParser(required, structured)
				p.Push(answer[:len(answer)/2])
				p.Push(answer[len(answer)/2:])
				p.Flush(true)
			}
		}
	})
}
