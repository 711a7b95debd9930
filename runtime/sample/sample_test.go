package sample

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	inf = float32(math.Inf(1))
	nan = float32(math.NaN())
)

func TestArgmax(t *testing.T) {
	tests := []struct {
		name    string
		logits  []float32
		want    int32
		wantErr bool
	}{
		{name: "the largest wins", logits: []float32{-3, 2, 1}, want: 1},
		{name: "the lowest id wins among equals", logits: []float32{0, 5, 5}, want: 1},
		{name: "minus infinity is allowed beside numbers", logits: []float32{-inf, -7}, want: 1},
		{name: "only minus infinity is no choice", logits: []float32{-inf, -inf}, wantErr: true},
		{name: "NaN is refused even behind the largest", logits: []float32{9, nan}, wantErr: true},
		{name: "plus infinity is refused", logits: []float32{1, inf}, wantErr: true},
		{name: "an empty vocabulary is refused", wantErr: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Argmax(test.logits)
			if (err != nil) != test.wantErr || (err != nil && !errors.Is(err, ErrNotFinite)) {
				t.Fatalf("Argmax error = %v, want error: %v", err, test.wantErr)
			}
			if err == nil && got != test.want {
				t.Errorf("Argmax = %d, want %d", got, test.want)
			}
		})
	}
}

func TestDrawsFollowTheProbabilities(t *testing.T) {
	// Probabilities 0.1, 0.2, 0.3, 0.4 at temperature 1.
	logits := []float32{0, float32(math.Log(2)), float32(math.Log(3)), float32(math.Log(4))}
	tests := []struct {
		name   string
		params Params
		want   []float64
	}{
		{name: "all tokens", params: Params{Temperature: 1}, want: []float64{.1, .2, .3, .4}},
		{name: "half the temperature squares the odds", params: Params{Temperature: .5},
			want: []float64{1. / 30, 4. / 30, 9. / 30, 16. / 30}},
		{name: "top-k keeps the two most likely", params: Params{Temperature: 1, TopK: 2},
			want: []float64{0, 0, 3. / 7, 4. / 7}},
		{name: "top-p keeps as few as reach it", params: Params{Temperature: 1, TopP: .65},
			want: []float64{0, 0, 3. / 7, 4. / 7}},
		{name: "top-p is of what top-k left", params: Params{Temperature: 1, TopK: 3, TopP: .44},
			want: []float64{0, 0, 0, 1}},
		{name: "min-p is of the most likely", params: Params{Temperature: 1, MinP: .6},
			want: []float64{0, 0, 3. / 7, 4. / 7}},
		{name: "min-p of 1 leaves the most likely", params: Params{Temperature: 1, MinP: 1}, want: []float64{0, 0, 0, 1}},
		{name: "min-p comes behind the temperature", params: Params{Temperature: .5, MinP: .6}, want: []float64{0, 0, 0, 1}},
		{name: "top-p is of what min-p left", params: Params{Temperature: 1, MinP: .6, TopP: .5}, want: []float64{0, 0, 0, 1}},
		{name: "min-p and top-k leave what both leave", params: Params{Temperature: 1, MinP: .4, TopK: 2},
			want: []float64{0, 0, 3. / 7, 4. / 7}},
		{name: "min-p is of the biased", params: Params{Temperature: 1, MinP: .6, Bias: map[int32]float64{0: math.Log(6)}},
			want: []float64{.6, 0, 0, .4}},
		{name: "top-k above the vocabulary keeps all", params: Params{Temperature: 1, TopK: 99},
			want: []float64{.1, .2, .3, .4}},
		{name: "temperature zero is greedy", params: Params{}, want: []float64{0, 0, 0, 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			const n = 40000
			s := New(test.params, Stream(7, 1))
			counts := make([]int, len(logits))
			for range n {
				id, err := s.Next(logits)
				if err != nil {
					t.Fatal(err)
				}
				counts[id]++
			}
			for i, want := range test.want {
				// Five standard deviations of a binomial.
				got, tolerance := float64(counts[i])/n, 5*math.Sqrt(want*(1-want)/n)
				if math.Abs(got-want) > tolerance {
					t.Errorf("token %d was drawn with frequency %.4f, want %.4f ± %.4f", i, got, want, tolerance)
				}
			}
		})
	}
}

func TestPenaltiesAndBiasChangeTheChoice(t *testing.T) {
	logits := []float32{0, 3, 2.5, 1}
	tests := []struct {
		name   string
		params Params
		want   []int32
	}{
		{name: "none", want: []int32{1, 1, 1, 1}},
		{name: "presence counts once", params: Params{PresencePenalty: 1}, want: []int32{1, 2, 1, 1}},
		{name: "frequency counts each time", params: Params{FrequencyPenalty: 1}, want: []int32{1, 2, 1, 2}},
		{name: "both add up", params: Params{PresencePenalty: 2, FrequencyPenalty: .1}, want: []int32{1, 2, 3, 1}},
		{name: "a bias bans and lifts", params: Params{Bias: map[int32]float64{1: -100, 3: 2}}, want: []int32{3, 3, 3, 3}},
		{name: "a bias and a penalty add up", params: Params{Bias: map[int32]float64{3: 2.25}, PresencePenalty: 1}, want: []int32{3, 1, 2, 3}},
		{name: "a negative one encourages", params: Params{FrequencyPenalty: -1}, want: []int32{1, 1, 1, 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := New(test.params, nil)
			before := append([]float32(nil), logits...)
			var got []int32
			for range test.want {
				token, err := s.Next(logits)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, token)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(before, logits); diff != "" {
				t.Errorf("the logits changed: %s", diff)
			}
		})
	}
}

func TestRepetitionPenaltyIsForPromptAndAnswer(t *testing.T) {
	tests := []struct {
		name   string
		params Params
		logits []float32
		prompt []int32
		want   []int32
	}{
		// 3/1.5 = 2 is below 2.5, 2.5/1.5 = 1.67 below 2.
		{name: "of the answer, once however often", params: Params{RepetitionPenalty: 1.5}, logits: []float32{0, 3, 2.5, 1},
			want: []int32{1, 2, 1, 1}},
		// 3/4 = 0.75 and 2.5/4 = 0.63 are below 1, 1/4 is below them.
		{name: "and of the prompt", params: Params{RepetitionPenalty: 4}, logits: []float32{0, 3, 2.5, 1}, prompt: []int32{1, 1, 2},
			want: []int32{3, 1, 1}},
		// −1·2 = −2 is below −1.5.
		{name: "negative logits are multiplied", params: Params{RepetitionPenalty: 2}, logits: []float32{-9, -1, -1.5}, prompt: []int32{1},
			want: []int32{2, 1}},
		// 3/2 + 2 = 3.5 is above 3.2, (3 + 2)/2 = 2.5 would not be.
		{name: "it comes before the bias", params: Params{RepetitionPenalty: 2, Bias: map[int32]float64{0: 2}}, logits: []float32{3, 3.2},
			want: []int32{0, 0, 0}},
		// 4/2 − 1 = 1 is below 1.25, (4 − 1)/2 = 1.5 would not be.
		{name: "and before the other penalties", params: Params{RepetitionPenalty: 2, PresencePenalty: 1}, logits: []float32{4, 1.25},
			want: []int32{0, 1, 0}},
		{name: "below 1 encourages", params: Params{RepetitionPenalty: .5}, logits: []float32{3, 2}, prompt: []int32{1}, want: []int32{1, 1}},
		{name: "1 is none", params: Params{RepetitionPenalty: 1}, logits: []float32{3, 2}, prompt: []int32{0}, want: []int32{0, 0}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := New(test.params, nil)
			s.Read(test.prompt)
			var got []int32
			for range test.want {
				token, err := s.Next(test.logits)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, token)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestStreamsAreReproducibleAndDifferent(t *testing.T) {
	names := [][]uint64{{0}, {1}, {0, 0}, {0, 1}, {1, 0}, {0, 0, 0}, {1 << 40}, {0, 1 << 40}}
	seen := map[uint64][]uint64{}
	for _, name := range names {
		a, b := Stream(name[0], name[1:]...), Stream(name[0], name[1:]...)
		for range 8 {
			x := a.Uint64()
			if y := b.Uint64(); x != y {
				t.Fatalf("stream %v gave %d and %d", name, x, y)
			}
			if other, ok := seen[x]; ok {
				t.Errorf("streams %v and %v share the value %d", other, name, x)
			}
			seen[x] = name
		}
	}
}

func TestChoiceDoesNotDependOnEarlierSequences(t *testing.T) {
	logits := []float32{.1, .2, .3, .4, .5}
	fresh := New(Params{Temperature: 1, TopK: 4, TopP: .9}, Stream(3, 9))
	used := New(Params{Temperature: 1, TopK: 4, TopP: .9}, Stream(3, 8))
	if _, err := used.Next(make([]float32, 300)); err != nil { // leaves large scratch behind
		t.Fatal(err)
	}
	used.rng = Stream(3, 9)
	var a, b []int32
	for range 20 {
		x, errX := fresh.Next(logits)
		y, errY := used.Next(logits)
		if err := errors.Join(errX, errY); err != nil {
			t.Fatal(err)
		}
		a, b = append(a, x), append(b, y)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("tokens differ (-fresh +used):\n%s", diff)
	}
}

func TestParamsOutOfRangeAreNamed(t *testing.T) {
	for name, p := range map[string]Params{
		"negative temperature": {Temperature: -1}, "NaN temperature": {Temperature: math.NaN()},
		"negative top-k": {TopK: -1}, "top-p above one": {TopP: 1.1}, "NaN top-p": {TopP: math.NaN()},
		"negative min-p": {MinP: -.1}, "min-p above one": {MinP: 1.1}, "NaN min-p": {MinP: math.NaN()},
		"negative repetition": {RepetitionPenalty: -1}, "NaN repetition": {RepetitionPenalty: math.NaN()},
		"repetition too large": {RepetitionPenalty: 1e9},
		"NaN bias":             {Bias: map[int32]float64{1: math.NaN()}}, "a bias too large": {Bias: map[int32]float64{1: 1e9}},
	} {
		if p.Validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := (Params{Temperature: 1, TopK: 40, TopP: .95}).Validate(); err != nil {
		t.Errorf("ordinary parameters were refused: %v", err)
	}
}
