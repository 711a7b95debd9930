package reward

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// childArgument turns this test binary into a child that runs tests.
const childArgument = "run-tests"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		// The race detector's own allocator takes address space in large pieces,
		// and ends the process if it gets none.
		limits := DefaultLimits()
		limits.Memory += 512 << 20
		if err := ServeTests(os.Stdin, os.Stdout, limits); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newUnitTests(t *testing.T, wall time.Duration) *UnitTests {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limits := DefaultLimits()
	limits.Wall = wall
	u, err := NewUnitTests([]string{exe, childArgument}, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func TestProgramsAreJudgedByTheirTests(t *testing.T) {
	double := []string{"assert f(2) == 4", "assert f(-1) == -2"}
	tests := []struct {
		name   string
		ref    Reference
		answer string
		want   bool
	}{
		{name: "a right program passes", ref: Reference{Tests: double}, answer: "def f(x):\n  return 2*x", want: true},
		{name: "one failed test fails", ref: Reference{Tests: double}, answer: "def f(x): return 4"},
		{name: "code is taken out of its fence", ref: Reference{Tests: double},
			answer: "Sure!\n```python\ndef f(x):\n    return x + x\n```\nDone.", want: true},
		{name: "a fence cut off by the length limit counts", ref: Reference{Tests: double},
			answer: "```\ndef f(x): return x + x", want: true},
		{name: "prose is no program", ref: Reference{Tests: double}, answer: "I am not sure."},
		{name: "an empty answer fails", ref: Reference{Tests: double}},
		{name: "carriage returns are tolerated", ref: Reference{Tests: double},
			answer: "def f(x):\r\n\ty = x\r\n\treturn y + x", want: true},
		{name: "the message of an assertion is no condition", ref: Reference{Tests: []string{"assert f(1), 'always true'"}},
			answer: "def f(x): return False"},
		{name: "a condition in brackets is read whole", ref: Reference{Tests: []string{"assert(f(1) == (1, 2))"}},
			answer: "def f(x): return (x, x + 1)", want: true},
		{name: "a false value fails as in Python", ref: Reference{Tests: []string{"assert f(1)"}}, answer: "def f(x): return []"},
		{name: "set-up comes first", ref: Reference{Setup: "K = 10", Tests: []string{"assert f(1) == 11"}},
			answer: "def f(x): return x + K", want: true},
		{name: "globals can change", ref: Reference{Tests: []string{"assert f(1) == 1", "assert f(1) == 2"}},
			answer: "seen = []\ndef f(x):\n  seen.append(x)\n  return len(seen)", want: true},
		{name: "while, recursion, math, sum and pow are there", ref: Reference{Tests: []string{"assert f(5) == 120 + 15 + 8 + 2"}},
			answer: "import math\ndef g(n): return 1 if n < 2 else n * g(n - 1)\n" +
				"def f(n):\n  i = 0\n  while i < n:\n    i += 1\n  return g(i) + sum(range(i + 1)) + pow(2, 3) + int(math.sqrt(4))",
			want: true},
		{name: "other imports fail", ref: Reference{Tests: double}, answer: "import os\ndef f(x): return 2*x"},
		{name: "load fails", ref: Reference{Tests: double}, answer: "load('/etc/passwd', 'f')"},
		{name: "redefining what tests use does not pass them", ref: Reference{Tests: []string{"assert f(2) == 4"}},
			answer: "def f(x):\n  fail('no')"},
	}
	u := newUnitTests(t, time.Minute)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := u.Check(test.ref); err != nil {
				t.Fatalf("Check refused good tests: %v", err)
			}
			got, err := u.Judge(t.Context(), test.answer, test.ref)
			if err != nil || got.Right != test.want {
				t.Errorf("Judge = %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestHostileProgramsCostOnlyTheirOwnAnswer(t *testing.T) {
	good := "def f(x): return 2*x"
	ref := Reference{Tests: []string{"assert f(2) == 4"}}
	tests := map[string]string{
		"an endless loop":            "while True: pass",
		"an endless loop in a test":  "def f(x):\n  while True: pass",
		"endless recursion":          "def f(x): return f(x + 1)",
		"a huge list":                "x = list(range(1 << 30))",
		"a huge string":              "x = 'x' * (1 << 29)\ny = x + x",
		"a string that doubles":      "x = 'x'\nfor i in range(60): x = x + x",
		"an integer that squares":    "x = 7\nfor i in range(64): x = x * x",
		"a power beyond bounds":      "x = pow(10, 1000000000)",
		"a program of eight mebi":    "x = '" + strings.Repeat("x", maxJobBytes) + "'",
		"deeply nested brackets":     strings.Repeat("(", 1<<20),
		"a result that looks honest": "print('{\"passed\":true}')\ndef f(x): return 0",
	}
	u := newUnitTests(t, 6*time.Second)
	for name, program := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := u.Judge(t.Context(), program, ref)
			if err != nil || got.Right {
				t.Errorf("Judge = %v, %v, want false", got, err)
			}
			if got, err := u.Judge(t.Context(), good, ref); err != nil || !got.Right {
				t.Errorf("the right program after it: Judge = %v, %v, want true", got, err)
			}
		})
	}
}

func TestAProgramThatHangsIsCutOffByTheClock(t *testing.T) {
	u := newUnitTests(t, 300*time.Millisecond)
	// One step of the interpreter that takes minutes.
	program := "a = list(range(3000000))\nb = a[:-1] + [1]\nn = 0\nfor i in range(100000):\n  n = n + (1 if a == b else 0)"
	start := time.Now()
	got, err := u.Judge(t.Context(), program, Reference{Tests: []string{"assert n == 0"}})
	if err != nil || got.Right {
		t.Errorf("Judge = %v, %v, want false", got, err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestChildrenServeManyAnswersAtOnce(t *testing.T) {
	u := newUnitTests(t, time.Minute)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			want := i%2 == 0
			program := "def f(x): return 2*x"
			if !want {
				program = "def f(x): return x"
			}
			got, err := u.Judge(t.Context(), program, Reference{Tests: []string{"assert f(2) == 4"}})
			if err != nil || got.Right != want {
				t.Errorf("answer %d: Judge = %v, %v, want %v", i, got, err, want)
			}
		})
	}
	wg.Wait()
}

func TestAnExecutableThatRunsNoTestsIsAnErrorAndNoWrongAnswer(t *testing.T) {
	for _, command := range [][]string{{"/bin/true"}, {"/nonexistent"}, {"/bin/cat"}} {
		u, err := NewUnitTests(command, DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Judge(t.Context(), "x = 1", Reference{Tests: []string{"assert x"}}); err == nil {
			t.Errorf("command %q was taken for a child that runs tests", command)
		}
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAChildEndsWithItsInput(t *testing.T) {
	u := newUnitTests(t, time.Minute)
	c, err := startChild(u.command)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the child ended with %v, want success", err)
	}
}
