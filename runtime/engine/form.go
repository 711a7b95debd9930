package engine

import (
	"context"
	"fmt"
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
}

// variant is what computes a sequence from its first token to its last. Keys
// and values in the cache belong to the variant that made them; sequences of
// one model share a batch, whatever their scales.
type variant struct {
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
	form    Form
	factors Factors
	// batch bounds the sequences of a step, composed the merged models kept.
	batch, composed int
}

// plan says in which form each mixture is computed.
type plan struct {
	auto     bool     // The form was chosen, not asked for.
	form     Form     // FormMerged or FormUnmerged.
	matrices []string // Of the unmerged model, sorted.
	name     string   // The matrices, joined: a name of the unmerged model.
}

// decide makes the plan for a set. It is a function of the set and the options
// alone.
func (p policy) decide(s Set) plan {
	chosen := plan{auto: p.form == FormAuto, form: FormMerged}
	switch {
	case p.form == FormUnmerged:
		chosen.form, chosen.matrices = FormUnmerged, slices.Clone(p.factors.Matrices)
	case p.form == FormAuto && !s.Fixed && p.factors.Attach != nil:
		scaled := map[string]bool{}
		different := map[string]bool{}
		for _, m := range s.Mixtures {
			for name := range m.matrices() {
				scaled[name] = true
			}
			if !m.IsBase() {
				different[m.key] = true
			}
		}
		if s.Blends && len(different) > 0 || p.pays(scaled, len(different)) {
			chosen.form = FormUnmerged
			chosen.matrices = slices.DeleteFunc(slices.Clone(p.factors.Matrices), func(name string) bool { return !scaled[name] })
		}
	}
	slices.Sort(chosen.matrices)
	chosen.name = strings.Join(chosen.matrices, " ")
	return chosen
}

// pays reports whether the unmerged form of these matrices pays for so many
// mixtures besides the base. A step of d different mixtures reads d merged
// models or the unmerged one, which is c times as large as a merged one: a full
// step gains d/c, less what arithmetic takes, one with a single mixture loses c.
// It pays when the gain is at least the loss; and when the merged models would
// not all be kept, so that requests would wait for composing over and over.
func (p policy) pays(scaled map[string]bool, mixtures int) bool {
	const left = 0.75 // Of the gain, measured.
	if mixtures == 0 {
		return false
	}
	if mixtures > p.composed {
		return true
	}
	c := p.base.Config()
	dense := c.VocabSize * c.HiddenSize // The head.
	unmerged := dense
	for _, l := range p.base.Linears() {
		dense += l.Out * l.In
		if scaled[l.Name] {
			unmerged += (l.Out + l.In) * p.factors.Rank(l.Name)
		} else {
			unmerged += l.Out * l.In
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
}

// base is the key of the factors that the scales of a key belong to.
func (k key) base() key { return key{form: k.form, factors: k.factors} }

// matrices are those of the factors.
func (k key) matrices() []string { return strings.Fields(k.factors) }

// key returns where a mixture is held under this plan. Pass 1, which scores
// with the base, reads long prompts for a few tokens: it is bound by arithmetic
// and not by memory, and gains nothing from sharing a batch.
func (p plan) key(m Mixture, scored bool) key {
	if p.form == FormMerged || p.auto && (scored && m.IsBase() || !p.covers(m)) {
		return key{form: FormMerged, mixture: m.key}
	}
	return key{form: FormUnmerged, factors: p.name, mixture: m.key}
}

// covers reports whether the unmerged model has every matrix that m scales.
func (p plan) covers(m Mixture) bool {
	for name := range m.matrices() {
		if _, found := slices.BinarySearch(p.matrices, name); !found {
			return false
		}
	}
	return true
}

// matrices are those that the mixture scales.
func (m Mixture) matrices() map[string]bool {
	names := map[string]bool{}
	for _, p := range m.parts {
		for name := range p.Vector.Z {
			names[name] = true
		}
	}
	return names
}
