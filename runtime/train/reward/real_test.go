package reward

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/reward/latex"
)

// realSet reads the objects of a published data set. The folder is not part of
// the repository.
func realSet[T any](t *testing.T, file string) (records []T) {
	t.Helper()
	shared := os.Getenv("T2_SHARED_DATA")
	if shared == "" {
		t.Skip("T2_SHARED_DATA is not set: it names the folder with datasets/" + file)
	}
	f, err := os.Open(filepath.Join(shared, "datasets", file))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r T
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	if err := lines.Err(); err != nil || len(records) == 0 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	return records
}

// shape is a way in which models write an answer.
type shape struct {
	name  string
	write func(gold string) string
}

// around is a shape that puts a text around the answer.
func around(before, after string) shape {
	return shape{before + "…" + after, func(gold string) string { return before + gold + after }}
}

// rightOf counts the right verdicts about gold answers in a shape.
func rightOf(t *testing.T, kind string, s shape, golds []string, refs []Reference) (right int, wrong []string) {
	t.Helper()
	judge, err := New(kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, gold := range golds {
		v, err := judge.Judge(t.Context(), s.write(gold), refs[i])
		if err != nil {
			t.Fatal(err)
		}
		if v.Right {
			right++
		} else {
			wrong = append(wrong, s.write(gold)+" ["+v.Extracted+"]")
		}
	}
	return right, wrong
}

// mustAllBeRight reports a row of the table: reward, shape, right of n.
func mustAllBeRight(t *testing.T, kind string, shapes []shape, golds []string, refs []Reference) {
	t.Helper()
	for _, s := range shapes {
		right, wrong := rightOf(t, kind, s, golds, refs)
		t.Logf("%s | %s | %d of %d", kind, strings.ReplaceAll(s.name, "\n", `\n`), right, len(golds))
		if len(wrong) > 0 {
			t.Errorf("%s, %q: %d of %d right, wrong are %q", kind, s.name, right, len(golds), wrong[:min(len(wrong), 10)])
		}
	}
}

func TestChoicesOfARCInTheShapesOfModels(t *testing.T) {
	type question struct {
		Choices struct{ Text []string }
		Key     string `json:"answerKey"`
	}
	var golds []string
	var refs []Reference
	for _, file := range []string{"arc/ARC-Challenge-Test.jsonl", "arc/ARC-Easy-Test.jsonl"} {
		for _, q := range realSet[question](t, file) {
			golds = append(golds, q.Key)
			refs = append(refs, Reference{Answer: q.Key, Choices: len(q.Choices.Text)})
		}
	}
	if len(golds) != 3548 {
		t.Errorf("%d questions, want 3548", len(golds))
	}
	mustAllBeRight(t, contract.RewardMultipleChoice, []shape{
		around("", ""), around("", "."), around("(", ")"), around("**", "**"), around("The answer is ", "."),
		around("The answer is ", " because it fits."), around("The answer is (", ") as said."), around("", " is correct."),
		around("Option ", " is right."), around("", "\nbecause it fits."), around("Answer: ", ""), around("**Answer:** ", " fits best"),
		around("So it is $\\boxed{\\text{", "}}$."), around("<think>\nIs the answer D or A? The answer is B.\n</think>\n\nThe answer is ", "."),
		around("Option A is about heat. Option B is about light. Therefore, the answer is ", "."),
		around("Option A is wrong because it is cold. Option B is also wrong. The answer is ", "."),
		around("A dog needs air. C is no gas. The correct answer is option ", "."),
		around("", ". A plant grows"), around("Let us see.\n", ") A rock is heavier than B or D"),
		around("I would go for ", " since it fits."), around("The answer is **", "**.\n\nQuestion: Which?\nThe answer is D."),
	}, golds, refs)
	// The whole choice, as the question gives it.
	for _, file := range []string{"arc/ARC-Challenge-Test.jsonl", "arc/ARC-Easy-Test.jsonl"} {
		for _, q := range realSet[question](t, file) {
			text := q.Choices.Text[q.Key[0]-'A']
			for _, answer := range []string{q.Key + ". " + text, "The answer is " + q.Key + ": " + text, "(" + q.Key + ") " + text} {
				if letter, how, _ := Letter(answer, len(q.Choices.Text)); string(letter) != q.Key {
					t.Errorf("%q: %c (%s), want %s", answer, letter, how, q.Key)
				}
			}
		}
	}
}

func TestNumbersOfGSM8KInTheShapesOfModels(t *testing.T) {
	type question struct{ Answer string }
	var golds []string
	var refs []Reference
	plain := func(s string) string { return strings.ReplaceAll(s, ",", "") }
	var whole []string
	for _, q := range realSet[question](t, "gsm8k/test.jsonl") {
		_, gold, _ := strings.Cut(q.Answer, "#### ")
		golds, refs, whole = append(golds, gold), append(refs, Reference{Answer: q.Answer}), append(whole, q.Answer)
	}
	if len(golds) != 1319 {
		t.Errorf("%d questions, want 1319", len(golds))
	}
	mustAllBeRight(t, contract.RewardNumeric, []shape{around("", "")}, whole, refs)
	mustAllBeRight(t, contract.RewardNumeric, []shape{
		around("", ""), {"without commas", plain}, {"with .00", func(s string) string { return "It is " + s + ".00" }},
		around("#### ", ""), around("3 + 4 = 7\n#### ", "\n\nQuestion: And if 5 more?\n6\n#### 6"), around("#### ", "\n####"),
		around("####", "."), around("#### $", ""), around("#### ", " hours"), around("The answer is ", "."), around("The answer is $", "."),
		around("#### Step 2: add 3 and 4\nThe answer is ", "."), around("#### 2. Add 3 and 4\nThe answer is: **", "**"),
		around("", " hours (rounded to 0 decimals)"), around("The answer is ", " hours (rounded to 0 decimals)."),
		around("So 5 of 7 remain: \\boxed{", "}."), around("$\\boxed{\\$", "\\text{ dollars}}$ for 2 people"), around("Answer: ", "%"),
		around("### Final answer\n", " apples"), around("<think>The answer is 5.</think> The answer is ", ", for 2 people."),
		around("The final answer is 17 + 1 = ", "."), around("The answer is ", ".\n\nQuestion: And 5 more?\nThe answer is 6."),
	}, golds, refs)
}

// mathShapes are the shapes of MATH's gold answers that mean the same.
func mathShapes() []shape {
	frac := regexp.MustCompile(`(^|\d)?\\d?frac\{([^{}]+|\\sqrt\{\d+\})\}\{([^{}]+)\}`)
	sums := regexp.MustCompile(`^.*[+a-z ].*$`)
	grouped := func(s string) string {
		if sums.MatchString(s) && !strings.HasPrefix(s, `\`) {
			return "(" + s + ")"
		}
		return s
	}
	whole := regexp.MustCompile(`^-?\d+$`)
	return []shape{
		around("", ""), around("$", "$"), around("$", "$."), around(`\boxed{`, "}"), around("So we get\n$$\\boxed{", "}.$$\nDone."),
		around("The answer is $", "$."), around("Final Answer: The final answer is $", "$. I hope it is correct."),
		around("**Final Answer**\n\n\\[ \\boxed{", "} \\]"), around("\\fbox{", "}"), around("The answer is: ", ""), around("Answer: $", "$"),
		around("Thus the value is $", "$."), around("<think>Is it $\\boxed{17}$?</think>The answer is \\(", "\\)."),
		{"frac as dfrac", func(s string) string {
			return strings.ReplaceAll(strings.ReplaceAll(s, `\dfrac`, `\frac`), `\frac`, `\dfrac`)
		}},
		{"frac as tfrac", func(s string) string {
			return strings.ReplaceAll(strings.ReplaceAll(s, `\dfrac`, `\frac`), `\frac`, `\tfrac`)
		}},
		{"without blanks", func(s string) string { return strings.ReplaceAll(s, " ", "") }},
		{"a/b", func(s string) string {
			return frac.ReplaceAllStringFunc(s, func(m string) string {
				parts := frac.FindStringSubmatch(m)
				return parts[1] + strings.Repeat(" ", len(parts[1])) + grouped(parts[2]) + "/" + grouped(parts[3])
			})
		}},
		{"thousands' commas", func(s string) string {
			if !whole.MatchString(s) {
				return s
			}
			for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
				s = s[:i] + "," + s[i:]
			}
			return s
		}},
		{"9.0", func(s string) string {
			if whole.MatchString(s) {
				return s + ".0"
			}
			return s
		}},
		{"without \\left and \\right", strings.NewReplacer(`\left`, "", `\right`, "").Replace},
		{"x = …", func(s string) string {
			if whole.MatchString(s) {
				return "x = " + s
			}
			return s
		}},
		{"in a sentence with a box", func(s string) string { return "Since $x=2$, we have $y = \\boxed{" + s + "}$, as $3<4$." }},
	}
}

func mathGolds(t *testing.T) (golds []string, refs []Reference) {
	for _, q := range realSet[struct{ Answer string }](t, "math/math500.jsonl") {
		golds, refs = append(golds, q.Answer), append(refs, Reference{Answer: q.Answer})
	}
	return golds, refs
}

func TestAnswersOfMATHInTheShapesOfModels(t *testing.T) {
	golds, refs := mathGolds(t)
	mustAllBeRight(t, contract.RewardMath, mathShapes(), golds, refs)
	for _, gold := range golds {
		if !latex.Valid(gold) {
			t.Errorf("%q cannot be read", gold)
		}
	}
}

// TestOtherAnswersOfMATHAreWrong judges every question by the answers of the
// questions after it whose normal form is another. Right may be only what says
// for x what the other says by itself, and what names a unit.
func TestOtherAnswersOfMATHAreWrong(t *testing.T) {
	golds, refs := mathGolds(t)
	judge, err := New(contract.RewardMath, nil)
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`^[a-z]=|\\mbox\{.*$`)
	bare := func(s string) string { return named.ReplaceAllString(s, "") }
	var pairs, right int
	for i, gold := range golds {
		for j := 1; j <= 40; j++ {
			other := golds[(i+j)%len(golds)]
			if latex.Normal(other) == latex.Normal(gold) {
				continue
			}
			pairs++
			v, err := judge.Judge(t.Context(), "The answer is $"+other+"$.", refs[i])
			if err != nil {
				t.Fatal(err)
			}
			if v.Right {
				right++
				t.Logf("%s is right for %s", other, gold)
				if bare(other) != bare(gold) {
					t.Errorf("%s is judged right for %s", other, gold)
				}
			}
		}
	}
	t.Logf("%d of %d pairs of answers with different normal forms were judged right", right, pairs)
}
