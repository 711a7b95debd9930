package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// twins compute the same steps, each in a cache of its own: one records and repeats them
// where the backend can, and the other never does.
type twins struct {
	models, bases [2]*model.Model
	caches        [2]*model.Cache
	scales        [2][]*model.Scales
}

// newTwins makes models, factored as factors say, and caches of them.
func newTwins(t *testing.T, s shape, seqs, maxLen int, factored bool, options ...model.Option) *twins {
	t.Helper()
	be := newBackend(t, 2)
	if as := newModel(t, be, s, options...).DType(); as != backend.F32 {
		options = append(options, model.StoredAs(model.ServingStorage(be, as)))
	}
	w := &twins{bases: [2]*model.Model{newModel(t, be, s, options...), newModel(t, be, s, append(slices.Clone(options), model.Unrecorded())...)}}
	w.models = w.bases
	for i := range w.models {
		if factored {
			var err error
			if w.models[i], err = w.bases[i].WithFactors(randomFactors(w.bases[i])); err != nil {
				t.Fatal(err)
			}
		}
		c, err := w.models[i].NewCache(seqs, maxLen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		w.caches[i] = c
	}
	return w
}

// mix gives both a mixture more.
func (w *twins) mix(t *testing.T) {
	t.Helper()
	for i, m := range w.models {
		w.scales[i] = append(w.scales[i], newScales(t, m, mixture(randomFactors(w.bases[i]), uint64(3*len(w.scales[i])+1))))
	}
}

// scaled returns the i-th mixture, or none, of each twin.
func (w *twins) scaled(i int) [2]*model.Scales {
	if i < 0 {
		return [2]*model.Scales{}
	}
	return [2]*model.Scales{w.scales[0][i], w.scales[1][i]}
}

// decide computes a step in both and wants the same logits of every row, to the bit.
// scale has an index of a mixture for each segment.
func (w *twins) decide(t *testing.T, what string, segments []model.Segment, scale []int) {
	t.Helper()
	var rows [2][]float32
	for twin, m := range w.models {
		own, asks, n := slices.Clone(segments), []backend.Ask{}, 0
		for i := range own {
			if scale != nil {
				own[i].Scales = w.scaled(scale[i])[twin]
			}
			for range own[i].Rows() {
				asks = append(asks, backend.Ask{Row: n, Logits: true})
				n++
			}
		}
		answers, err := m.Decide(t.Context(), w.caches[twin], own, asks)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, a := range answers {
			rows[twin] = append(rows[twin], a.Logits...)
		}
	}
	for i := range rows[0] {
		if math.Float32bits(rows[0][i]) != math.Float32bits(rows[1][i]) {
			t.Fatalf("%s: logit %d is %v in a step that may be repeated, and %v in one that is not", what, i, rows[0][i], rows[1][i])
		}
	}
}

// TestRepeatedStepsAreThoseComputed runs decode steps of every size, of sequences of
// different lengths, twice each, and longer ones between them.
func TestRepeatedStepsAreThoseComputed(t *testing.T) {
	const seqs, maxLen = 13, 320
	s := tiny()
	s.MaxPositions = maxLen
	for _, kind := range backend.DTypes() {
		t.Run(kind.String(), func(t *testing.T) {
			w := newTwins(t, s, seqs, maxLen, false, model.WeightsAs(kind))
			token := func(i int) []int32 { return randomTokens(1, s.Vocab, uint64(i)) }
			for round := range 2 {
				for n := 1; n <= seqs; n++ {
					var segments []model.Segment
					for i := range n {
						segments = append(segments, model.Segment{Seq: (i + n) % seqs, Tokens: token(100*n + 10*i + round)})
					}
					w.decide(t, fmt.Sprintf("round %d, %d rows", round, n), segments, nil)
				}
				if round > 0 {
					break
				}
				// One is long from now on, and one is shared and written.
				w.decide(t, "a prompt", []model.Segment{{Seq: 2, Tokens: randomTokens(260, s.Vocab, 5)}, {Seq: 3, Tokens: token(1)}}, nil)
				for _, c := range w.caches {
					if err := c.CopyPrefix(5, 2, 250); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestRepeatedStepsFollowTheirModel replaces all that a recorded step has the address
// of: scales join until their bank is moved, sequences come and go, own scales change, and
// another cache needs a longer table of rotations.
func TestRepeatedStepsFollowTheirModel(t *testing.T) {
	const seqs = 6
	s := long()
	w := newTwins(t, s, seqs, 3*model.BlockSize, true)
	for _, m := range w.models {
		if err := m.RecordSteps(t.Context(), w.caches[0], 0, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.models[0].RecordSteps(t.Context(), w.caches[0], 3, true); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for turn := range 40 {
		switch {
		case turn < 20 && turn%2 == 0:
			w.mix(t)
		case turn == 23:
			for i, m := range w.models {
				name := m.Linears()[3].Name
				own := slices.Clone(randomFactors(w.bases[i])[name].S)
				for j := range own {
					own[j] *= 1.5
				}
				if err := m.SetParameters(name, model.Parameters{S: own}); err != nil {
					t.Fatal(err)
				}
			}
		case turn == 27:
			for _, m := range w.models {
				c, err := m.NewCache(1, s.MaxPositions)
				if err != nil {
					t.Fatal(err)
				}
				step(t, m, c, model.Segment{Tokens: randomTokens(s.MaxPositions-2, s.Vocab, 1)})
				if _, err := m.Decide(t.Context(), c, []model.Segment{{Tokens: []int32{1}}}, nil); err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
		case turn == 31: // The models are others with the same shapes, and the caches stay.
			for i := range w.models {
				merged, err := w.models[i].Merged(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				w.models[i] = merged
			}
		}
		var segments []model.Segment
		var scale []int
		for _, seq := range r.Perm(seqs)[:1+r.IntN(seqs)] {
			if w.caches[0].Len(seq) > 2*model.BlockSize || r.IntN(8) == 0 {
				left := r.IntN(2) * w.caches[0].Len(seq) / 2
				for _, c := range w.caches {
					if err := c.Truncate(seq, left); err != nil {
						t.Fatal(err)
					}
				}
			}
			n := 1
			if turn%5 == 4 {
				n = 1 + r.IntN(9)
			}
			segments = append(segments, model.Segment{Seq: seq, Tokens: randomTokens(n, s.Vocab, r.Uint64())})
			scale = append(scale, -1)
			if turn%3 > 0 && turn < 31 {
				scale[len(scale)-1] = r.IntN(len(w.scales[0])+1) - 1
			}
		}
		w.decide(t, fmt.Sprintf("turn %d", turn), segments, scale)
	}
}
