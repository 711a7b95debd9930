package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
)

// workshop is a loader whose loading the test does: each attempt is handed to
// the test and ends with what it answers, or when it is cancelled.
type workshop struct {
	*loader
	attempts chan *offer
	results  chan attempted
	inUse    []string // Digests, in order.
	life     context.Context
	end      context.CancelFunc
	ended    sync.WaitGroup
}

// startWorkshop must be called in a bubble of synctest, so that pauses take no
// time.
func startWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{attempts: make(chan *offer), results: make(chan attempted)}
	w.life, w.end = context.WithCancel(t.Context())
	w.loader = newLoader(w.life, slog.New(slog.DiscardHandler), newMetrics(New(Config{})))
	w.load = func(o *offer) attempted {
		select {
		case w.attempts <- o:
		case <-o.ctx.Done():
			return attempted{err: context.Cause(o.ctx)}
		}
		select {
		case got := <-w.results:
			return got
		case <-o.ctx.Done():
			return attempted{err: context.Cause(o.ctx)}
		}
	}
	w.use = func(s *servedSet) engine.Form {
		w.inUse = append(w.inUse, s.digest)
		return engine.FormMerged
	}
	w.ended.Go(func() { w.run(w.life) })
	return w
}

func (w *workshop) close() {
	w.end()
	w.ended.Wait()
}

// put offers a set, which must return without waiting for anything.
func (w *workshop) put(t *testing.T, set contract.ExpertSet) *offer {
	t.Helper()
	begun := time.Now()
	o, err := w.offer(set, false)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took != 0 {
		t.Errorf("an offer took %v", took)
	}
	return o
}

// told is what the status says of the desired set.
func (w *workshop) told() (whole bool, problem *contract.LoadError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.desired.whole, w.desired.err
}

func setOf(names ...string) contract.ExpertSet {
	set := contract.ExpertSet{Strategy: contract.StrategyPrompt}
	for _, name := range names {
		set.Experts = append(set.Experts, contract.ExpertRef{
			Name: name, Skill: name, Digest: contract.DigestPrefix + strings.Repeat(name[:1], 64),
		})
	}
	return set
}

// all is an attempt that loads everything of an offer.
func all(o *offer) attempted { return attempted{set: &servedSet{digest: o.digest}} }

// partly is one that cannot load an expert.
func partly(o *offer, name string, err error) attempted {
	return attempted{set: &servedSet{digest: "partly " + o.digest}, failures: map[string]error{name: err}}
}

func TestTheLastOfferWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorkshop(t)
		defer w.close()
		first := w.put(t, setOf("a"))
		if got := <-w.attempts; got != first {
			t.Fatalf("%+v is loaded", got)
		}
		// A set that is being loaded is not begun anew.
		if again := w.put(t, setOf("a")); again != first || first.ctx.Err() != nil {
			t.Error("the same set is another offer")
		}
		begun := time.Now()
		second, third := w.put(t, setOf("b")), w.put(t, setOf("c"))
		for _, o := range []*offer{first, second} {
			if err := w.settle(t.Context(), o); !errors.Is(err, errSuperseded) {
				t.Errorf("who waits for a set that was superseded got %v", err)
			}
		}
		if got := <-w.attempts; got != third || time.Since(begun) != 0 {
			t.Errorf("%v is loaded after %v, want the last one at once", got.spec, time.Since(begun))
		}
		w.results <- all(third)
		if err := w.settle(t.Context(), third); err != nil {
			t.Error(err)
		}
		// A set that is in use is no work.
		if again := w.put(t, setOf("c")); again != third {
			t.Error("the set in use is another offer")
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{third.digest}, w.inUse); diff != "" {
			t.Errorf("taken into use (-want +got):\n%s", diff)
		}
	})
}

// TestWhatIsSupersededIsNotTakenIntoUse lets a load end well after the next
// offer.
func TestWhatIsSupersededIsNotTakenIntoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorkshop(t)
		defer w.close()
		load := w.load
		w.load = func(o *offer) attempted {
			if o.spec.Experts[0].Name == "a" {
				w.attempts <- o
				return <-w.results // It does not notice that it was cancelled.
			}
			return load(o)
		}
		first := w.put(t, setOf("a"))
		<-w.attempts
		second := w.put(t, setOf("b"))
		w.results <- all(first)
		w.results <- all(<-w.attempts)
		if err := w.settle(t.Context(), second); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{second.digest}, w.inUse); diff != "" {
			t.Errorf("taken into use (-want +got):\n%s", diff)
		}
	})
}

func TestWhatMayPassIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorkshop(t)
		defer w.close()
		o := w.put(t, setOf("a", "b"))
		var pauses []time.Duration
		last := time.Now()
		for i := range 12 {
			if got := <-w.attempts; got != o {
				t.Fatal("another offer")
			}
			pauses = append(pauses, time.Since(last))
			last = time.Now()
			w.results <- partly(o, "b", fs.ErrNotExist)
			synctest.Wait()
			whole, problem := w.told()
			if whole || (problem != nil) != (i+1 >= patience) {
				t.Errorf("after %d attempts: whole %v, error %+v", i+1, whole, problem)
			}
			if problem != nil && (problem.Permanent || !strings.Contains(problem.Message, `expert "b"`) || problem.Digest != o.digest) {
				t.Errorf("error %+v", problem)
			}
		}
		s, ms := time.Second, time.Millisecond
		want := []time.Duration{0, 250 * ms, 500 * ms, s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s, 30 * s}
		if diff := cmp.Diff(want, pauses); diff != "" {
			t.Errorf("pauses (-want +got):\n%s", diff)
		}
		// Who offers the set once more asks for an attempt now.
		w.put(t, setOf("a", "b"))
		<-w.attempts
		if took := time.Since(last); took != 0 {
			t.Errorf("the next attempt was after %v", took)
		}
		w.results <- all(o)
		synctest.Wait()
		if whole, problem := w.told(); !whole || problem != nil {
			t.Errorf("whole %v, error %+v", whole, problem)
		}
		if got := w.inUse[len(w.inUse)-1]; got != o.digest {
			t.Errorf("in use is %s", got)
		}
		time.Sleep(time.Hour) // Nothing is left to do, or the attempt would block the bubble.
	})
}

func TestWhatIsWrongIsToldAtOnceAndLookedAtSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorkshop(t)
		defer w.close()
		o := w.put(t, setOf("a", "b"))
		<-w.attempts
		begun := time.Now()
		w.results <- partly(o, "a", failure.Permanentf(contract.ReasonDigestMismatch, "it is damaged"))
		err := w.settle(t.Context(), o)
		if reason, permanent := failure.Of(err); reason != contract.ReasonDigestMismatch || !permanent || time.Since(begun) != 0 {
			t.Errorf("told %v after %v", err, time.Since(begun))
		}
		if diff := cmp.Diff([]string{"partly " + o.digest}, w.inUse); diff != "" {
			t.Errorf("taken into use (-want +got):\n%s", diff)
		}
		<-w.attempts // It may have been made anew.
		if paused := time.Since(begun); paused != permanentPause {
			t.Errorf("looked at again after %v", paused)
		}
		w.results <- all(o)
		synctest.Wait()
		if whole, problem := w.told(); !whole || problem != nil {
			t.Errorf("whole %v, error %+v", whole, problem)
		}
	})
}

func TestOneThatMayPassKeepsTheWholeFromBeingPermanent(t *testing.T) {
	damaged, late := failure.Permanentf(contract.ReasonDigestMismatch, "it is damaged"), fs.ErrNotExist
	for name, c := range map[string]struct {
		got       attempted
		permanent bool
		want      string
	}{
		"both damaged":      {attempted{failures: map[string]error{"a": damaged, "b": damaged}}, true, "2 of 2 experts"},
		"one is late":       {attempted{failures: map[string]error{"a": damaged, "b": late}}, false, `expert "b": file does not exist`},
		"one of two":        {attempted{failures: map[string]error{"b": damaged}}, true, "1 of 2 experts"},
		"the set as such":   {attempted{err: damaged}, true, "it is damaged"},
		"the probe":         {attempted{unprobed: late}, false, "file does not exist"},
		"an expert as well": {attempted{unprobed: late, failures: map[string]error{"b": damaged}}, false, `file does not exist; expert "b": it is damaged`},
		"a full disk helps": {attempted{err: late}, false, "file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &offer{spec: setOf("a", "b"), digest: "sha256:x"}
			got := o.problem(c.got)
			if got == nil || got.Permanent != c.permanent || got.Reason == "" || got.Digest != o.digest || !strings.Contains(got.Message, c.want) {
				t.Errorf("%+v, want permanent %v and %q", got, c.permanent, c.want)
			}
		})
	}
	if got := (&offer{}).problem(attempted{set: &servedSet{}}); got != nil {
		t.Errorf("nothing is wrong, but %+v", got)
	}
}

func TestTheFileComesFirstOnlyIfNothingWasOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorkshop(t)
		defer w.close()
		put := w.put(t, setOf("a"))
		if o, err := w.offer(setOf("b"), true); err != nil || o != put || put.ctx.Err() != nil {
			t.Errorf("the file's set took the place of the one that was put: %v, %v", o.spec, err)
		}
		w.refuse(errors.New("no JSON"))
		if w.refused != nil {
			t.Error("the file is of interest no more")
		}
	})
}

func TestClosingEndsALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorkshop(t)
		o := w.put(t, setOf("a"))
		<-w.attempts
		w.close()
		if err := w.settle(t.Context(), o); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
