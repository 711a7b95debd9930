package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
)

// Form is how the matrices that experts scale are held and multiplied with.
type Form string

const (
	// FormAuto chooses by the set of experts; see the package's documentation.
	FormAuto Form = "auto"
	// FormMerged composes dense matrices W' = U·diag(σ⊙z)·Vᵀ, a model a mixture.
	FormMerged Form = "merged"
	// FormUnmerged holds U and Vᵀ of every decomposed matrix once and computes
	// y = U·(σ⊙z ⊙ Vᵀx), each sequence with its own z, in one batch.
	FormUnmerged Form = "unmerged"
)

// ParseForm returns the form of this name; an empty one means FormAuto.
func ParseForm(name string) (Form, error) {
	switch f := Form(name); f {
	case "":
		return FormAuto, nil
	case FormAuto, FormMerged, FormUnmerged:
		return f, nil
	default:
		return "", fmt.Errorf("form %q is unknown: use %s, %s or %s", name, FormAuto, FormMerged, FormUnmerged)
	}
}

// Factors makes the unmerged form; the zero value means that there is none.
type Factors struct {
	// Matrices are the names of those that have factors.
	Matrices []string
	// Rank returns the number of a matrix' singular values.
	Rank func(matrix string) int
	// Attach returns m with these of its matrices unmerged, with z = 1.
	Attach func(ctx context.Context, m *model.Model, matrices []string) (*model.Model, error)
}

// NewFactors returns the factors of a decomposition, for Options.Factors. They
// are read when they are needed.
func NewFactors(d *expert.Decomposition) Factors {
	return Factors{
		Matrices: d.Matrices(), Rank: d.Rank,
		Attach: func(ctx context.Context, m *model.Model, matrices []string) (*model.Model, error) {
			// One by one, so that one matrix' factors at a time are there twice.
			for _, name := range matrices {
				f, err := d.Factors(ctx, name)
				if err != nil {
					return nil, err
				}
				if m, err = m.WithFactors(map[string]model.Factors{name: f}); err != nil {
					return nil, err
				}
			}
			return m, nil
		},
	}
}

// Set is what an engine is told of the requests to come.
type Set struct {
	// Mixtures are those that requests will ask for, besides the base.
	Mixtures []Mixture
	// Fixed says that nearly all of them will ask for the first one.
	Fixed bool
	// Blends says that they will ask for more mixtures of these than can be listed.
	Blends bool
	// Beginnings are what many prompts of pass 1 will begin with. They are read as soon as
	// the set is in use, and the last that the prefix cache gives up until another set is.
	Beginnings []Beginning
}

// Beginning is what prompts of a mixture begin with.
type Beginning struct {
	Mixture Mixture
	Tokens  []int32
}

// variant is what computes a sequence from its first token to its last. Keys
// and values in the cache belong to the variant that made them, and so to its key: made
// again, it computes the same. Sequences of one model share a batch, whatever their scales.
type variant struct {
	key    key
	model  *model.Model
	scales *model.Scales // nil in the merged form, and for the base.
	form   Form          // FormMerged or FormUnmerged.
}

// segment adds to a segment what the variant computes it with.
func (v variant) segment(s model.Segment) model.Segment {
	s.Scales = v.scales
	return s
}

// policy chooses forms. It knows nothing of requests, so that what one gets
// cannot depend on another.
type policy struct {
	base    *model.Model
	reader  *model.Model // Options.Reader.
	form    Form
	factors Factors
	// batch bounds the sequences of a step, composed the merged models kept, and budget the
	// bytes of these and of factors, if it is not 0.
	batch, composed int
	budget          int64
}

// plan says in which form each mixture is computed.
type plan struct {
	auto bool // The form was chosen, not asked for.
	form Form // FormMerged or FormUnmerged.
	name string

	// Of the unmerged model:
	matrices []string         // Those that are factored, sorted,
	experts  []expert.Adapter // those with low-rank pairs, by digest,
	in, out  []string         // and matrices with gains, sorted.
}

// decide makes the plan for a set. It is a function of the set and the options
// alone.
func (p policy) decide(s Set) plan {
	chosen := plan{auto: p.form == FormAuto, form: FormMerged}
	needs := needsOf(s.Mixtures)
	switch {
	case p.form == FormUnmerged:
		chosen = needs.plan(chosen)
		chosen.matrices = slices.Clone(p.factors.Matrices)
	case p.form == FormAuto && (p.factors.Attach != nil || len(needs.scaled) == 0) && p.holdsFactors():
		kept := p.keeps(s.Mixtures)
		if !s.Fixed && (s.Blends && len(needs.mixtures) > 0 || p.pays(needs, kept)) || kept == 0 {
			chosen = needs.plan(chosen)
			chosen.matrices = slices.DeleteFunc(slices.Clone(p.factors.Matrices), func(name string) bool { return !needs.scaled[name] })
		}
	}
	slices.Sort(chosen.matrices)
	chosen.name = chosen.describe()
	return chosen
}

// describe names what the unmerged model consists of.
func (p *plan) describe() string {
	parts := []string{strings.Join(p.matrices, " ")}
	for _, e := range p.experts {
		parts = append(parts, e.Manifest.Digest)
	}
	return strings.Join(append(parts, strings.Join(p.in, " "), strings.Join(p.out, " ")), "|")
}

// needs are what the unmerged model of mixtures must have.
type needs struct {
	mixtures        map[string]bool // Those beside the base, by their keys.
	scaled, in, out map[string]bool // Matrices.
	experts         map[string]expert.Adapter
}

func needsOf(mixtures []Mixture) needs {
	n := needs{mixtures: map[string]bool{}, scaled: map[string]bool{}, in: map[string]bool{}, out: map[string]bool{}, experts: map[string]expert.Adapter{}}
	for _, m := range mixtures {
		if !m.IsBase() {
			n.mixtures[m.key] = true
		}
		for _, part := range m.parts {
			v := part.Adapter
			addAll(n.scaled, v.Z)
			addAll(n.in, v.In)
			addAll(n.out, v.Out)
			if len(v.Low) > 0 {
				n.experts[v.Manifest.Digest] = v
			}
		}
	}
	return n
}

func addAll[T any](to map[string]bool, of map[string]T) {
	for name := range of {
		to[name] = true
	}
}

// plan fills in what an unmerged model has beside factors.
func (n needs) plan(p plan) plan {
	p.form = FormUnmerged
	for _, digest := range slices.Sorted(maps.Keys(n.experts)) {
		p.experts = append(p.experts, n.experts[digest])
	}
	p.in, p.out = slices.Sorted(maps.Keys(n.in)), slices.Sorted(maps.Keys(n.out))
	return p
}

// pairs lists the experts with a low-rank pair of a matrix, by digest.
func (p *plan) pairs(matrix string) []string {
	var digests []string
	for _, e := range p.experts {
		if _, ok := e.Low[matrix]; ok {
			digests = append(digests, e.Manifest.Digest)
		}
	}
	return digests
}

// branches are what a mixture does to the matrices of the unmerged model.
func (p *plan) branches(m Mixture) (map[string]model.Branch, error) {
	mixed, err := expert.Mix(m.parts)
	if err != nil {
		return nil, err
	}
	all := make(map[string]model.Branch, len(mixed))
	for name, one := range mixed {
		if all[name], err = one.Branch(p.pairs(name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

// beside returns a model with everything that the plan has beside factors.
func (p *plan) beside(m *model.Model) (*model.Model, error) {
	pairs := map[string][]model.LowRank{}
	for _, e := range p.experts {
		for name := range e.Low {
			pair := e.Pair(name)
			pair.Scale = 0 // Not the base's.
			pairs[name] = append(pairs[name], pair)
		}
	}
	m, err := m.WithLowRank(pairs)
	if err != nil {
		return nil, err
	}
	return m.WithGains(p.in, p.out)
}

// pays reports whether the unmerged form of these matrices pays for so many
// mixtures besides the base. A step of d different mixtures reads d merged
// models or the unmerged one, which is c times as large as a merged one: a full
// step gains d/c, less what arithmetic takes, one with a single mixture loses c.
// It pays when the gain is at least the loss; and when the merged models would
// not all be kept, so that requests would wait for composing over and over.
func (p policy) pays(n needs, kept int) bool {
	const left = 0.75 // Of the gain, measured.
	mixtures := len(n.mixtures)
	if mixtures == 0 {
		return false
	}
	if mixtures > kept {
		return true
	}
	c := p.base.Config()
	dense := c.VocabSize * c.HiddenSize // The head.
	unmerged := dense
	for _, l := range p.base.Linears() {
		dense += l.Out * l.In
		if n.scaled[l.Name] {
			unmerged += (l.Out + l.In) * p.factors.Rank(l.Name)
		} else {
			unmerged += l.Out * l.In
		}
		for _, e := range n.experts {
			if low, ok := e.Low[l.Name]; ok {
				unmerged += (l.Out + l.In) * low.A.Shape[0]
			}
		}
	}
	cost := float64(unmerged) / float64(dense)
	return left*float64(min(mixtures+1, p.batch))/cost >= cost
}

// key names what is held for a mixture: in the unmerged form its scales, and
// for the base the factors themselves.
type key struct {
	form    Form
	factors string // plan.name, in the unmerged form.
	mixture string
	// salt keeps apart, in the cache, what different clients read; nothing is held under
	// a key that has one.
	salt string
}

// base is the key of the factors that the scales of a key belong to.
func (k key) base() key { return key{form: k.form, factors: k.factors} }

// key returns where a mixture is held under this plan. Pass 1, which scores
// with the base, reads long prompts for a few tokens: it is bound by arithmetic
// and not by memory, and gains nothing from sharing a batch.
func (p *plan) key(m Mixture, scored bool) key {
	if p.form == FormMerged || p.auto && scored && m.IsBase() || !p.covers(m) {
		return key{form: FormMerged, mixture: m.key}
	}
	return key{form: FormUnmerged, factors: p.name, mixture: m.key}
}

// covers reports whether the unmerged model has everything that m adapts. It is asked for
// every request.
func (p *plan) covers(m Mixture) bool {
	for _, part := range m.parts {
		v := part.Adapter
		if !hasAll(p.matrices, v.Z) || !hasAll(p.in, v.In) || !hasAll(p.out, v.Out) {
			return false
		}
		if len(v.Low) > 0 && !slices.ContainsFunc(p.experts, func(e expert.Adapter) bool { return e.Manifest.Digest == v.Manifest.Digest }) {
			return false
		}
	}
	return true
}

// hasAll reports whether the matrices of an expert are all in a sorted list.
func hasAll(sorted []string, of map[string][]float32) bool {
	for name := range of {
		if _, found := slices.BinarySearch(sorted, name); !found {
			return false
		}
	}
	return true
}
