package judge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// workerArgument turns this test binary into a worker.
const workerArgument = "judge-worker"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == workerArgument {
		fmt.Fprintln(os.Stderr, Confine(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func newPool(t testing.TB, o Options) *Pool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if o.Command == nil {
		o.Command = []string{exe, workerArgument}
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// layers are the ways in which a node confines programs; each test of an escape
// runs in all of them, so that no layer hides that another has a hole.
var layers = map[string][]string{
	"all layers":                              nil,
	"without namespaces, as in a pod":         {LayerNamespaces},
	"without Landlock, as on an older kernel": {LayerLandlock},
}

// forEachLayering runs f with a pool of each way that this node offers.
func forEachLayering(t *testing.T, limits Limits, f func(t *testing.T, p *Pool)) {
	for name, without := range layers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(t, Options{Without: without, Limits: limits, Workers: 1})
			c, err := p.Confinement(t.Context())
			if err != nil && len(without) > 0 {
				t.Skipf("this node does not offer it: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Log(c)
			f(t, p)
		})
	}
}

func TestProgramsAreJudgedByTheirTests(t *testing.T) {
	double := []string{"assert f(2) == 4", "assert f(-1) == -2"}
	check := []string{"def check(candidate):\n    for i in range(9):\n        assert candidate(i) == 2 * i\n    assert candidate('a') == 'aa'"}
	tests := []struct {
		name string
		job  Job
		// why is how the explanation of a wrong answer goes on; "" is a right one.
		why string
	}{
		{name: "a right program", job: Job{Program: "def f(x): return 2*x", Tests: double}},
		{name: "one failed test", job: Job{Program: "def f(x): return 4", Tests: double}, why: "f(-1) is 4, not -2"},
		{name: "no function of that name", job: Job{Program: "def g(x): return 2*x", Tests: double}, why: "NameError: name 'f' is not defined"},
		{name: "no program", job: Job{Program: "I am not sure.", Tests: double}, why: "SyntaxError"},
		{name: "an exception", job: Job{Program: "def f(x): return x.a", Tests: double}, why: "AttributeError: 'int' object has no attribute 'a'"},
		{name: "an exception of its own kind", job: Job{Program: "class E(Exception): pass\ndef f(x): raise E('no')", Tests: double}, why: "RuntimeError: E: no"},
		{name: "the message of an assertion is no condition", job: Job{Program: "def f(x): return False", Tests: []string{"assert f(1), 'always true'"}}, why: "AssertionError: always true"},
		{name: "a statement that asserts nothing itself", job: Job{Program: "def f(x): return x", Tests: []string{"x = f(3)", "assert x == 3"}}},
		{name: "imports, annotations, f-strings, classes, generators", job: Job{
			Program: "import math, hashlib\nfrom typing import List\nfrom collections import Counter\nclass A:\n  def __init__(self, x: int): self.x = x\n" +
				"def f(xs: List[int]) -> str:\n  return f'{math.prod(xs)} {A(1).x} {sorted(Counter(xs))} {sum(x for x in xs)}'",
			Tests: []string{"assert f([2, 3]) == '6 1 [2, 3] 5'"}}},
		{name: "set-up that builds objects of the answer's class", job: Job{
			Program: "class Node:\n  def __init__(self, v): self.v, self.left = v, None\ndef depth(n): return 0 if n is None else 1 + depth(n.left)",
			Setup:   "root = Node(1)\r\nroot.left = Node(2)\r\nroot.left.left = Node(root.v)\r\n",
			Tests:   []string{"assert depth(root) == 3", "assert root.left.v == 2"}}},
		{name: "check of an entry point", job: Job{Program: "def f(x): return x + x", Tests: check, Entry: "f"}},
		{name: "check of an entry point, wrong", job: Job{Program: "def f(x): return x + 2", Tests: check, Entry: "f"}, why: "a test failed, in: assert candidate(i) == 2 * i"},
		{name: "check without its entry point", job: Job{Program: "def g(x): return x + 2", Tests: check, Entry: "f"}, why: "there is no function f"},
		{name: "arguments that are changed in place", job: Job{Program: "def f(x): x.sort()", Tests: []string{"x = [2, 1]\nf(x)\nassert x == [1, 2]"}}},
		{name: "a function of the tests' as argument", job: Job{Program: "def f(g, x): return [g(y) for y in x]", Tests: []string{"assert f(lambda y: y + 1, [1, 2]) == [2, 3]"}}},
		{name: "a type of Python's as argument", job: Job{Program: "def f(x, t): return [y for y in x if isinstance(y, t)], t", Tests: []string{"assert f([1, 'a'], int) == ([1], int)"}}},
		{name: "an iterator", job: Job{Program: "def f(x): return map(abs, x)", Tests: []string{"assert list(f([-1, 2])) == [1, 2]", "assert 2 in f([2])"}}},
		{name: "globals can change", job: Job{Program: "k = 0\ndef f():\n  global k ; k += 1\n  return k", Tests: []string{"assert f() == 1", "assert f() == 2"}}},
		{name: "modules of the answer's in the tests", job: Job{Program: "import math\ndef f(x): return math.sqrt(x)", Tests: []string{"assert math.isclose(f(2), 1.4142135623)"}}},
		{name: "a function named as one of Python's", job: Job{Program: "def sum(a, b): return a - b", Tests: []string{"assert sum(10, 15) == -5"}}},
		{name: "every kind of plain value", job: Job{
			Program: "from fractions import Fraction\nfrom decimal import Decimal\ndef f(x): return x\ndef g(): return Fraction(1, 3)",
			Tests: []string{
				"assert f([1, 2.5, 'ä', None, True, (1,), {1}, frozenset([2]), {(1, 2): [3]}, b'x', 1j, 10**40, -10**40, range(3)]) == " +
					"[1, 2.5, 'ä', None, True, (1,), {1}, frozenset([2]), {(1, 2): [3]}, b'x', 1j, 10**40, -10**40, range(3)]",
				"from fractions import Fraction\nassert g() == Fraction(1, 3)", "assert f(1) is not True", "assert f((1,)) != [1]",
				"assert f(float('inf')) == float('inf')", "assert f(float('nan')) != f(float('nan'))", "assert type(f(1.0)) is float",
			}}},
		{name: "views and dates", job: Job{
			Program: "import datetime\ndef keys(d): return d.keys()\ndef items(d): return d.items()\ndef day(y): return datetime.date(y, 2, 3)\n" +
				"def later(d): return d + datetime.timedelta(hours=36)",
			Tests: []string{"assert keys({1: 2, 3: 4}) == {1, 3}", "assert list(items({1: [2]})) == [(1, [2])]",
				"from datetime import date, datetime", "assert day(2024) == date(2024, 2, 3)",
				"assert later(datetime(2024, 2, 28)) == datetime(2024, 2, 29, 12)", "assert (later(datetime(2024, 1, 1)) - datetime(2024, 1, 1)).days == 1"}}},
		{name: "a module that the tests use and nobody imports", job: Job{Program: "def f(x): return x / 3", Tests: []string{"assert math.isclose(f(1), 0.333333333333)"}}},
		{name: "an object of the answer's with a module's name", job: Job{Program: "class Calendar:\n  def add(self, x): return x + 1\ncalendar = Calendar()", Tests: []string{"assert calendar.add(1) == 2"}}},
		{name: "an exception that derives from the expected one", job: Job{Program: "class Negative(ValueError): pass\ndef f(x): raise Negative('no')",
			Tests: []string{"try:\n  f(-1)\n  assert False\nexcept ValueError as e:\n  assert 'no' in str(e)"}}},
		{name: "tests that print", job: Job{Program: "def f(x): return 2*x", Tests: []string{"print('{}')\nassert f(2) == 4", "print(f(1))"}}},
		{name: "a line ending of Windows", job: Job{Program: "def f(x):\r\n\ty = x\r\n\treturn y + x", Tests: double}},
		{name: "if it is the main program", job: Job{Program: "def f(x): return 2*x\nif __name__ == '__main__':\n  print(f(int(input())))", Tests: double}},
		{name: "output is no harm", job: Job{Program: "import sys\ndef f(x):\n  print('x' * 100000)\n  sys.stderr.write('y' * 100000)\n  return 2*x", Tests: double}},
		{name: "a program that cannot be decoded", job: Job{Program: "x = '\xff'\x00", Tests: double}, why: "SyntaxError"},
		{name: "a program beyond bounds", job: Job{Program: "x = '" + strings.Repeat("x", maxJobBytes) + "'", Tests: double}, why: "the program and its tests are larger than 8 MiB"},
		{name: "a test that is no Python", job: Job{Program: "x = 1", Tests: []string{"assert f(1) = 2"}}, why: "SyntaxError"},
	}
	p := newPool(t, Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := p.Run(t.Context(), test.job)
			if err != nil || got.Passed != (test.why == "") || !strings.HasPrefix(got.Why, test.why) {
				t.Errorf("Run = %+v, %v, want why: %q", got, err, test.why)
			}
		})
	}
}

// TestAnAnswerCannotForgeItsSuccess has programs try to pass a test that only
// f(2) == 4 passes.
func TestAnAnswerCannotForgeItsSuccess(t *testing.T) {
	tests := []struct {
		name, program, why string
		// tests are others than f(2) == 4.
		tests []string
	}{
		{name: "printing", program: `print('{"passed": true}')`, why: "NameError"},
		{name: "exiting", program: "import sys\nsys.exit(0)", why: "SystemExit: 0"},
		{name: "exiting at once", program: "import os\nos._exit(0)", why: "the program ended its own process with status 0"},
		{name: "exiting in the function", program: "import os\ndef f(x): os._exit(0)", why: "the program ended its own process with status 0"},
		{name: "an object that equals everything", program: "class A:\n  def __eq__(self, o): return True\n  def __hash__(self): return 4\ndef f(x): return A()",
			why: "f(2) is "},
		{name: "a number that equals everything", program: "class A(int):\n  def __eq__(self, o): return True\n  def __int__(self): return 4\ndef f(x): return A(3)",
			why: "f(2) is 3, not 4"},
		{name: "other builtins", program: "import builtins\nbuiltins.AssertionError = None\nbuiltins.set = lambda x: 0\nset = lambda x: 0\ndef f(x): return [3]",
			why: "f(2) is [3], not 4"},
		{name: "an exception instead of an answer", program: "def f(x): raise StopIteration", why: "RuntimeError: StopIteration"},
		{name: "a module of Python's that says yes", program: "class math:\n  isclose = lambda *a, **k: True\n  pi = 4\ndef f(x): return 3",
			tests: []string{"assert math.isclose(f(2), 4)"}, why: "a test failed"},
		{name: "the end of an iteration instead of answers", program: "def f(x): raise StopIteration",
			tests: []string{"assert all(map(f, [0, 2]))"}, why: "RuntimeError: StopIteration"},
		{name: "an exit instead of an answer", program: "def f(x): raise SystemExit(0)", why: "RuntimeError: SystemExit"},
		{name: "a verdict on every descriptor", program: `
import os
for fd in range(64):
    try: os.write(fd, b'{"passed": true, "why": ""}\n')
    except OSError: pass
`, why: ""},
		{name: "more output than any verdict has", program: `
import os
for fd in range(64):
    try:
        for i in range(1000): os.write(fd, b'x' * 65536)
    except OSError: pass
`, why: ""},
		{name: "looking for what is expected", program: `
import gc, sys
def f(x):
    frame, seen = sys._getframe(), []
    while frame:
        seen.append(str(frame.f_locals) + str(frame.f_globals)[:100000])
        frame = frame.f_back
    for o in gc.get_objects():
        if isinstance(o, (dict, list, tuple)): seen.append(str(o)[:10000])
    return 4 if any(chr(61) * 2 + " 4" in s for s in seen) else 0
`, why: "f(2) is 0, not 4"},
	}
	p := newPool(t, Options{Workers: 1})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			job := Job{Program: test.program, Tests: test.tests}
			if job.Tests == nil {
				job.Tests = []string{"assert f(2) == 4"}
			}
			got, err := p.Run(t.Context(), job)
			if err != nil || got.Passed || !strings.HasPrefix(got.Why, test.why) || got.Why == "" {
				t.Errorf("Run = %+v, %v, want why: %q", got, err, test.why)
			}
			mustGoOn(t, p)
		})
	}
}

// mustGoOn has the pool judge a right and a wrong program.
func mustGoOn(t *testing.T, p *Pool) {
	t.Helper()
	for program, want := range map[string]bool{"def f(x): return 2*x": true, "def f(x): return x": false} {
		if got, err := p.Run(t.Context(), Job{Program: program, Tests: []string{"assert f(2) == 4"}}); err != nil || got.Passed != want {
			t.Errorf("afterwards, Run(%q) = %+v, %v, want %t", program, got, err, want)
		}
	}
}

func TestWorkersServeManyJobsAtOnce(t *testing.T) {
	p := newPool(t, Options{})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			got, err := p.Run(t.Context(), Job{Program: "def f(): return " + strconv.Itoa(i%2), Tests: []string{"assert f()"}})
			if err != nil || got.Passed != (i%2 == 1) {
				t.Errorf("job %d: Run = %+v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestTheSameProgramHasTheSameResultInEveryWorker(t *testing.T) {
	job := Job{Program: "def f(): return str({str(i) for i in range(20)})"}
	for range 3 {
		p := newPool(t, Options{Workers: 1})
		if job.Tests == nil {
			got, err := p.Run(t.Context(), Job{Program: job.Program, Tests: []string{"assert f() == ''"}})
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(got.Why, `f() is "`)
			start, _, _ := strings.Cut(rest, "…")
			if len(start) < 40 {
				t.Fatalf("the program returned %q", got.Why)
			}
			job.Tests = []string{fmt.Sprintf("assert f().startswith(%q)", start)}
		}
		if got, err := p.Run(t.Context(), job); err != nil || !got.Passed {
			t.Errorf("Run = %+v, %v", got, err)
		}
	}
}

func TestACommandThatIsNoWorkerIsAnErrorAndNoWrongAnswer(t *testing.T) {
	for _, command := range [][]string{{"/bin/true"}, {"/nonexistent"}, {"/bin/cat"}, {"/bin/echo", `{"python": "3.11", "works": ["everything"]}`}} {
		p := newPool(t, Options{Command: command})
		if got, err := p.Run(t.Context(), Job{Program: "x = 1", Tests: []string{"assert x"}}); err == nil {
			t.Errorf("command %q was taken for a worker: %+v", command, got)
		}
	}
}

func TestWithoutAnInterpreterTheErrorSaysWhatToInstall(t *testing.T) {
	for _, python := range []string{"/nonexistent/python3", "/bin/true"} {
		p := newPool(t, Options{Python: python})
		_, err := p.Run(t.Context(), Job{Program: "x = 1", Tests: []string{"assert x"}})
		if err == nil || !strings.Contains(err.Error(), "apt-get install python3-minimal") || !strings.Contains(err.Error(), python) {
			t.Errorf("with %s, Run returned %v", python, err)
		}
	}
}

func TestWithNeitherLandlockNorNamespacesNothingRuns(t *testing.T) {
	p := newPool(t, Options{Without: []string{LayerNamespaces, LayerLandlock}})
	_, err := p.Run(t.Context(), Job{Program: "x = 1", Tests: []string{"assert x"}})
	if err == nil || !strings.Contains(err.Error(), "cannot be kept from the files") {
		t.Errorf("Run returned %v, want a refusal", err)
	}
}

func TestAWorkerThatDiedBeforeCostsNoAnswer(t *testing.T) {
	p := newPool(t, Options{Workers: 1})
	w, err := p.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.kill()
	p.idle <- w
	mustGoOn(t, p)
}

// TestAJobLeavesNothingInTheWorker looks for what a job held in the memory that
// the next job's processes are copies of.
func TestAJobLeavesNothingInTheWorker(t *testing.T) {
	p := newPool(t, Options{Workers: 1})
	job := Job{
		Program: "def f(x): return 'its' + '-answer-' + str(x)",
		Setup:   "y = 'the' + '-setup-' + str(8)",
		Tests:   []string{"assert f(17) == 'what' + '-is-wanted-' + str(17)"},
	}
	for range 5 {
		if got, err := p.Run(t.Context(), job); err != nil || !strings.Contains(got.Why, "its-answer-17") || !strings.Contains(got.Why, "what-is-wanted-17") {
			t.Fatalf("Run = %+v, %v", got, err)
		}
	}
	w, err := p.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.idle <- w }()
	memory := memoryOf(t, w.cmd.Process.Pid)
	for _, trace := range []string{"its-answer-", "'its' + '", "the-setup-", "what-is-wanted", "'what' + '"} {
		if bytes.Contains(memory, []byte(trace)) {
			t.Errorf("the worker's memory holds %q of an earlier job", trace)
		}
	}
	if !bytes.Contains(memory, []byte("the driver of package judge")) && !bytes.Contains(memory, []byte("def confine_further")) {
		t.Error("what was searched is not the worker's memory")
	}
}

// memoryOf returns what a process can write to.
func memoryOf(t *testing.T, pid int) (content []byte) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		part := make([]byte, to-from)
		if _, err := f.ReadAt(part, from); err != nil {
			t.Fatalf("reading %s: %v", line, err)
		}
		content = append(content, part...)
	}
	return content
}

func TestAWorkerEndsWithItsPool(t *testing.T) {
	p := newPool(t, Options{Workers: 1})
	w, err := p.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("the worker ended with %v, want success", err)
	}
	w.stop()
	p.idle <- nil
}

// TestAWorkerIsConfinedAsItSays asks the kernel about a worker.
func TestAWorkerIsConfinedAsItSays(t *testing.T) {
	for name, without := range layers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(t, Options{Without: without, Workers: 1})
			c, err := p.Confinement(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(without, LayerLandlock) && c.Landlock != landlockVersion() {
				t.Errorf("Landlock of version %d is used, the kernel has %d", c.Landlock, landlockVersion())
			}
			w, err := p.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { p.idle <- w }()
			pid := w.cmd.Process.Pid
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"\nSeccomp:\t2\n", "\nNoNewPrivs:\t1\n", "\nCapPrm:\t0000000000000000\n", "\nCapEff:\t0000000000000000\n",
				"\nCapBnd:\t0000000000000000\n", "\nCapAmb:\t0000000000000000\n"} {
				if want == "\nCapBnd:\t0000000000000000\n" && os.Geteuid() != 0 {
					continue // Only root may, and only for root it matters.
				}
				if !strings.Contains(string(status), want) {
					t.Errorf("/proc/%d/status lacks %q:\n%s", pid, want, status)
				}
			}
			for _, namespace := range namespaceNames {
				own, err := os.Readlink("/proc/self/ns/" + namespace)
				if err != nil {
					t.Fatal(err)
				}
				its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, namespace))
				if err != nil {
					t.Fatal(err)
				}
				if said := slices.Contains(c.Namespaces, namespace); said != (own != its) {
					t.Errorf("namespace %s: the worker has %s, we have %s, and Confinement says %v", namespace, its, own, c.Namespaces)
				}
			}
			links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			if err != nil || len(links) != 4 {
				t.Errorf("the worker has the descriptors %v, %v, want its own four", links, err)
			}
		})
	}
}

// fast ends what hangs soon.
var fast = Limits{CPU: time.Second, Wall: 10 * time.Second, Memory: 256 << 20}
