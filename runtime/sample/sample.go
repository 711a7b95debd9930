// Package sample turns logits into tokens. It is pure: the same logits,
// parameters and generator state give the same token, whatever else shares the
// batch, and generators are streams named by numbers (Stream), so that a
// sequence's draws do not depend on when it is scheduled.
//
// The order of transforms is fixed: penalties and bias, then temperature, then top-k, then
// top-p, then one draw.
package sample

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Params say how to choose among the vocabulary.
type Params struct {
	// Temperature divides the logits; 0 means the most likely token (greedy),
	// and then TopK and TopP have no effect.
	Temperature float64
	// TopK keeps the k most likely tokens; 0 keeps all.
	TopK int
	// TopP keeps the fewest most likely tokens whose probabilities sum to at
	// least TopP; 0 or 1 keeps all.
	TopP float64
	// FrequencyPenalty is subtracted from a token's logit for each time that the
	// sampler has chosen it, PresencePenalty once if it ever has (OpenAI's
	// definition). Negative ones encourage.
	FrequencyPenalty, PresencePenalty float64
	// Bias is added to the logits of these tokens: −100 as good as bans a token,
	// 100 as good as forces it (OpenAI's logit_bias). Every token must be in the
	// vocabulary.
	Bias map[int32]float64
}

// changesLogits reports whether any logit is changed before the choice.
func (p Params) changesLogits() bool {
	return p.FrequencyPenalty != 0 || p.PresencePenalty != 0 || len(p.Bias) > 0
}

// Validate names the parameter that is out of range.
func (p Params) Validate() error {
	switch {
	case math.IsNaN(p.Temperature) || p.Temperature < 0 || p.Temperature > 100:
		return fmt.Errorf("temperature %v is out of range: it must be from 0 to 100", p.Temperature)
	case p.TopK < 0:
		return fmt.Errorf("top-k %d is negative: it must be 0 (all tokens) or more", p.TopK)
	case math.IsNaN(p.TopP) || p.TopP < 0 || p.TopP > 1:
		return fmt.Errorf("top-p %v is out of range: it must be from 0 to 1", p.TopP)
	case !(math.Abs(p.FrequencyPenalty) <= maxPenalty):
		return fmt.Errorf("frequency penalty %v is out of range: it must be from -%d to %d", p.FrequencyPenalty, maxPenalty, maxPenalty)
	case !(math.Abs(p.PresencePenalty) <= maxPenalty):
		return fmt.Errorf("presence penalty %v is out of range: it must be from -%d to %d", p.PresencePenalty, maxPenalty, maxPenalty)
	}
	for token, bias := range p.Bias {
		if !(math.Abs(bias) <= maxPenalty) {
			return fmt.Errorf("the bias of token %d is %v: it must be from -%d to %d", token, bias, maxPenalty, maxPenalty)
		}
	}
	return nil
}

// maxPenalty, which bounds a bias too, is far beyond what makes sense, and keeps logits finite.
const maxPenalty = 100

// ErrNotFinite says that no token can be chosen because the model's logits are
// not numbers.
var ErrNotFinite = errors.New("logits are not finite")

// Stream returns the generator named by a seed and a path of numbers, such as
// (iteration, index). Different names give independent streams.
func Stream(seed uint64, path ...uint64) *rand.Rand {
	// Each component is mixed into both halves of PCG's state, so that
	// neighbouring names share nothing.
	hi, lo := mix(seed), mix(seed^0x9e3779b97f4a7c15)
	for _, n := range path {
		hi = mix(hi ^ mix(n))
		lo = mix(lo + mix(n^0xd1b54a32d192ed03))
	}
	return rand.New(rand.NewPCG(hi, lo)) //nolint:gosec // Reproducible sampling, no secret.
}

// mix is the finaliser of SplitMix64: a bijection that flips half of the bits
// for each bit flipped.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Sampler chooses the tokens of one sequence. It is not safe for concurrent
// use.
type Sampler struct {
	params Params
	rng    *rand.Rand
	probs  []float64
	ids    []int32
	// counts are how often each token was chosen, where penalties ask for it.
	counts  map[int32]int
	changed []float32
}

// New returns a sampler; params must be valid. A greedy one never draws, so
// rng may be nil when Temperature is 0.
func New(params Params, rng *rand.Rand) *Sampler {
	return &Sampler{params: params, rng: rng}
}

// Next chooses the next token from the logits [V] of one position. It returns
// ErrNotFinite if a logit is NaN or +Inf, or if all are −Inf.
func (s *Sampler) Next(logits []float32) (int32, error) {
	if !s.params.changesLogits() {
		return s.choose(logits)
	}
	token, err := s.choose(s.change(logits))
	if err == nil {
		if s.counts == nil {
			s.counts = map[int32]int{}
		}
		s.counts[token]++
	}
	return token, err
}

// change returns a copy of the logits with the bias, less the penalties.
func (s *Sampler) change(logits []float32) []float32 {
	s.changed = append(s.changed[:0], logits...)
	for token, bias := range s.params.Bias {
		s.changed[token] += float32(bias)
	}
	for token, n := range s.counts {
		s.changed[token] -= float32(s.params.PresencePenalty + float64(n)*s.params.FrequencyPenalty)
	}
	return s.changed
}

func (s *Sampler) choose(logits []float32) (int32, error) {
	best, err := Argmax(logits)
	if err != nil || s.params.Temperature == 0 {
		return best, err
	}
	peak := float64(logits[best])
	s.probs = slices.Grow(s.probs[:0], len(logits))[:len(logits)]
	inv := 1 / s.params.Temperature
	if k, p := s.params.TopK, s.params.TopP; (k == 0 || k >= len(logits)) && (p == 0 || p == 1) {
		sum := 0.0
		for i, l := range logits {
			e := math.Exp((float64(l) - peak) * inv)
			s.probs[i] = e
			sum += e
		}
		return int32(draw(s.probs, s.rng.Float64()*sum)), nil
	}
	return s.nextTruncated(logits, peak, inv), nil
}

// nextTruncated applies top-k and top-p to the tokens sorted by probability.
func (s *Sampler) nextTruncated(logits []float32, peak, inv float64) int32 {
	s.ids = slices.Grow(s.ids[:0], len(logits))[:len(logits)]
	for i := range s.ids {
		s.ids[i] = int32(i)
	}
	slices.SortFunc(s.ids, func(a, b int32) int {
		if c := cmp.Compare(logits[b], logits[a]); c != 0 {
			return c
		}
		return cmp.Compare(a, b) // ties: the lower id first, so that cuts are reproducible
	})
	n := len(s.ids)
	if s.params.TopK > 0 {
		n = min(n, s.params.TopK)
	}
	probs, sum := s.probs[:n], 0.0
	for i := range n {
		probs[i] = math.Exp((float64(logits[s.ids[i]]) - peak) * inv)
		sum += probs[i]
	}
	if p := s.params.TopP; p > 0 && p < 1 {
		kept := 0.0
		for i := range n {
			kept += probs[i]
			if kept >= p*sum {
				n, sum = i+1, kept
				break
			}
		}
		probs = probs[:n]
	}
	return s.ids[draw(probs, s.rng.Float64()*sum)]
}

// draw returns the first index at which the running sum of weights exceeds x.
// Rounding may leave x just above the whole sum; then it is the last index
// with any weight.
func draw(weights []float64, x float64) int {
	last := 0
	for i, w := range weights {
		if w > 0 {
			last = i
		}
		if x -= w; x < 0 {
			return i
		}
	}
	return last
}

// Argmax returns the token with the largest logit, the lowest id among equals.
// It returns ErrNotFinite if a logit is NaN or +Inf, or if none is above −Inf.
func Argmax(logits []float32) (int32, error) {
	best, at := float32(math.Inf(-1)), -1
	for i, l := range logits {
		if l > best {
			best, at = l, i
		}
		if l != l {
			return 0, fmt.Errorf("%w: token %d has NaN", ErrNotFinite, i)
		}
	}
	if at < 0 || math.IsInf(float64(best), 1) {
		return 0, fmt.Errorf("%w: the largest is %v", ErrNotFinite, best)
	}
	return int32(at), nil
}
