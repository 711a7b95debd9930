package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
)

// Mixture names weights: those of the base (the zero Mixture), of one expert,
// or of a mixture of several (expert.Mix). It is immutable.
type Mixture struct {
	parts   []expert.Weighted
	key     string
	answers bool
}

// NewMixture returns the mixture of these vectors; those of weight 0, in all layers
// where they have one for each, take no part, and none at all means the base.
func NewMixture(parts ...expert.Weighted) (Mixture, error) {
	var m Mixture
	for _, p := range parts {
		for _, alpha := range p.Shares() {
			if math.IsNaN(alpha) || math.IsInf(alpha, 0) {
				return Mixture{}, fmt.Errorf("weight %v of expert %s", alpha, p.Adapter.Manifest.Digest)
			}
		}
		if p.Adapter.Manifest.Digest == "" {
			return Mixture{}, errors.New("an expert without a digest")
		}
		if p = even(p); p.Alpha != 0 || p.Layers != nil {
			m.parts = append(m.parts, p)
		}
	}
	// Sorted, so that the same mixture has one name and one order of summation.
	slices.SortStableFunc(m.parts, func(a, b expert.Weighted) int {
		return strings.Compare(a.Adapter.Manifest.Digest, b.Adapter.Manifest.Digest)
	})
	var key strings.Builder
	for _, p := range m.parts {
		key.WriteString(p.Adapter.Manifest.Digest)
		separator := byte('@')
		for _, alpha := range p.Shares() {
			key.WriteByte(separator)
			key.WriteString(strconv.FormatFloat(alpha, 'g', -1, 64))
			separator = ','
		}
		key.WriteByte(' ')
	}
	m.key = key.String()
	var err error
	m.answers, err = expert.OnAnswers(m.parts)
	return m, err
}

// even makes shares that are the same in all layers one, so that what is the same has
// one name.
func even(p expert.Weighted) expert.Weighted {
	if p.Layers == nil {
		return p
	}
	for _, alpha := range p.Layers {
		if alpha != p.Layers[0] {
			p.Layers = slices.Clone(p.Layers)
			return p
		}
	}
	if p.Alpha = 0; len(p.Layers) > 0 {
		p.Alpha = p.Layers[0]
	}
	p.Layers = nil
	return p
}

// Key is the same for the same digests and weights; empty for the base.
func (m Mixture) Key() string { return m.key }

// IsBase reports whether m is the base weights.
func (m Mixture) IsBase() bool { return len(m.parts) == 0 }

// OnAnswers reports whether its experts act on answers alone: prompts are read by the
// base, whose keys and values serve them all.
func (m Mixture) OnAnswers() bool { return m.answers }

// Composer returns the function that composes mixtures of experts into dense weights,
// for Options.Compose. The decomposition is theirs that scale singular values.
func Composer(base *model.Model, d *expert.Decomposition) func(context.Context, Mixture) (*model.Model, error) {
	return func(ctx context.Context, m Mixture) (*model.Model, error) {
		mixed, err := expert.Mix(m.parts)
		if err != nil {
			return nil, err
		}
		return expert.Compose(ctx, base, d, mixed)
	}
}
