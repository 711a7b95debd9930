package sample

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestExpIsThatOfTheLibrary(t *testing.T) {
	rng := Stream(1)
	for _, n := range []int{0, 1, 2, 3, 511, 512, 513} {
		x, y := make([]float32, n), make([]float64, n)
		for i := range x {
			x[i] = 5 - float32(rng.ExpFloat64()*[]float64{1e-6, 1, 30, 300}[i%4])
		}
		if n > 2 {
			x[0], x[n-1] = 5, -inf
		}
		const scale = 1.7
		sum, want := Exp(y, x, 5, scale), 0.0
		for i, v := range x {
			e := math.Exp((float64(v) - 5) * scale)
			want += e
			if e < math.Exp(-700) {
				e = 0
			}
			if math.Abs(y[i]-e) > 4e-13*e {
				t.Errorf("e^(%v·%v) is %v, want %v", v-5, scale, y[i], e)
			}
		}
		if math.Abs(sum-want) > 1e-12*want {
			t.Errorf("the sum of %d is %v, want %v", n, sum, want)
		}
	}
}

func TestExpOfNaN(t *testing.T) {
	for i := range 3 {
		x, y := make([]float32, 3), make([]float64, 3)
		x[i] = nan
		if sum := Exp(y, x, 0, 1); sum == sum || y[i] == y[i] {
			t.Errorf("e^NaN is %v, in a sum %v", y[i], sum)
		}
	}
}

func TestLogSum(t *testing.T) {
	logits := make([]float32, 3*block+7)
	want := 0.0
	for i := range logits {
		logits[i] = float32(40 + i%13)
		want += math.Exp(float64(i%13) - 12)
	}
	want = 52 + math.Log(want)
	if got, err := LogSum(logits); err != nil || math.Abs(got-want) > 1e-11 {
		t.Errorf("LogSum = %v, %v, want %v", got, err, want)
	}
	logits[9] = nan
	if got, err := LogSum(logits); !errors.Is(err, ErrNotFinite) {
		t.Errorf("LogSum with NaN = %v, %v", got, err)
	}
}

// TestChoicesAreThoseOfASort compares with the definition: sort all tokens, cut,
// and find the draw in the running sum.
func TestChoicesAreThoseOfASort(t *testing.T) {
	rng := Stream(2)
	for i := range 3000 {
		logits := madeUp(rng)
		params := Params{Temperature: math.Exp(rng.NormFloat64())}
		if i%7 == 0 {
			params.Temperature = []float64{1e-3, 100, 1e-320}[i%3]
		}
		if i%2 == 0 {
			params.TopK = 1 + rng.IntN(len(logits)+3)
		}
		if i%3 > 0 {
			params.TopP = []float64{rng.Float64(), 0.9, 1 - 1e-16, 1e-322}[rng.IntN(4)]
		}
		got, err := New(params, Stream(3, uint64(i))).Next(logits)
		if want := sorted(logits, params, Stream(3, uint64(i)).Float64()); err != nil || got != want {
			t.Fatalf("%d: of %d tokens, with %+v, %d was chosen (error %v), want %d", i, len(logits), params, got, err, want)
		}
	}
}

// madeUp returns logits, some of them equal, some −Inf.
func madeUp(rng *rand.Rand) []float32 {
	logits := make([]float32, 1+rng.IntN(2*block+100))
	spread := math.Exp(2 * rng.NormFloat64())
	for i := range logits {
		logits[i] = float32(spread * rng.NormFloat64())
		switch rng.IntN(8) {
		case 0:
			logits[i] = float32(math.Round(float64(logits[i])))
		case 1:
			logits[i] = -inf
		}
	}
	logits[rng.IntN(len(logits))] = 0
	return logits
}

func sorted(logits []float32, params Params, u float64) int32 {
	ids := make([]int32, len(logits))
	for i := range ids {
		ids[i] = int32(i)
	}
	truncated := params.TopK > 0 && params.TopK < len(ids) || params.TopP > 0 && params.TopP < 1
	if truncated {
		slices.SortStableFunc(ids, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
		ids = ids[:min(len(ids), cmp.Or(params.TopK, len(ids)))]
	}
	peak := float64(slices.Max(logits))
	weight := func(id int32) float64 { return math.Exp((float64(logits[id]) - peak) / params.Temperature) }
	sum := 0.0
	for _, id := range ids {
		sum += weight(id)
	}
	if p := params.TopP; p > 0 && p < 1 {
		kept := 0.0
		for i, id := range ids {
			if kept += weight(id); kept >= p*sum {
				ids, sum = ids[:i+1], kept
				break
			}
		}
	}
	x, last := u*sum, ids[0]
	for _, id := range ids {
		if w := weight(id); w > 0 {
			last = id
			if x -= w; x < 0 {
				break
			}
		}
	}
	return last
}
