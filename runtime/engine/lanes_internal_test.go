package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/model"
)

// tiny starts an engine of a tiny model.
func tiny(t *testing.T, change func(*Options)) *Engine {
	t.Helper()
	dir := t.TempDir()
	checkpointtest.Write(t, dir, checkpointtest.Tiny())
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	base, err := model.Load(t.Context(), registrytest.Open(t, 1), ck)
	if err != nil {
		t.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		t.Fatal(err)
	}
	o := Options{Base: base}
	change(&o)
	e, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// diary has what happens to works, in its order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// told is work of which a diary tells when it is admitted and when its prompt has been read.
type told struct {
	name    string
	in      lane
	tokens  int // It writes.
	diary   *diary
	reached chan struct{} // Closed when its prompt has been read, and held until
	open    chan struct{} // this one is; nil for both.
	done    chan error

	written []int32
}

func (w *told) lane() lane                     { return w.in }
func (w *told) demand(prompt int) demand       { return demand{blocks: model.Blocks(prompt)} }
func (w *told) admitted()                      { w.diary.add(w.name + " admitted") }
func (w *told) found(int)                      {}
func (w *told) sequence(j *job) []int32        { return slices.Concat(j.prompt, w.written) }
func (w *told) restart()                       {}
func (w *told) forks(*job, *loop) []model.Fork { return nil }
func (w *told) asks() []backend.Ask            { return []backend.Ask{{Logits: true}} }
func (w *told) end(err error)                  { w.done <- err }
func (w *told) segments(j *job, _ *loop) ([]model.Segment, error) {
	return []model.Segment{{Seq: j.slot, Tokens: w.written[len(w.written)-1:]}}, nil
}

func (w *told) take([]backend.Answer) (done bool, err error) {
	if len(w.written) == 0 {
		w.diary.add(w.name + " read")
		if w.reached != nil {
			close(w.reached)
			<-w.open
		}
	}
	w.written = append(w.written, 1)
	return len(w.written) >= w.tokens, nil
}

// TestWhoGoesFirst puts jobs into the queue while the loop is held up by an answer, and wants
// them to be admitted, and read, in the order of their requests and lanes.
func TestWhoGoesFirst(t *testing.T) {
	type ask struct {
		name    string
		in      lane
		arrived int // Of the requests but the one that holds the loop up.
		tokens  int
		prompt  int
	}
	for name, c := range map[string]struct {
		batch, stepTokens int
		asks              []ask
		want              string
	}{
		"questions pass a full batch": {
			batch: 1, stepTokens: 64,
			asks: []ask{{"answer", answering, 1, 1, 4}, {"question", questioning, 2, 1, 4}, {"preview", previewing, 3, 1, 4}},
			want: "question admitted, question read, answer admitted, preview admitted, answer read, preview read",
		},
		"pass 2 goes before who came after its pass 1": {
			batch: 1, stepTokens: 64,
			asks: []ask{{"later", answering, 2, 1, 4}, {"latest", answering, 3, 1, 4}, {"pass 2", answering, 1, 1, 4}},
			want: "pass 2 admitted, pass 2 read, later admitted, later read, latest admitted, latest read",
		},
		"prompts are read in the order of requests": {
			batch: 4, stepTokens: 4,
			asks: []ask{{"question 2", questioning, 2, 1, 4}, {"answer 3", answering, 3, 1, 4}, {"answer 1", answering, 1, 1, 4}, {"question 4", questioning, 4, 1, 4}},
			want: "answer 1 admitted, question 2 admitted, answer 3 admitted, question 4 admitted, answer 1 read, question 2 read, answer 3 read, question 4 read",
		},
		"a long prompt keeps its turn, and lets no one wait for ever": {
			batch: 2, stepTokens: 4,
			asks: []ask{{"long", answering, 1, 1, 11}, {"question", questioning, 2, 1, 4}},
			want: "long admitted, question admitted, long read, question read",
		},
		"only who is answered soon reads ahead": {
			batch: 4, stepTokens: 64,
			asks: []ask{
				{"full 1", answering, 1, 3, 4}, {"full 2", answering, 2, 3, 4}, {"full 3", answering, 3, 3, 4},
				{"early", previewing, 4, 1, 4}, {"waits", answering, 5, 1, 4}, {"late", previewing, 6, 1, 4}, {"question", questioning, 7, 1, 4},
			},
			want: "full 1 admitted, full 2 admitted, full 3 admitted, early admitted, question admitted, " +
				"full 1 read, full 2 read, full 3 read, early read, question read, waits admitted, late admitted, waits read, late read",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := tiny(t, func(o *Options) { o.MaxBatch, o.StepTokens = c.batch, c.stepTokens })
			var d diary
			var waited []chan error
			enqueue := func(w *told, arrived uint64, prompt int) {
				t.Helper()
				j, err := e.weights.job(t.Context(), Mixture{}, w.name, true, slices.Repeat([]int32{2}, prompt))
				if err != nil {
					t.Fatal(err)
				}
				w.diary, w.done = &d, make(chan error, 1)
				e.mu.Lock()
				a, err := e.admit(1)
				e.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				a.arrived = arrived
				j.ctx, j.work = context.WithValue(t.Context(), admissionKey{}, a), w
				if err := e.enqueue(j); err != nil {
					t.Fatal(err)
				}
				e.leave(a)
				waited = append(waited, w.done)
			}
			// It holds the loop up in its first step, and a place of the batch for two more.
			gate := &told{name: "gate", in: answering, tokens: 3, reached: make(chan struct{}), open: make(chan struct{})}
			enqueue(gate, 0, 1)
			<-gate.reached
			for _, a := range c.asks {
				enqueue(&told{name: a.name, in: a.in, tokens: a.tokens}, uint64(a.arrived), a.prompt)
			}
			close(gate.open)
			for i, done := range waited {
				if err := <-done; err != nil {
					t.Errorf("job %d: %v", i, err)
				}
			}
			got := strings.TrimPrefix(strings.Join(d.lines, ", "), "gate admitted, gate read, ")
			if inOrder(got) != inOrder(c.want) {
				t.Errorf("got  %s\nwant %s", inOrder(got), inOrder(c.want))
			}
		})
	}
}

// inOrder sorts what is read side by side, in one step.
func inOrder(lines string) string {
	all := strings.Split(lines, ", ")
	for i := 0; i < len(all); {
		n := i
		for n < len(all) && strings.HasSuffix(all[n], "read") == strings.HasSuffix(all[i], "read") {
			n++
		}
		if strings.HasSuffix(all[i], "read") {
			slices.Sort(all[i:n])
		}
		i = n
	}
	return strings.Join(all, ", ")
}

// counting is the text of an answer that counts the steps before its first token.
type counting struct {
	noText
	engine *Engine
	steps  int64
}

func (c *counting) Push(int32) string {
	c.steps = c.engine.Stats().Steps
	return ""
}

// TestPass2BeginsWithTheNextStep counts the steps from a request's pass 1 to its first token,
// beside an answer that keeps the loop going, and wants one who goes on with nothing to hold
// nobody up.
func TestPass2BeginsWithTheNextStep(t *testing.T) {
	e := tiny(t, func(o *Options) { o.MaxBatch, o.followUp = 2, time.Minute })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var beside sync.WaitGroup
	beside.Go(func() {
		_, _ = e.Generate(ctx, Request{Prompt: []int32{1}, Logprobs: -1}, func(Delta) error { return nil })
	})
	defer beside.Wait()
	defer cancel()
	question := ScoreRequest{Prompt: []int32{3, 4, 5}, Labels: [][]int32{{1}, {2, 3}}}
	for i := range 10 {
		admitted, leave, err := e.Admit(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Score(admitted, question); err != nil {
			t.Fatal(err)
		}
		before := e.Stats().Steps // That of pass 1 may still be to be counted.
		if i%2 == 1 {
			leave() // An explanation has no pass 2.
			continue
		}
		time.Sleep(2 * time.Millisecond) // Many steps, if the loop did not wait.
		at := &counting{engine: e}
		if _, err := e.Generate(admitted, Request{Prompt: []int32{6, 7}, MaxTokens: 1, Logprobs: -1, Text: at}, func(Delta) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if between := at.steps - before; between > 1 {
			t.Errorf("%d steps between pass 1 and the step of the first token, want none", between)
		}
		leave()
	}
}

// TestNobodyWaitsLongForPass2 lets a request think about its choice.
func TestNobodyWaitsLongForPass2(t *testing.T) {
	e := tiny(t, func(o *Options) { o.MaxBatch = 2 })
	admitted, leave, err := e.Admit(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	if _, err := e.Score(admitted, ScoreRequest{Prompt: []int32{3, 4, 5}, Labels: [][]int32{{1}, {2, 3}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Generate(t.Context(), Request{Prompt: []int32{1}, MaxTokens: 20, Logprobs: -1}, func(Delta) error { return nil }); err != nil {
		t.Errorf("another request meanwhile: %v", err)
	}
	if e.follows() {
		t.Error("the loop still waits for the one that thinks")
	}
}

// TestPass1GivenUpLeavesNothing gives more questions up than there are places for, at any
// moment, and then asks as many as there are places for beside a full batch.
func TestPass1GivenUpLeavesNothing(t *testing.T) {
	e := tiny(t, func(o *Options) { o.MaxBatch, o.StepTokens = 1, 16 })
	ask := func(ctx context.Context, i int) error {
		prompt := make([]int32, 40)
		for k := range prompt {
			prompt[k] = int32((i + 7*k) % 200)
		}
		if i%3 == 0 {
			_, err := e.Read(ctx, ReadRequest{Prompt: prompt})
			return err
		}
		_, err := e.Score(ctx, ScoreRequest{Prompt: prompt, Labels: [][]int32{{1, 2, 3}, {4, 5}, {6}}})
		return err
	}
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%23)*300*time.Microsecond)
			defer cancel()
			admitted, leave, err := e.Admit(ctx, 1)
			if err != nil {
				t.Error(err)
				return
			}
			defer leave()
			if ask(admitted, i) == nil {
				_, _ = e.Generate(admitted, Request{Prompt: []int32{int32(i), 2, 3}, MaxTokens: 3, Logprobs: -1}, func(Delta) error { return nil })
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all.Go(func() {
		_, _ = e.Generate(ctx, Request{Prompt: []int32{1}, Logprobs: -1}, func(Delta) error { return nil })
	})
	for i := range 40 {
		if err := ask(t.Context(), i); err != nil {
			t.Errorf("question %d: %v", i, err)
		}
	}
	cancel()
	all.Wait()
	for deadline := time.Now().Add(20 * time.Second); e.Stats().Running > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("something runs for ever")
		}
	}
	s := e.Stats()
	if s.Failed != 0 || s.Waiting != 0 || s.Blocks.Used != s.Blocks.Cached || s.Blocks.Reserved != 0 {
		t.Errorf("an idle engine has %+v", s)
	}
	if e.places != 0 || len(e.expected) != 0 {
		t.Errorf("%d places are taken, and %d requests expected", e.places, len(e.expected))
	}
}
