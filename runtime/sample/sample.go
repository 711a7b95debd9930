// Package sample turns logits into tokens. It is pure: the same logits,
// parameters and generator state give the same token, whatever else shares the
// batch, and generators are streams named by numbers (Stream), so that a
// sequence's draws do not depend on when it is scheduled.
//
// The order of transforms is fixed: tokens that a constraint rules out, the repetition
// penalty, then bias and the other penalties, then temperature, then min-p, then top-k, then
// top-p, then one draw.
package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Params say how to choose among the vocabulary.
type Params struct {
	// Temperature divides the logits; 0 means the most likely token (greedy),
	// and then MinP, TopK and TopP have no effect.
	Temperature float64
	// MinP keeps the tokens that are at least this many times as likely as the most
	// likely one, once the temperature has been applied; 0 keeps all.
	MinP float64
	// TopK keeps the k most likely tokens; 0 keeps all.
	TopK int
	// TopP keeps the fewest most likely tokens whose probabilities sum to at
	// least TopP; 0 or 1 keeps all.
	TopP float64
	// FrequencyPenalty is subtracted from a token's logit for each time that the
	// sampler has chosen it, PresencePenalty once if it ever has (OpenAI's
	// definition). Negative ones encourage.
	FrequencyPenalty, PresencePenalty float64
	// RepetitionPenalty divides the logits above zero, and multiplies those below,
	// of every token that the prompt has (see Sampler.Read) or that the sampler has
	// chosen, once however often (Hugging Face's definition). Above 1 discourages;
	// 0 or 1 changes nothing.
	RepetitionPenalty float64
	// Bias is added to the logits of these tokens: −100 as good as bans a token,
	// 100 as good as forces it (OpenAI's logit_bias). Every token must be in the
	// vocabulary.
	Bias map[int32]float64
}

// changesLogits reports whether any logit is changed before the choice.
func (p Params) changesLogits() bool {
	return p.FrequencyPenalty != 0 || p.PresencePenalty != 0 || len(p.Bias) > 0 || p.penalizesRepetition()
}

func (p Params) penalizesRepetition() bool {
	return p.RepetitionPenalty != 0 && p.RepetitionPenalty != 1
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
	case math.IsNaN(p.MinP) || p.MinP < 0 || p.MinP > 1:
		return fmt.Errorf("min-p %v is out of range: it must be from 0 to 1", p.MinP)
	case p.RepetitionPenalty != 0 && !(p.RepetitionPenalty >= MinRepetition && p.RepetitionPenalty <= MaxRepetition):
		return fmt.Errorf("repetition penalty %v is out of range: it must be from %v to %v", p.RepetitionPenalty, MinRepetition, MaxRepetition)
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

// MinRepetition is the least repetition penalty.
const MinRepetition = 0.01

// MaxRepetition is the largest repetition penalty.
const MaxRepetition = 100

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

// Draw is all that choosing one token needs but the logits: a Sampler makes it, and
// a Chooser, or a device, carries it out. Its lists must not be changed until then.
type Draw struct {
	// Temperature, MinP, TopK and TopP are those of Params.
	Temperature, MinP, TopP float64
	TopK                    int
	// Uniform is from the half-open interval [0, 1) and decides; a greedy draw has none.
	Uniform float64
	// Repeated are the distinct tokens whose logits RepetitionPenalty divides, if they
	// are above zero, or multiplies.
	Repeated          []int32
	RepetitionPenalty float64
	// Bias and then Penalties are added to the logits of tokens. In each, tokens are
	// distinct.
	Bias, Penalties []Adjustment
	// Allowed are the tokens that may be chosen, token i by bit i%64 of word i/64; nil are
	// all. The others are left out before anything else is looked at.
	Allowed []uint64
}

// Adjustment is added to the logit of one token.
type Adjustment struct {
	Token int32
	Add   float32
}

// ChangesLogits reports whether any logit is changed before the choice.
func (d *Draw) ChangesLogits() bool {
	return len(d.Repeated) > 0 || len(d.Bias) > 0 || len(d.Penalties) > 0 || d.Allowed != nil
}

// Sampler says how the tokens of one sequence are to be chosen. It is not safe for
// concurrent use.
type Sampler struct {
	params  Params
	rng     *rand.Rand
	chooser *Chooser // Of Next; nil before.
	// counts are how often each token was chosen, where penalties ask for it.
	counts map[int32]int
	draw   Draw
	read   map[int32]bool // Tokens in draw.Repeated.
}

// New returns a sampler; params must be valid. A greedy one never draws, so
// rng may be nil when Temperature is 0.
func New(params Params, rng *rand.Rand) *Sampler {
	s := &Sampler{params: params, rng: rng}
	s.draw = Draw{
		Temperature: params.Temperature, MinP: params.MinP, TopK: params.TopK, TopP: params.TopP,
		RepetitionPenalty: params.RepetitionPenalty,
	}
	for token, bias := range params.Bias {
		s.draw.Bias = append(s.draw.Bias, Adjustment{Token: token, Add: float32(bias)})
	}
	return s
}

// Read tells the sampler of the prompt, whose tokens a repetition penalty is for,
// too. All must be in the vocabulary.
func (s *Sampler) Read(prompt []int32) {
	for _, token := range prompt {
		s.repeated(token)
	}
}

// repeated files a token for the repetition penalty, once.
func (s *Sampler) repeated(token int32) {
	if !s.params.penalizesRepetition() || s.read[token] {
		return
	}
	if s.read == nil {
		s.read = map[int32]bool{}
	}
	s.read[token] = true
	s.draw.Repeated = append(s.draw.Repeated, token)
}

// Draw returns how the next token is to be chosen, once: it takes the next number of
// the generator. It is valid until the next call of a method.
func (s *Sampler) Draw() *Draw {
	if s.params.Temperature > 0 {
		s.draw.Uniform = s.rng.Float64()
	}
	s.draw.Penalties, s.draw.Allowed = s.draw.Penalties[:0], nil
	if s.params.FrequencyPenalty != 0 || s.params.PresencePenalty != 0 {
		for token, n := range s.counts {
			s.draw.Penalties = append(s.draw.Penalties, Adjustment{
				Token: token, Add: -float32(s.params.PresencePenalty + float64(n)*s.params.FrequencyPenalty),
			})
		}
	}
	return &s.draw
}

// Took tells the sampler which token was chosen by its last Draw.
func (s *Sampler) Took(token int32) {
	if !s.params.changesLogits() {
		return
	}
	if s.counts == nil {
		s.counts = map[int32]int{}
	}
	s.counts[token]++
	s.repeated(token)
}

// Next chooses the next token from the logits [V] of one position. It returns
// ErrNotFinite if a logit is NaN or +Inf, or if all are −Inf.
func (s *Sampler) Next(logits []float32) (int32, error) {
	if s.chooser == nil {
		s.chooser = &Chooser{}
	}
	token, err := s.chooser.Choose(logits, s.Draw())
	if err == nil {
		s.Took(token)
	}
	return token, err
}

// Chooser carries out draws. It is memory, and not safe for concurrent use; what it
// chooses depends on the draw and the logits alone.
type Chooser struct {
	probs   []float64
	sums    []float64 // Of the blocks of probs.
	best    []uint64  // The most likely tokens; see keyOf.
	changed []float32
}

// Choose chooses a token from the logits [V] of one position. It returns
// ErrNotFinite if a logit is NaN or +Inf, or if all are −Inf, of those that are allowed.
func (c *Chooser) Choose(logits []float32, d *Draw) (int32, error) {
	if d.ChangesLogits() {
		logits = c.change(logits, d)
	}
	return c.choose(logits, d)
}

// forbid sets the logits of tokens that are not allowed to −Inf.
func forbid(logits []float32, allowed []uint64) {
	never := float32(math.Inf(-1))
	for first := 0; first < len(logits); first += 64 {
		part := logits[first:min(first+64, len(logits))]
		bits := uint64(0)
		if first/64 < len(allowed) {
			bits = allowed[first/64]
		}
		if bits == math.MaxUint64 {
			continue
		}
		for i := range part {
			if bits>>i&1 == 0 {
				part[i] = never
			}
		}
	}
}

func (c *Chooser) choose(logits []float32, d *Draw) (int32, error) {
	best, err := Argmax(logits)
	if err != nil || d.Temperature == 0 {
		return best, err
	}
	peak, inv := float64(logits[best]), min(1/d.Temperature, math.MaxFloat32)
	if d.MinP > 0 {
		logits = c.dropUnlikely(logits, d.MinP, peak, inv)
	}
	k, p := d.TopK, d.TopP
	if k == 0 || k > len(logits) {
		k = len(logits)
	}
	if p == 0 {
		p = 1
	}
	if k < len(logits) || p < 1 {
		return c.nextTruncated(logits, k, p, peak, inv, d.Uniform), nil
	}
	sum := c.weigh(logits, peak, inv)
	return int32(draw(c.probs, c.sums, d.Uniform*sum)), nil
}

// change returns a copy of the logits with the bias, less the penalties, and without the
// tokens that are not allowed.
func (c *Chooser) change(logits []float32, d *Draw) []float32 {
	c.changed = append(c.changed[:0], logits...)
	for _, token := range d.Repeated {
		if l := &c.changed[token]; *l > 0 {
			*l = float32(float64(*l) / d.RepetitionPenalty)
		} else {
			*l = float32(float64(*l) * d.RepetitionPenalty)
		}
	}
	for _, list := range [...][]Adjustment{d.Bias, d.Penalties} {
		for _, a := range list {
			c.changed[a.Token] += a.Add
		}
	}
	if d.Allowed != nil {
		forbid(c.changed, d.Allowed)
	}
	return c.changed
}

// dropUnlikely returns a copy of the logits without those that min-p leaves out.
func (c *Chooser) dropUnlikely(logits []float32, minP, peak, inv float64) []float32 {
	c.changed = append(c.changed[:0], logits...)
	lowest := math.Log(minP)
	for i, l := range c.changed {
		if (float64(l)-peak)*inv < lowest {
			c.changed[i] = float32(math.Inf(-1))
		}
	}
	return c.changed
}

// weigh sets probs to the tokens' probabilities, up to a factor, and sums to what
// each block of them adds up to. It returns the whole sum.
func (c *Chooser) weigh(logits []float32, peak, inv float64) (sum float64) {
	c.probs = slices.Grow(c.probs[:0], len(logits))[:len(logits)]
	c.sums = c.sums[:0]
	for first := 0; first < len(logits); first += block {
		last := min(len(logits), first+block)
		c.sums = append(c.sums, Exp(c.probs[first:last], logits[first:last], peak, inv))
		sum += c.sums[len(c.sums)-1]
	}
	return sum
}

// nextTruncated applies top-k and top-p: it sorts the most likely tokens, cuts them
// and draws from the rest.
func (c *Chooser) nextTruncated(logits []float32, k int, p, peak, inv, uniform float64) int32 {
	var reach float64
	if k < len(logits) {
		reach = p * c.takeMost(logits, k, peak, inv) // Top-p is of what top-k left.
	} else {
		reach = p * sumExp(logits, peak, inv)
		c.takeUntil(logits, reach, peak, inv)
	}
	probs, sum := c.probs, 0.0
	for i, w := range probs {
		if sum += w; p < 1 && sum >= reach {
			probs = probs[:i+1]
			break
		}
	}
	return int32(uint32(c.best[draw(probs, nil, uniform*sum)]))
}

// takeMost takes the k most likely tokens, sorted, into best, and their weights
// into probs. It returns the sum.
func (c *Chooser) takeMost(logits []float32, k int, peak, inv float64) (sum float64) {
	room := max(2*k, block)
	c.best = slices.Grow(c.best[:0], room)
	worst, lowest := uint64(math.MaxUint64), float32(math.Inf(-1)) // Of those that can still be among them.
	for i, l := range logits {
		if l < lowest {
			continue // Nearly always, once there are k good ones.
		}
		key := keyOf(l, i)
		if key > worst {
			continue
		}
		if c.best = append(c.best, key); len(c.best) == room {
			slices.Sort(c.best)
			c.best = c.best[:k]
			worst = c.best[k-1]
			lowest = logits[uint32(worst)]
		}
	}
	slices.Sort(c.best)
	c.best = c.best[:min(k, len(c.best))]
	return c.weighBest(logits, 0, peak, inv)
}

// takeUntil takes the most likely tokens, sorted, into best, and their weights into
// probs: as many as reach a sum, and some more. Most of the others are never sorted: it
// takes those near the peak, and goes further down only where they are not
// enough.
func (c *Chooser) takeUntil(logits []float32, reach, peak, inv float64) {
	c.best = c.best[:0]
	sum := 0.0
	lowest, above := float32(math.Inf(-1)), float32(math.Inf(1))
	for depth := 2.0; above > lowest && (sum < reach || len(c.best) == 0); depth *= 1.5 {
		from := float32(peak - depth/inv)
		if depth > 700 {
			from = lowest
		}
		known := len(c.best)
		for i, l := range logits {
			if l >= from && l < above {
				c.best = append(c.best, keyOf(l, i))
			}
		}
		above = from
		slices.Sort(c.best[known:])
		sum += c.weighBest(logits, known, peak, inv)
	}
}

// weighBest sets probs to the weights of best from an index on, and returns their
// sum.
func (c *Chooser) weighBest(logits []float32, from int, peak, inv float64) (sum float64) {
	c.probs = c.probs[:from]
	for _, key := range c.best[from:] {
		w := exp((float64(logits[uint32(key)]) - peak) * inv)
		c.probs = append(c.probs, w)
		sum += w
	}
	return sum
}

// keyOf orders tokens by falling logit, and among equals by rising id, so that
// cuts are reproducible. The id is in its low half.
func keyOf(logit float32, id int) uint64 {
	bits := math.Float32bits(logit + 0) // Never −0, which would not equal 0.
	if bits>>31 == 0 {
		bits = ^bits & (1<<31 - 1)
	}
	return uint64(bits)<<32 | uint64(uint32(id))
}

// draw returns the first index at which the running sum of weights exceeds x.
// Rounding may leave x just above the whole sum; then it is the last index
// with any weight. sums may have the sums of the blocks.
func draw(weights, sums []float64, x float64) int {
	first := 0
	for _, sum := range sums {
		if x < sum || first+block >= len(weights) {
			break
		}
		x -= sum
		first += block
	}
	for i, w := range weights[first:] {
		if x -= w; x < 0 {
			return first + i
		}
	}
	last := len(weights) - 1
	for last > 0 && weights[last] == 0 {
		last--
	}
	return last
}
