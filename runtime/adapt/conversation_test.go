package adapt_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// topics scores the labels math, code and others by how often their first letters are in
// the last turn that it is shown.
type topics struct {
	scorer
	fail  error
	shown []string // What it was asked about.
}

func (s *topics) Score(ctx context.Context, q adapt.Scoring) ([]float64, error) {
	if _, err := s.scorer.Score(ctx, q); err != nil {
		return nil, err
	}
	_, request, _ := strings.Cut(s.prompt, "Request: ")
	request = strings.TrimSuffix(request, "\nCategory:")
	s.shown = append(s.shown, request)
	if s.fail != nil {
		return nil, s.fail
	}
	last := request[strings.LastIndex(request, "\n")+1:]
	counts := make([]float64, 3)
	for i, letter := range []string{"m", "c", "o"} {
		counts[i] = math.Log(0.1 + float64(strings.Count(last, letter)))
	}
	return counts, nil
}

func talking(t *testing.T, c *contract.Conversation) (adapt.Strategy, *topics) {
	t.Helper()
	set := demoSet()
	set.Conversation = c
	s := &topics{}
	strategy, err := adapt.New(set, adapt.Tools{Encoder: bytesEncoder{}, Scorer: s, Fatal: func(err error) bool { return errors.Is(err, errBusy) }})
	if err != nil {
		t.Fatal(err)
	}
	return strategy, s
}

// TestConversations tells a conversation turn by turn, each of them three times: as it
// comes, again as a tool's result makes it, and to a pod that knows nothing of it.
func TestConversations(t *testing.T) {
	type turn struct {
		text   string
		expert string
		chosen int // The turn that chose it.
		reads  int // Passes where the turns before are remembered.
	}
	for name, c := range map[string]struct {
		is    *contract.Conversation
		turns []turn
	}{
		"each turn by default": {nil, []turn{{"mmm", "demo-math", 1, 1}, {"cc", "demo-code", 2, 1}, {"oo", "base", 3, 1}, {"m", "demo-math", 4, 1}}},
		"keep": {
			&contract.Conversation{Mode: contract.ConversationKeep},
			[]turn{{"oo", "base", 1, 1}, {"cc", "demo-code", 2, 1}, {"mmm", "demo-code", 2, 0}, {"oo", "demo-code", 2, 0}},
		},
		"switch": {
			&contract.Conversation{Mode: contract.ConversationSwitch, Margin: 0.5},
			[]turn{
				{"oo", "base", 1, 1}, {"cm", "base", 2, 1}, // A tie: nobody is chosen.
				{"cccm", "demo-code", 3, 1},
				{"ccmmm", "demo-code", 3, 1},  // By 3.1 to 2.1 of 5.3.
				{"mmmmmc", "demo-math", 5, 1}, // By 5.1 to 1.1 of 6.3.
				{"omom", "demo-math", 5, 1},
				{"oooooo", "base", 7, 1},
				{"mo", "base", 8, 1},
				{"mc", "base", 9, 1},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			strategy, s := talking(t, c.is)
			var turns []string
			for i, turn := range c.turns {
				turns = append(turns, turn.text)
				for again, reads := range []int{turn.reads, 0} {
					before := s.calls
					d, err := strategy.Decide(t.Context(), adapt.Request{Turns: turns})
					if err != nil {
						t.Fatal(err)
					}
					if d.Expert != turn.expert || d.Turn != turn.chosen || s.calls-before != reads || d.Remembered != (reads == 0) {
						t.Errorf("turn %d, asked %d times before: %s by turn %d, after %d passes; want %+v", i+1, again, d.Expert, d.Turn, s.calls-before, turn)
					}
				}
				fresh, _ := talking(t, c.is)
				d, err := fresh.Decide(t.Context(), adapt.Request{Turns: turns})
				if err != nil {
					t.Fatal(err)
				}
				known, err := strategy.Decide(t.Context(), adapt.Request{Turns: turns, Fresh: true})
				if err != nil || d.Remembered || known.Remembered || !reflect.DeepEqual(d, known) {
					t.Errorf("turn %d: a pod that knows nothing of it chooses %+v, another one %+v, %v", i+1, d, known, err)
				}
			}
		})
	}
}

// TestWhatIsRememberedDecidesNothing compares a strategy that remembers with one that
// never does, on random conversations that go on, begin alike and come again.
func TestWhatIsRememberedDecidesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, mode := range []string{contract.ConversationEachTurn, contract.ConversationKeep, contract.ConversationSwitch} {
		strategy, _ := talking(t, &contract.Conversation{Mode: mode, Margin: map[string]float64{contract.ConversationSwitch: 0.3}[mode]})
		remembered := 0
		var talks [][]string
		for range 300 {
			var turns []string
			if len(talks) > 0 && r.IntN(4) > 0 {
				turns = append(turns, talks[r.IntN(len(talks))]...)
			}
			if len(turns) < 12 && r.IntN(5) > 0 {
				turns = append(turns, strings.Repeat("m", r.IntN(4))+strings.Repeat("c", r.IntN(4))+strings.Repeat("o", r.IntN(3)))
			}
			if len(turns) == 0 {
				continue
			}
			talks = append(talks, turns)
			got, err := strategy.Decide(t.Context(), adapt.Request{Turns: turns})
			if err != nil {
				t.Fatal(err)
			}
			want, err := strategy.Decide(t.Context(), adapt.Request{Turns: turns, Fresh: true})
			if err != nil {
				t.Fatal(err)
			}
			if got.Remembered {
				remembered++
			}
			got.Remembered = false
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, %q: %+v, without memory %+v", mode, turns, got, want)
			}
			clear(got.Weights) // What is given away is not what is remembered.
		}
		if remembered == 0 {
			t.Errorf("%s: nothing was remembered", mode)
		}
	}
}

// TestPass1SeesTheConversation shows as many of the latest turns as there is room for,
// whole, and the last one shortened if it must be.
func TestPass1SeesTheConversation(t *testing.T) {
	set := demoSet()
	set.RequestTokens = 20
	for want, turns := range map[string][]string{
		"first\n\nsecond":        {"first", "second"},
		"12345678\n\n0123456789": {"not this one", "12345678", "0123456789"},
		"0123456789":             {"123456789", "0123456789"},
		"0123456789…0123456789":  {"first", "0123456789 and so on 0123456789"},
	} {
		s := &topics{}
		strategy, err := adapt.New(set, adapt.Tools{Encoder: bytesEncoder{}, Scorer: s})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := strategy.Decide(t.Context(), adapt.Request{Turns: turns, Salt: "pepper"}); err != nil {
			t.Fatal(err)
		}
		if len(s.shown) != 1 || s.shown[0] != want || s.salt != "pepper" {
			t.Errorf("%q: pass 1 saw %q, want %q", turns, s.shown, want)
		}
	}
}

// TestFailuresAreNotRemembered lets pass 1 fail once, and keeps salts apart.
func TestFailuresAreNotRemembered(t *testing.T) {
	strategy, s := talking(t, &contract.Conversation{Mode: contract.ConversationKeep})
	s.fail = errors.New("odd weights")
	r := adapt.Request{Turns: []string{"ccc"}}
	if d, err := strategy.Decide(t.Context(), r); err != nil || d.Fallback != contract.FallbackFailed || d.Cause == nil {
		t.Errorf("%+v, %v", d, err)
	}
	s.fail = nil
	for _, salt := range []string{"", "a", "b"} {
		r.Salt = salt
		before := s.calls
		if d, err := strategy.Decide(t.Context(), r); err != nil || d.Expert != "demo-code" || s.calls != before+1 {
			t.Errorf("salt %q: %+v after %d passes, %v", salt, d, s.calls-before, err)
		}
	}
	s.fail = errBusy
	if _, err := strategy.Decide(t.Context(), adapt.Request{Turns: []string{"mmm"}}); !errors.Is(err, errBusy) {
		t.Errorf("an engine that is full: %v", err)
	}
}

// TestMemoryIsBounded asks more than is remembered: the first is forgotten, the last is
// not.
func TestMemoryIsBounded(t *testing.T) {
	strategy, s := talking(t, nil)
	for i := range 5000 {
		if _, err := strategy.Decide(t.Context(), adapt.Request{Turns: []string{fmt.Sprint("m", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, reads := range map[int]int{4999: 0, 0: 1} {
		before := s.calls
		if _, err := strategy.Decide(t.Context(), adapt.Request{Turns: []string{fmt.Sprint("m", i)}}); err != nil || s.calls-before != reads {
			t.Errorf("request %d: %d passes, want %d; %v", i, s.calls-before, reads, err)
		}
	}
}

func TestConversationsOfASetAreChecked(t *testing.T) {
	for want, change := range map[string]func(*contract.ExpertSet){
		`conversation "Always" is unknown: use EachTurn or Keep or Switch`: func(s *contract.ExpertSet) {
			s.Conversation = &contract.Conversation{Mode: "Always"}
		},
		"the margin of conversations is 2, must be from 0 to 1": func(s *contract.ExpertSet) {
			s.Conversation = &contract.Conversation{Mode: contract.ConversationSwitch, Margin: 2}
		},
		"a margin is for conversation Switch alone": func(s *contract.ExpertSet) {
			s.Conversation = &contract.Conversation{Mode: contract.ConversationKeep, Margin: 0.5}
		},
		"conversation is of no use to strategy Fixed, whose choices are not by the user's turns": func(s *contract.ExpertSet) {
			s.Strategy, s.Conversation = contract.StrategyFixed, &contract.Conversation{}
		},
	} {
		set := demoSet()
		change(&set)
		if err := adapt.Validate(set); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
