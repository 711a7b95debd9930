package reward

import (
	"context"
	"errors"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/judge"
)

func TestAnswersAreJudged(t *testing.T) {
	tests := []struct {
		name   string
		kind   string
		ref    Reference
		answer string
		want   bool
	}{
		{name: "the number after the mark counts", kind: contract.RewardNumeric,
			ref: Reference{Answer: "2+3=5\n#### 5"}, answer: "It is 2+3 = 5.\n#### 5", want: true},
		{name: "the number after the first mark counts", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 5"}, answer: "#### 5\nAnd if one more?\n#### 6", want: true},
		{name: "a mark without a number does not count", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 5"}, answer: "#### 5\n####", want: true},
		{name: "a heading is no mark", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 2"}, answer: "#### Step 2: add\nThe answer is 72.", want: false},
		{name: "a numbered heading is no mark", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 7"}, answer: "#### 2. Add 3 and 4\nIt is 7", want: true},
		{name: "a box counts before the sentence", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 7"}, answer: "The answer is 6, no: \\boxed{7}", want: true},
		{name: "the sentence counts before the mark", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 7"}, answer: "#### 6\nThe answer is 7.", want: true},
		{name: "a fraction is a number", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 0.75"}, answer: "The answer is $\\frac{3}{4}$", want: true},
		{name: "commas that separate no thousands separate numbers", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 20"}, answer: "They are 10,20", want: true},
		{name: "digits of a word are no number", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 3"}, answer: "3 grams of H2O", want: true},
		{name: "thoughts are no answer", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 3"}, answer: "<think>The answer is 3.</think> It is 4", want: false},
		{name: "without a mark the last number counts", kind: contract.RewardNumeric,
			ref: Reference{Answer: "5"}, answer: "First 7, then 5.", want: true},
		{name: "without a mark an earlier number does not count", kind: contract.RewardNumeric,
			ref: Reference{Answer: "7"}, answer: "First 7, then 5.", want: false},
		{name: "thousands' commas are tolerated", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 1,234,567"}, answer: "#### 1234567", want: true},
		{name: "currency and a trailing dot are tolerated", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 18"}, answer: "#### $18.", want: true},
		{name: "equal decimals are equal", kind: contract.RewardNumeric,
			ref: Reference{Answer: "2.50"}, answer: "#### 2.5", want: true},
		{name: "a near miss is a miss", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 0.1"}, answer: "#### 0.10000000000000001", want: false},
		{name: "a negative number keeps its sign", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### -3"}, answer: "so it is -3", want: true},
		{name: "a negative amount keeps its sign", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### -3"}, answer: "so we lost: -$3", want: true},
		{name: "a difference is not a negative number", kind: contract.RewardNumeric,
			ref: Reference{Answer: "4"}, answer: "7-4", want: true},
		{name: "the sign after the mark counts", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 3"}, answer: "####-3", want: false},
		{name: "no number is wrong", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 5"}, answer: "five", want: false},
		{name: "an empty answer is wrong", kind: contract.RewardNumeric, ref: Reference{Answer: "#### 0"}, want: false},

		{name: "what the answer is not is no answer", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 72"}, answer: "The answer is not 60, it is 72.", want: true},
		{name: "a check after the answer is no answer", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 5"}, answer: "The answer is 5. To check: 5*3=15 and 15+4=19.", want: true},
		{name: "a check that is right by chance does not count", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 19"}, answer: "The answer is 5. To check: 5*3=15 and 15+4=19.", want: false},
		{name: "an abbreviation ends no sentence that has a number", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 72"}, answer: "The answer is approx. 72.", want: true},
		{name: "the tag of reasoning models", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 42"}, answer: "<answer>\n42\n</answer>\nwhich took 3 steps", want: true},
		{name: "a box counts before the tag", kind: contract.RewardNumeric,
			ref: Reference{Answer: "#### 42"}, answer: "\\boxed{42}<answer>41</answer>", want: true},
		{name: "the tag around a text", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "Paris"}, answer: "It is in France.\n<answer> Paris </answer>", want: true},
		{name: "the tag around another text", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "Paris"}, answer: "Paris\n<answer>Rome</answer>", want: false},
		{name: "the tag around mathematics", kind: contract.RewardMath,
			ref: Reference{Answer: "\\frac{1}{2}"}, answer: "<answer>\\frac{1}{2}</answer>", want: true},
		{name: "a calculation ends in its result", kind: contract.RewardMath,
			ref: Reference{Answer: "42"}, answer: "The answer is $6 \\times 7 = 42$.", want: true},
		{name: "a calculation that is wrong has no result", kind: contract.RewardMath,
			ref: Reference{Answer: "42"}, answer: "The answer is $6 \\times 8 = 42$.", want: false},
		{name: "one of two is no answer", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: "The answer is 3 or $5$", want: false},
		{name: "one of two in a last line is no answer", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: "So it is $3$ or $5$", want: false},
		{name: "the last of a sentence is one", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: "Since $x = 3$, we get $5$", want: true},
		{name: "a tag with a letter", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "<answer>B</answer>, not D", want: true},
		{name: "the best choice", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "C", Choices: 4}, answer: "The best choice is **C) a magnet**, because A and B are not metal.", want: true},
		{name: "the most likely one", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "A", Choices: 4}, answer: "The most likely one is A) evaporation, while B) melting requires ice.", want: true},
		{name: "a small letter and nothing else", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "D", Choices: 4}, answer: "d", want: true},
		{name: "a small letter in brackets", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "(b).", want: true},
		{name: "what it is decides before what is plausible", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "I think it's B, although A is plausible.", want: true},
		{name: "what is chosen", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "D", Choices: 4}, answer: "I choose option D over A", want: true},
		{name: "what is chosen is no article", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "C", Choices: 4}, answer: "It is A dog that barks: C", want: true},
		{name: "neither nor is no praise", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "A", Choices: 4}, answer: "Neither B nor C nor D is right; A.", want: true},
		{name: "it can only be", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "C", Choices: 4}, answer: "The answer can only be C, since vitamin A is for eyes.", want: true},
		{name: "it is not", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "The answer is not A but B", want: true},

		{name: "a bare letter", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "B", want: true},
		{name: "a letter and its text", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "B. a cat", want: true},
		{name: "a letter in brackets", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "C", Choices: 4}, answer: "It must be (C)!", want: true},
		{name: "the last letter decides", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "Not C but B", want: true},
		{name: "a small letter after the words names a choice", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "A", Choices: 4}, answer: "the answer is a.", want: true},
		{name: "a label beats a letter in the text of the choice", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "C", Choices: 4}, answer: "C. A lack of vitamin D", want: true},
		{name: "thoughts name no choice", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "<think>The answer is B.</think>C", want: false},
		{name: "a stated answer decides before the first letter", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "Not C. The answer is B.", want: true},
		{name: "a stated answer may be in brackets", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "D", Choices: 4}, answer: "answer: (D) a fish", want: true},
		{name: "the article is no answer", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "A", Choices: 4}, answer: "A cat is an animal", want: false},
		{name: "the article does not hide the answer", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "A cat is an animal, so B", want: true},
		{name: "the article after the words is no answer", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "A", Choices: 4}, answer: "The answer is a cat", want: false},
		{name: "a letter inside a word is no answer", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 4}, answer: "Bob did", want: false},
		{name: "a letter that was not offered is no answer", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 2}, answer: "D, no: B", want: true},
		{name: "letters side by side are found one after another", kind: contract.RewardMultipleChoice,
			ref: Reference{Answer: "B", Choices: 2}, answer: "Z B", want: true},

		{name: "the last mathematics of the last line counts", kind: contract.RewardMath,
			ref: Reference{Answer: `\frac{1}{2}`}, answer: "First $3$.\nSo, for $x=2$, we get $0.5$.", want: true},
		{name: "the box beats the sentence", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: `The answer is $6$, or \boxed{5}.`, want: true},
		{name: "a list in pieces is one answer", kind: contract.RewardMath,
			ref: Reference{Answer: "1,-2"}, answer: "The answer is $-2$ and $1$.", want: true},
		{name: "an amount is no mathematics", kind: contract.RewardMath,
			ref: Reference{Answer: `\$18.90`}, answer: "The answer is \\$18.90.", want: true},
		{name: "a display counts", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: "The answer is:\n\\[\n5\n\\]", want: true},
		{name: "other mathematics is wrong", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: "The answer is $6$, not $5$.", want: false},
		{name: "a box of several lines is read whole", kind: contract.RewardMath,
			ref:    Reference{Answer: `\begin{pmatrix} 1 \\ 2 \end{pmatrix}`},
			answer: "\\[\\boxed{\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}}\\]", want: true},
		{name: "a box is not cut at a full stop", kind: contract.RewardMath,
			ref: Reference{Answer: `\text{St. Louis}`}, answer: `It is \boxed{\text{St. Louis}}.`, want: true},
		{name: "mathematics in the sentence counts", kind: contract.RewardMath,
			ref: Reference{Answer: "(2,3)"}, answer: "The answer is the interval $(2,3)$.", want: true},
		{name: "a hedge is no part of the answer", kind: contract.RewardMath,
			ref: Reference{Answer: "5.4"}, answer: "The answer is approximately 5.4.", want: true},
		{name: "an invented question is not the answer's", kind: contract.RewardMath,
			ref: Reference{Answer: "5"}, answer: "The answer is $5$.\n\nProblem:\nAnd?\n\nThe answer is $6$.", want: true},

		{name: "blanks do not matter", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "hello  world"}, answer: " hello\nworld ", want: true},
		{name: "case matters", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "Hello"}, answer: "hello", want: false},
		{name: "a boxed answer counts", kind: contract.RewardExactMatch,
			ref: Reference{Answer: `\frac{1}{2}`}, answer: `so it is \boxed{\frac{1}{2}}.`, want: true},
		{name: "the last box counts", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "2"}, answer: `\boxed{2} or \boxed{3}`, want: false},
		{name: "what comes after the thoughts counts", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "hello"}, answer: "<think>\nhm\n</think>\n\nhello", want: true},
		{name: "an open box does not count", kind: contract.RewardExactMatch,
			ref: Reference{Answer: "2"}, answer: `\boxed{2`, want: false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			judge, err := New(test.kind, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := judge.Check(test.ref); err != nil {
				t.Fatalf("Check refused a good reference: %v", err)
			}
			got, err := judge.Judge(t.Context(), test.answer, test.ref)
			if err != nil || got.Right != test.want {
				t.Errorf("Judge(%q) = %v, %v, want %v", test.answer, got, err, test.want)
			}
		})
	}
}

func TestReferencesThatNoAnswerCouldMeetAreRefused(t *testing.T) {
	tests := []struct {
		name, kind string
		ref        Reference
	}{
		{"no number", contract.RewardNumeric, Reference{Answer: "five"}},
		{"nothing to compare", contract.RewardMath, Reference{Answer: "$ $"}},
		{"no letter", contract.RewardMultipleChoice, Reference{Answer: "the second", Choices: 4}},
		{"a letter not offered", contract.RewardMultipleChoice, Reference{Answer: "E", Choices: 4}},
		{"nothing", contract.RewardExactMatch, Reference{Answer: " \n"}},
		{"no tests", contract.RewardUnitTests, Reference{}},
		{"empty tests", contract.RewardUnitTests, Reference{Tests: []string{" \n"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			judge, err := New(test.kind, nil)
			if err != nil {
				t.Fatal(err)
			}
			if judge.Check(test.ref) == nil {
				t.Errorf("Check accepted %+v", test.ref)
			}
		})
	}
	if _, err := New("Guess", nil); err == nil {
		t.Error("an unknown reward was accepted")
	}
}

func TestJudgingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	programs, err := judge.New(judge.Options{Command: []string{"/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{contract.RewardNumeric, contract.RewardUnitTests} {
		judge, err := New(kind, programs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := judge.Judge(ctx, "1", Reference{Answer: "1", Tests: []string{"assert 1"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s returned %v, want context.Canceled", kind, err)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	for _, s := range []string{"", "#### 5", "A. x", "\\boxed{{}", "```python\nx\n```", "assert (1)", "−$1,2.3", "####", "B\xff",
		"The answer is $x$.", "**Answer:** \\(1\\)", "</think>A", "\n#### $1,000.5 hours", "\\$ $$", "Question: 1", "\\frac{1}{2}/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, _, ok := Number(s); ok && n == nil {
			t.Errorf("Number(%q) is a number and none", s)
		}
		if c, _, ok := Letter(s, 4); ok && (c < 'A' || c > 'D') {
			t.Errorf("Letter(%q) = %q, which was not offered", s, c)
		}
		if c, _, ok := Letter(s, 0); ok && (c < 'A' || c > 'Z') {
			t.Errorf("Letter(%q) = %q", s, c)
		}
		if v := judgeMath(s, Reference{Answer: `\frac{1}{2}`}); v.Right && v.Extracted == "" {
			t.Errorf("nothing in %q is right", s)
		}
		judgeExact(s, Reference{Answer: s})
		if b, ok := Boxed(s); ok && len(b) >= len(s) {
			t.Errorf("Boxed(%q) = %q", s, b)
		}
	})
}
