package reward

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheProgramIsFoundInWhatModelsWrite(t *testing.T) {
	const program = "def f(x):\n    return 2 * x\n"
	ref := Reference{Tests: []string{"assert f(2) == 4", "assert sorted([f(1)]) == [2]"}}
	tests := []struct{ name, answer, want string }{
		{"a program alone", program, program},
		{"in a block", "Sure!\n```python\n" + program + "```\nDone.", program},
		{"in a block without a language", "```\n" + program + "```", program},
		{"in a block of tildes", "~~~py\n" + program + "~~~", program},
		{"in a block that is cut off", "```python\n" + program, program},
		{"in a block that ends on the last line", "```python\ndef f(x): return x```\nDone.", "def f(x): return x\n"},
		{"in a block of a list", "1. So:\n   ```python\n   def f(x):\n       return 2 * x\n   ```\n", program},
		{"after a shell line", "```sh\npip install x\n```\nThen\n```python\n" + program + "```", program},
		{"before an example", "```python\n" + program + "```\nFor example:\n```python\nprint(f(2))\n```", program},
		{"after a first try", "```python\ndef f(x): return 1\n```\nBetter:\n```python\n" + program + "```", program},
		{"after a longer block that does not define it", "```python\ndef g(x): return 1\n\ndef h(x): return 2\n```\n```python\n" + program + "```\n```\ndef g(): pass\n```", program},
		{"after thoughts", "<think>I could write\n```python\ndef f(x): return 0\n```\n</think>\n```python\n" + program + "```", program},
		{"between BEGIN and DONE", "[BEGIN]\n" + program + "[DONE]\nand more", "\n" + program},
		{"behind BEGIN, not done", "[BEGIN]" + program, program},
		{"in a block between BEGIN and DONE", "[BEGIN]\n```python\n" + program + "```\n[DONE]", program},
		{"among sentences", "Here is the function:\n\n" + program + "\nThis function doubles a number.\n", program + "\n"[:0]},
		{"before a fence that the prompt has opened", program + "```\nIt works.", program},
		{"in the tag of reasoning models", "I think so.\n<answer>\n" + program + "</answer>", program},
		{"in a block in the tag", "<answer>\n```python\n" + program + "```\n</answer>", program},
		{"with a tag in a text", "def f(x): return '<answer>1</answer>'\n", "def f(x): return '<answer>1</answer>'\n"},
		{"before a heading", program + "\nExplanation:\nThe function doubles.", program},
		{"with a comment of text first", "# This Works well\n" + program, "# This Works well\n" + program},
		{"with a text of several lines", "def f(x):\n    '''\nDoubles a number.\n    '''\n    return 2 * x\n", "def f(x):\n    '''\nDoubles a number.\n    '''\n    return 2 * x\n"},
		{"with ends of line of Windows", strings.ReplaceAll("```python\n"+program+"```", "\n", "\r\n"), program},
		{"a lambda", "```python\nf = lambda x: 2 * x\n```\n```\nf(2)\n```", "f = lambda x: 2 * x\n"},
		{"nothing that is known", "```\na\n```\n```\nb\n```", "b\n"},
		{"another name, the last that defines", "```\ndef g(): pass\n```\n```\nb\n```", "def g(): pass\n"},
		{"no program", "I am not sure.", "I am not sure."},
		{"nothing", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := Code(test.answer, ref)
			if diff := cmp.Diff(strings.TrimRight(test.want, "\n"), strings.TrimRight(got, "\n")); diff != "" {
				t.Errorf("Code(%q) differs (-want +got):\n%s", test.answer, diff)
			}
		})
	}
}

func TestTheNamesThatTestsExpect(t *testing.T) {
	tests := []struct {
		ref  Reference
		want []string
	}{
		{Reference{Tests: []string{"assert f(1) == g(2)", "assert f(2)"}}, []string{"f", "g"}},
		{Reference{Tests: []string{"assert set(f(1)) == set([1])", "assert not(f(2))"}}, []string{"f"}},
		{Reference{Tests: []string{"assert sum(10,15) == 6"}}, []string{"sum"}},
		{Reference{Tests: []string{"assert math.isclose(area(2), 4.0, rel_tol=0.01)"}}, []string{"area"}},
		{Reference{EntryPoint: "h", Tests: []string{"def check(candidate): pass"}}, []string{"h"}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, subjects(test.ref)); diff != "" {
			t.Errorf("subjects(%+v) differs (-want +got):\n%s", test.ref, diff)
		}
	}
}

func TestAnAnswerToHumanEvalGoesOnOrIsWhole(t *testing.T) {
	const head = "import math\n\ndef helper(x):\n    return x + 1\n\n\n"
	const start = "def f(x: int):\n    \"\"\" Doubles. >>> f(2)\n    4\n    \"\"\"\n"
	ref := Reference{EntryPoint: "f", Prompt: head + start, Tests: []string{"def check(candidate):\n  assert candidate(2) == 4"}}
	goesOn := strings.TrimRight(head+start, "\n") + "\n"
	tests := []struct{ name, answer, want string }{
		{"the rest of the body", "    y = x\n    return x + y\n", goesOn + "    y = x\n    return x + y\n"},
		{"without its first blanks", "y = x\n    return x + y", goesOn + "    y = x\n    return x + y\n"},
		{"without any blanks", "y = x\nreturn x + y", goesOn + "    y = x\n    return x + y\n"},
		{"a block of the rest without blanks", "```python\nif x:\n    return 2 * x\nreturn 0\n```", goesOn + "    if x:\n        return 2 * x\n    return 0\n"},
		{"more than the rest", "    return 2 * x\n\ndef main():\n    f(1)\n\nprint(f(2))", goesOn + "    return 2 * x\n\n"},
		{"a whole function", "```python\ndef f(x):\n    return 2 * x\n```", head + "\ndef f(x):\n    return 2 * x\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, got, setup := assemble(test.answer, ref)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("the program differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(strings.TrimSpace(head), setup); diff != "" {
				t.Errorf("the tests' set-up differs (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzCode(f *testing.F) {
	for _, seed := range []string{
		"```python\ndef f(x): pass\n```", "~~~\nx", "[BEGIN]x[DONE]", "<think>a</think>b", "```", "a```b```c", "   ```py\n x```\n", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		for _, ref := range []Reference{{Tests: []string{"assert f(1)"}}, {EntryPoint: "f", Prompt: "def f(x):\n"}, {}} {
			extracted, _, _ := assemble(answer, ref)
			// At most an indentation of each line is added, and a line's end.
			if limit := len(answer) + 4*(strings.Count(answer, "\n")+1) + 4; len(extracted) > limit {
				t.Errorf("%d bytes were taken for the program of %d bytes", len(extracted), len(answer))
			}
		}
	})
}
