package reward

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/judge"
)

// workerArgument turns this test binary into a process that runs programs.
const workerArgument = "judge-worker"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == workerArgument {
		fmt.Fprintln(os.Stderr, judge.Confine(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func newUnitTests(t *testing.T) *UnitTests {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs, err := judge.New(judge.Options{Command: []string{exe, workerArgument}})
	if err != nil {
		t.Fatal(err)
	}
	u := NewUnitTests(programs)
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func TestProgramsAreJudgedByTheirTests(t *testing.T) {
	double := Reference{Tests: []string{"assert f(2) == 4", "assert f(-1) == -2"}}
	tests := []struct {
		name, answer string
		ref          Reference
		want         Verdict
	}{
		{"a right program", "Sure!\n```python\ndef f(x):\n    return 2*x\n```", double,
			Verdict{Right: true, Extracted: "def f(x):\n    return 2*x\n", Why: "all tests passed"}},
		{"a wrong program", "def f(x): return 4", double,
			Verdict{Extracted: "def f(x): return 4", Why: "f(-1) is 4, not -2"}},
		{"prose", "I am not sure.", double,
			Verdict{Extracted: "I am not sure.", Why: "SyntaxError: invalid syntax (<answer>, line 1), in: I am not sure."}},
		{"nothing", "", double, Verdict{Why: "NameError: name 'f' is not defined, in: assert f(2) == 4"}},
		{"set-up that needs the answer's class", "class Node:\n  def __init__(self, v): self.v = v\ndef f(n): return n.v",
			Reference{Setup: "root = Node(3)", Tests: []string{"assert f(root) == 3"}},
			Verdict{Right: true, Extracted: "class Node:\n  def __init__(self, v): self.v = v\ndef f(n): return n.v", Why: "all tests passed"}},
		{"a helper of the prompt's that the answer makes useless", "def near(x): return 0\ndef f(x): return 7",
			Reference{EntryPoint: "f", Prompt: "def near(x):\n  return abs(x - 4)\n\ndef f(x):\n", Tests: []string{"def check(g):\n  assert near(g(2)) < 1"}},
			Verdict{Extracted: "def near(x): return 0\ndef f(x): return 7", Why: "a test failed, in: assert near(g(2)) < 1"}},
	}
	u := newUnitTests(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := u.Check(test.ref); err != nil {
				t.Fatalf("Check refused good tests: %v", err)
			}
			got, err := u.Judge(t.Context(), test.answer, test.ref)
			if err != nil || got != test.want {
				t.Errorf("Judge = %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
	for _, ref := range []Reference{{}, {Tests: []string{" "}}, {Answer: "x"}} {
		if err := u.Check(ref); err == nil {
			t.Errorf("Check took %+v", ref)
		}
	}
}

func TestWithoutARunnerNothingIsJudged(t *testing.T) {
	u := NewUnitTests(nil)
	if _, err := u.Judge(t.Context(), "x", Reference{Tests: []string{"assert x"}}); err == nil {
		t.Error("an answer was judged without anything to run it with")
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

// task is a record of MBPP or HumanEval with its reference solution.
type task struct {
	name, solution string
	ref            Reference
}

// shared opens a file of the real data sets.
func shared(t *testing.T, name string) []byte {
	t.Helper()
	data := os.Getenv("T2_SHARED_DATA")
	if data == "" {
		t.Skip("T2_SHARED_DATA is not set: it names the folder with real data sets")
	}
	content, err := os.ReadFile(filepath.Join(data, "datasets", name))
	if err != nil {
		t.Skipf("the real data set is not there: %v", err)
	}
	if strings.HasSuffix(name, ".gz") {
		r, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		content = plain.Bytes()
	}
	return content
}

func readTasks(t *testing.T, content []byte, parse func(line []byte) (task, error)) []task {
	t.Helper()
	var tasks []task
	for s := bufio.NewScanner(bytes.NewReader(content)); s.Scan(); {
		one, err := parse(s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, one)
	}
	return tasks
}

func mbpp(t *testing.T) []task {
	return readTasks(t, shared(t, "mbpp/mbpp.jsonl"), func(line []byte) (task, error) {
		var r struct {
			ID    int      `json:"task_id"`
			Code  string   `json:"code"`
			Tests []string `json:"test_list"`
			Setup string   `json:"test_setup_code"`
		}
		err := json.Unmarshal(line, &r)
		return task{fmt.Sprintf("MBPP/%d", r.ID), r.Code, Reference{Setup: r.Setup, Tests: r.Tests}}, err
	})
}

func humanEval(t *testing.T) []task {
	return readTasks(t, shared(t, "humaneval/HumanEval.jsonl.gz"), func(line []byte) (task, error) {
		var r struct {
			ID       string `json:"task_id"`
			Prompt   string `json:"prompt"`
			Solution string `json:"canonical_solution"`
			Test     string `json:"test"`
			Entry    string `json:"entry_point"`
		}
		err := json.Unmarshal(line, &r)
		return task{r.ID, r.Solution, Reference{Tests: []string{r.Test}, EntryPoint: r.Entry, Prompt: r.Prompt}}, err
	})
}

// passed judges an answer to each task and returns how many are right; wrong
// ones are logged.
func passed(t *testing.T, u *UnitTests, tasks []task, answer func(task) string) int {
	t.Helper()
	right := make([]bool, len(tasks))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, one := range tasks {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			v, err := u.Judge(t.Context(), answer(one), one.ref)
			if err != nil {
				t.Errorf("%s: %v", one.name, err)
			} else if right[i] = v.Right; !v.Right && testing.Verbose() {
				t.Logf("%s is wrong: %s", one.name, v.Why)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, r := range right {
		if r {
			n++
		}
	}
	return n
}

// part returns every n-th task, from the i-th on.
func part(tasks []task, i, n int) (some []task) {
	for ; i < len(tasks); i += n {
		some = append(some, tasks[i])
	}
	return some
}

// TestSolutionsOfHumanEvalAreRight gives half of the solutions as continuations
// of their prompts and half as whole functions.
func TestSolutionsOfHumanEvalAreRight(t *testing.T) {
	u := newUnitTests(t)
	tasks := humanEval(t)
	for _, test := range []struct {
		name   string
		tasks  []task
		answer func(task) string
		right  bool
	}{
		{"continuations", part(tasks, 0, 2), func(one task) string { return one.solution }, true},
		{"whole functions", part(tasks, 1, 2), func(one task) string { return "```python\n" + one.ref.Prompt + one.solution + "```" }, true},
		{"empty functions", part(tasks, 0, 4), func(task) string { return "    pass\n" }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := 0
			if test.right {
				want = len(test.tasks)
			}
			if n := passed(t, u, test.tasks, test.answer); n != want {
				t.Errorf("%d of %d are right, want %d", n, len(test.tasks), want)
			}
		})
	}
}

// shapes are what else models write around a program that is right.
var shapes = []struct {
	name  string
	write func(one task, name string) string
}{
	{"nothing else", func(one task, _ string) string { return one.solution }},
	{"an added assertion", func(one task, _ string) string { return one.solution + "\n\n" + one.ref.Tests[0] }},
	{"a main program", func(one task, name string) string {
		return one.solution + "\n\nif __name__ == '__main__':\n    print(" + name + "(input()))\n"
	}},
	{"an annotation", func(one task, _ string) string {
		return regexp.MustCompile(`(?m)^(def \w+ *\(.*\)) *:`).ReplaceAllString(one.solution, "$1 -> object:")
	}},
	{"is None", func(one task, name string) string {
		return one.solution + "\n\nif " + name + " is None or __name__ is None:\n    raise ValueError('there is none')\n"
	}},
	{"an f-string", func(one task, name string) string { return one.solution + "\n\nprint(f'{" + name + "!r:>40}')\n" }},
	{"from typing", func(one task, _ string) string {
		return "from typing import Dict, List, Optional, Tuple\n\nGiven = Optional[List[Tuple[int, Dict[str, int]]]]\n" + one.solution
	}},
	{"BEGIN and DONE", func(one task, _ string) string { return "[BEGIN]\n" + one.solution + "\n[DONE]\nI hope it helps." }},
	{"a first block that is a shell line", func(one task, _ string) string {
		return "First:\n```bash\npip install numpy\n```\nThen:\n```python\n" + one.solution + "\n```\n"
	}},
	{"a first block that is an example", func(one task, name string) string {
		return "It is used so:\n```python\nprint(" + name + "(1))\n```\nThe function:\n```python\n" + one.solution + "\n```\nThat is all."
	}},
	{"thoughts before", func(one task, name string) string {
		return "<think>\nMaybe\n```python\ndef " + name + "(*args):\n    return None\n```\nNo.\n</think>\n\nHere it is.\n\n```python\n" + one.solution + "\n```"
	}},
}

// TestReferenceSolutionsAreRight gives every task of MBPP its reference solution,
// in one of the shapes.
func TestReferenceSolutionsAreRight(t *testing.T) {
	u := newUnitTests(t)
	all := mbpp(t)
	for i, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			tasks := part(all, i, len(shapes))
			n := passed(t, u, tasks, func(one task) string { return shape.write(one, subjects(one.ref)[0]) })
			if n < len(tasks) {
				t.Errorf("%d of %d are right", n, len(tasks))
			}
		})
	}
}
