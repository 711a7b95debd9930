package backendtest

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/sample"
)

// decide wants the tokens that package sample chooses, and its likelihoods, for draws
// of every kind about the same rows.
func (s *suite) decide(t *testing.T) {
	for _, vocabulary := range []int{1, 5, 700, 4099} {
		const rows = 6
		logits := scaled(random(rows*vocabulary, uint64(vocabulary)), 3)
		if vocabulary > 1 { // Equal ones, at the peak, too.
			logits[vocabulary], logits[vocabulary+1] = 50, 50
		}
		var asks []backend.Ask
		for i, draw := range draws(vocabulary) {
			asks = append(asks, backend.Ask{Row: i % rows, Draw: &draw, Scores: []int32{0, int32(vocabulary - 1)}, Logits: i%3 == 0})
		}
		asks = append(asks, backend.Ask{}, backend.Ask{Row: rows - 1, Scores: []int32{int32(vocabulary / 2)}})
		for _, be := range s.variants {
			b := newBuffer(t, be, logits)
			answers, err := be.Decide(b, rows, asks)
			if err != nil {
				t.Fatal(err)
			}
			for i, ask := range asks {
				wantAnswer(t, name("vocabulary ", vocabulary, ", ask ", i), answers[i], ask, logits[ask.Row*vocabulary:][:vocabulary])
			}
			after := make([]float32, len(logits))
			if err := be.Download(after, b); err != nil {
				t.Fatal(err)
			}
			if !sameBits(after, logits) {
				t.Errorf("%s changed the logits", be.Name())
			}
			be.Free(b)
		}
	}
	s.decideNotFinite(t)
}

// draws are choices of every kind among so many tokens.
func draws(vocabulary int) []sample.Draw {
	last := int32(vocabulary - 1)
	out := []sample.Draw{
		{},
		{Repeated: []int32{0, last}, RepetitionPenalty: 1.7},
		{Bias: []sample.Adjustment{{Token: last, Add: 30}}},
		{Bias: []sample.Adjustment{{Token: 0, Add: -3}}, Penalties: []sample.Adjustment{{Token: 0, Add: -0.25}, {Token: last, Add: -1.5}}},
	}
	if vocabulary == 1 { // Twice the same token is no list.
		out = out[:1]
	}
	for _, uniform := range []float64{0, 0.1, 0.37, 0.5, 0.82, 0.999, math.Nextafter(1, 0)} {
		for _, d := range []sample.Draw{
			{Temperature: 1},
			{Temperature: 0.3},
			{Temperature: 100},
			{Temperature: 1, TopK: 1},
			{Temperature: 0.8, TopK: 7},
			{Temperature: 1.2, TopP: 0.9},
			{Temperature: 1, TopP: 0.05},
			{Temperature: 1, TopK: 40, TopP: 0.7},
			{Temperature: 1, MinP: 0.1},
			{Temperature: 0.7, MinP: 0.02, TopK: 50, TopP: 0.95},
			{Temperature: 1, TopK: 1 << 20},
		} {
			d.Uniform = uniform
			out = append(out, d)
		}
	}
	return append(out, allowed(vocabulary)...)
}

// allowed are choices among some of so many tokens: every third, those of a half, all, the
// last, with what changes logits and without. Words that are not there allow none.
func allowed(vocabulary int) []sample.Draw {
	words := (vocabulary + 63) / 64
	third, all, last, half := make([]uint64, words), make([]uint64, words), make([]uint64, words), make([]uint64, words/2+1)
	for i := range vocabulary {
		if all[i/64] |= 1 << (i % 64); i%3 == 0 {
			third[i/64] |= 1 << (i % 64)
		}
	}
	last[words-1] = 1 << ((vocabulary - 1) % 64)
	for i := range half {
		half[i] = all[i]
	}
	var out []sample.Draw
	for _, bits := range [][]uint64{third, all, last, half} {
		for _, d := range []sample.Draw{
			{},
			{Temperature: 1, Uniform: 0.4},
			{Temperature: 0.7, Uniform: 0.99, TopK: 5, TopP: 0.9},
			{Temperature: 1, Uniform: 0.2, MinP: 0.05},
			{Temperature: 1, Uniform: 0.6, Repeated: []int32{int32(vocabulary - 1)}, RepetitionPenalty: 1.3, Bias: []sample.Adjustment{{Token: 0, Add: 40}}},
			{Bias: []sample.Adjustment{{Token: int32(vocabulary / 2), Add: 90}}},
		} {
			d.Allowed = bits
			out = append(out, d)
		}
	}
	return out
}

func wantAnswer(t *testing.T, what string, got backend.Answer, ask backend.Ask, row []float32) {
	t.Helper()
	if got.Err != nil {
		t.Fatalf("%s: %v", what, got.Err)
	}
	if ask.Draw != nil {
		want, err := (&sample.Chooser{}).Choose(row, ask.Draw)
		if err != nil {
			t.Fatal(err)
		}
		if got.Token != want {
			t.Errorf("%s (%+v): token %d was chosen, want %d", what, *ask.Draw, got.Token, want)
		}
	}
	if ask.Logits != (got.Logits != nil) || ask.Logits && !sameBits(got.Logits, row) {
		t.Errorf("%s: asked for logits: %v, and got %d", what, ask.Logits, len(got.Logits))
	}
	if len(got.Scores) != len(ask.Scores) {
		t.Fatalf("%s: %d scores, want %d", what, len(got.Scores), len(ask.Scores))
	}
	logs := refLogSoftmax(widen(row), 1)
	for i, token := range ask.Scores {
		if want := logs[token]; !(math.Abs(got.Scores[i]-want) <= 1e-9*(1+math.Abs(want))) {
			t.Errorf("%s: token %d has the log-probability %v, want %v", what, token, got.Scores[i], want)
		}
	}
}

// decideNotFinite wants an error for rows of which no token can be chosen, and for no
// other; a token that is banned is fine.
func (s *suite) decideNotFinite(t *testing.T) {
	const vocabulary = 37
	inf := float32(math.Inf(1))
	logits := random(5*vocabulary, 3)
	logits[5] = float32(math.NaN())
	logits[vocabulary+36] = inf
	for i := range vocabulary {
		logits[2*vocabulary+i] = -inf
	}
	logits[3*vocabulary] = -inf
	var asks []backend.Ask
	for row := range 5 {
		asks = append(asks, backend.Ask{Row: row, Draw: &sample.Draw{}}, backend.Ask{Row: row, Draw: &sample.Draw{Temperature: 1, TopP: 0.5, Uniform: 0.4}},
			backend.Ask{Row: row, Scores: []int32{1}})
	}
	for _, be := range s.variants {
		b := newBuffer(t, be, logits)
		answers, err := be.Decide(b, 5, asks)
		if err != nil {
			t.Fatal(err)
		}
		// NaN is nothing to a choice among others, and no choice is one of none.
		some, none := []uint64{1<<4 | 1<<36}, []uint64{0}
		among, err := be.Decide(b, 5, []backend.Ask{{Row: 0, Draw: &sample.Draw{Allowed: some}}, {Row: 2, Draw: &sample.Draw{Allowed: some}}, {Row: 4, Draw: &sample.Draw{Allowed: none}}})
		if err != nil {
			t.Fatal(err)
		}
		if among[0].Err != nil || among[0].Token != 4 && among[0].Token != 36 || !errors.Is(among[1].Err, sample.ErrNotFinite) || !errors.Is(among[2].Err, sample.ErrNotFinite) {
			t.Errorf("%s chooses among some, among −Inf and among none: %+v", be.Name(), among)
		}
		for i, a := range answers {
			if bad := asks[i].Row < 3; errors.Is(a.Err, sample.ErrNotFinite) != bad {
				t.Errorf("row %d, ask %d: error %v", asks[i].Row, i, a.Err)
			}
		}
		for what, ask := range map[string]backend.Ask{
			"a row that is not there": {Row: 5, Draw: &sample.Draw{}},
			"a negative row":          {Row: -1},
			"a token past the end":    {Scores: []int32{vocabulary}},
			"a bias past the end":     {Draw: &sample.Draw{Bias: []sample.Adjustment{{Token: vocabulary}}}},
			"a negative repetition":   {Draw: &sample.Draw{Repeated: []int32{-1}, RepetitionPenalty: 2}},
		} {
			if _, err := be.Decide(b, 5, []backend.Ask{ask}); err == nil {
				t.Errorf("%s: no error from %s", what, be.Name())
			}
		}
		be.Free(b)
	}
}

// policyGradient compares with the formula in float64, whose gradient is compared
// with central differences.
func (s *suite) policyGradient(t *testing.T) {
	const scale = 0.125
	for _, c := range []struct{ n, vocabulary int }{{1, 2}, {3, 11}, {9, 700}, {2, 4099}} {
		for _, klWeight := range []float64{0, 0.3} {
			for _, based := range []bool{false, true} {
				if !based && klWeight != 0 {
					continue
				}
				logits, base := scaled(random(c.n*c.vocabulary, 1), 2), random(c.n*c.vocabulary, 2)
				positions := make([]backend.Position, c.n)
				for i := range positions {
					positions[i] = backend.Position{Token: int32((i*7 + 1) % c.vocabulary), Advantage: []float64{1, -1, 0.25}[i%3]}
				}
				other := base
				if !based {
					base, other = nil, logits // No divergence is asked for.
				}
				loss := func(logits []float64) float64 {
					var sum float64
					for i, l := range refLosses(logits, widen(other), positions) {
						sum += -positions[i].Advantage*l.LogProb + klWeight*l.KL
					}
					return scale * sum
				}
				var losses []backend.Loss
				got := s.compute(t, []int{0}, [][]float32{logits, base}, func(be backend.Backend, b []backend.Buffer) (err error) {
					losses, err = be.PolicyGradient(b[0], b[1], positions, klWeight, scale)
					return err
				})[0]
				if c.n*c.vocabulary < 100 {
					near(t, name("policy gradient ", c), got, numeric(logits, loss), 1e-9)
				}
				alone := s.compute(t, []int{0}, [][]float32{logits[:c.vocabulary], first(base, c.vocabulary)}, func(be backend.Backend, b []backend.Buffer) (err error) {
					_, err = be.PolicyGradient(b[0], b[1], positions[:1], klWeight, scale)
					return err
				})[0]
				if !sameBits(alone, got[:c.vocabulary]) {
					t.Errorf("%v: the first row differs from the row computed alone", c)
				}
				for i, want := range refLosses(widen(logits), widen(other), positions) {
					if base == nil {
						want.KL = 0
					}
					if l := losses[i]; !(math.Abs(l.LogProb-want.LogProb) < 1e-8*(1+math.Abs(want.LogProb)) && math.Abs(l.KL-want.KL) < 1e-8*(1+want.KL)) {
						t.Errorf("%v: position %d has the loss %+v, want %+v", c, i, l, want)
					}
				}
				s.gradientFormula(t, got, logits, base, positions, klWeight, scale)
			}
		}
	}
	for _, be := range s.variants {
		b := newBuffer(t, be, make([]float32, 6))
		for what, positions := range map[string][]backend.Position{
			"rows that do not divide": make([]backend.Position, 4),
			"a token past the end":    {{Token: 0}, {Token: 3}},
		} {
			if _, err := be.PolicyGradient(b, nil, positions, 0, 1); err == nil {
				t.Errorf("%s: no error from %s", what, be.Name())
			}
		}
		if _, err := be.PolicyGradient(b, nil, make([]backend.Position, 2), 0.1, 1); err == nil {
			t.Errorf("a divergence from nothing: no error from %s", be.Name())
		}
	}
}

func first(v []float32, n int) []float32 {
	if v == nil {
		return nil
	}
	return slices.Clone(v[:n])
}

// gradientFormula compares with scale·[a·(π' − 1) + λ·π'·(log π'/π − KL)].
func (s *suite) gradientFormula(t *testing.T, got, logits, base []float32, positions []backend.Position, klWeight, scale float64) {
	t.Helper()
	c := len(logits) / len(positions)
	want := make([]float64, len(logits))
	for i, p := range positions {
		mine := refLogSoftmax(widen(logits[i*c:][:c]), 1)
		theirs := mine
		if base != nil {
			theirs = refLogSoftmax(widen(base[i*c:][:c]), 1)
		}
		var kl float64
		for v := range mine {
			kl += math.Exp(mine[v]) * (mine[v] - theirs[v])
		}
		for v := range mine {
			prob := math.Exp(mine[v])
			g := p.Advantage*prob + klWeight*prob*(mine[v]-theirs[v]-kl)
			if int32(v) == p.Token {
				g -= p.Advantage
			}
			want[i*c+v] = scale * g
		}
	}
	near(t, "policy gradient by its formula", got, want, boundExp)
}

func refLosses(logits, base []float64, positions []backend.Position) []backend.Loss {
	c := len(logits) / len(positions)
	out := make([]backend.Loss, len(positions))
	for i, p := range positions {
		mine, theirs := refLogSoftmax(logits[i*c:][:c], 1), refLogSoftmax(base[i*c:][:c], 1)
		out[i].LogProb = mine[p.Token]
		for v := range mine {
			out[i].KL += math.Exp(mine[v]) * (mine[v] - theirs[v])
		}
	}
	return out
}
