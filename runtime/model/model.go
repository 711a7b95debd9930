// Package model computes Llama-family transformers: loading, batched inference
// over a key-value cache, and the forward and backward pass that trains
// singular-value scales.
//
// It reads like the papers it implements. A layer is
//
//	x += Wo·attention(rope(Wq·n), rope(Wk·n), Wv·n)   with n = RMSNorm(x)
//	x += Wdown·(silu(Wgate·m) ⊙ Wup·m)                with m = RMSNorm(x)
//
// where Qwen2 adds a bias to queries, keys and values, and Qwen3 normalises each
// head of queries and keys before it is rotated,
//
// and each of the seven projections is either dense, y = W·x, or factored after
// Transformer² (section 3.1), y = U·(s ⊙ (Vᵀ·x)), where s are the singular
// values as scaled by an expert vector. Only s has gradients: activations are
// propagated back, and no dense weight gradient is ever formed.
//
// Tokens of all sequences are packed in one matrix without padding. A row's
// result does not depend on which other rows share the batch (package backend),
// not even where each sequence of a factored model has scales of its own: a
// batch of many mixtures reads U and Vᵀ once.
package model

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Model is a loaded model. It is immutable but for SetParameters, so it may be used
// by several goroutines as long as none of them calls SetParameters meanwhile.
type Model struct {
	config checkpoint.Config
	digest string // Of the artifact; empty where it is not known.
	be     backend.Backend
	rope   *ropeTable

	embed, head         backend.Weight // [V, H]; one and the same when tied.
	damaged             map[int32]bool // The tokens whose row of embed was not finite, and is zero.
	norm                backend.Buffer // [H], before the head.
	layers              []layer
	infos               []LinearInfo
	attention           backend.AttentionShape
	eps                 float32
	hidden, inner, keys int // H, the MLP's width, and the width of k and v.

	// What matrices are kept as: projections and their factors, and the token
	// embedding and the head.
	projectionType, embeddingType backend.DType
	storage                       Storage

	bankRows *bankRows // Of this model and its siblings.

	computesAll bool // No step is recorded.
}

// layer is one transformer block.
type layer struct {
	attentionNorm, mlpNorm backend.Buffer    // [H]
	headNorms              [2]backend.Buffer // Of q and k: [D]; nil where the family has none.
	linears                [projections]*linear
}

// The seven projections of a layer, in the order of LinearInfo and of the
// computation.
const (
	qProj = iota
	kProj
	vProj
	oProj
	gateProj
	upProj
	downProj
	projections
)

// LinearInfo describes a projection.
type LinearInfo struct {
	// Name is the tensor's name without ".weight":
	// "model.layers.0.mlp.up_proj".
	Name string
	// Layer counts from 0.
	Layer int
	// Module is the last part of the name: "up_proj".
	Module string
	// Out and In are the matrix' shape: y [Out] = W [Out, In]·x [In].
	Out, In int
	// Bias says that a bias is added to it.
	Bias bool
}

// Config returns the configuration the model was loaded with.
func (m *Model) Config() checkpoint.Config { return m.config }

// DType is what the projections are kept as.
func (m *Model) DType() backend.DType { return m.projectionType }

// Storage is how activations and caches are stored.
func (m *Model) Storage() Storage { return m.storage }

// Backend returns what the model computes on.
func (m *Model) Backend() backend.Backend { return m.be }

// CheckTokens refuses, by its place, a token that the model cannot take: one that
// its embedding has no row for (added tokens may lie behind the vocabulary that was
// trained), or one whose row is damaged.
func (m *Model) CheckTokens(tokens []int32) error {
	if err := m.checkTokens(tokens); err != nil {
		return err
	}
	for i, t := range tokens {
		if m.damaged[t] {
			return fmt.Errorf("token %d is %d, whose row of the embedding is not finite: the weights are damaged there", i, t)
		}
	}
	return nil
}

// Linears lists the seven projections of every layer, in the order in which
// they are computed.
func (m *Model) Linears() []LinearInfo { return slices.Clone(m.infos) }

// find returns the projection with this name.
func (m *Model) find(name string) (*linear, error) {
	for _, info := range m.infos {
		if info.Name == name {
			return m.layers[info.Layer].linears[projectionIndex(info.Module)], nil
		}
	}
	return nil, fmt.Errorf("the model has no projection %q", name)
}

// Weight returns a host copy [Out, In] of the matrix that the projection
// multiplies with: W, or U·diag(s)·Vᵀ when it is factored.
func (m *Model) Weight(name string) (*tensor.Tensor, error) {
	l, err := m.find(name)
	if err != nil {
		return nil, err
	}
	data, err := l.matrix(context.Background(), m.be)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return tensor.FromSlice(data, l.info.Out, l.info.In)
}

// WithDense returns a model that multiplies with other matrices [Out, In] in
// the named projections, kept as m keeps its own, and shares everything else with
// m.
func (m *Model) WithDense(weights map[string]*tensor.Tensor) (*Model, error) {
	return replaced(m, weights, func(info LinearInfo, w *tensor.Tensor) (*linear, error) {
		if !w.HasShape(info.Out, info.In) {
			return nil, fmt.Errorf("the matrix has shape %v, want [%d %d]", w.Shape, info.Out, info.In)
		}
		return m.newDense(info, w.Data)
	})
}

func (m *Model) newDense(info LinearInfo, data []float32) (*linear, error) {
	dense, err := m.be.NewWeight(m.projectionType, info.Out, info.In, data)
	if err != nil {
		return nil, err
	}
	return &linear{info: info, dense: dense}, nil
}

// Factors are a matrix' singular value decomposition, W = U·diag(S)·Vᵀ, of any
// rank R.
type Factors struct {
	// U is [Out, R].
	U *tensor.Tensor
	// S are the R singular values, scaled or not.
	S []float32
	// Vt is [R, In].
	Vt *tensor.Tensor
}

// WithFactors returns a model that computes the named projections factored,
// y = U·(S ⊙ (Vᵀ·x)), and shares everything else with m.
func (m *Model) WithFactors(factors map[string]Factors) (*Model, error) {
	return replaced(m, factors, func(info LinearInfo, f Factors) (*linear, error) {
		return newFactored(m, m.projectionType, info, f.stored())
	})
}

// StoredFactors are the factors of an artifact, which are read if need be: not where
// another process has made weights of them that this one can share (backend.Sharer).
type StoredFactors struct {
	// Digest is the artifact's.
	Digest string
	// S are the R singular values.
	S []float32
	// Read reads all of them.
	Read func() (Factors, error)
}

// stored are factors that are read.
func (f Factors) stored() StoredFactors {
	return StoredFactors{S: f.S, Read: func() (Factors, error) { return f, nil }}
}

// WithStoredFactors is WithFactors for factors that an artifact has.
func (m *Model) WithStoredFactors(factors map[string]StoredFactors) (*Model, error) {
	return replaced(m, factors, func(info LinearInfo, f StoredFactors) (*linear, error) {
		return newFactored(m, m.projectionType, info, f)
	})
}

// Folded returns a model in which the named projections are dense, with the matrices
// that these folds make; it shares everything else with m. A matrix is computed in
// float32 and rounded once, to what m keeps its matrices as.
func (m *Model) Folded(ctx context.Context, folds map[string]Fold) (*Model, error) {
	return replaced(m, folds, func(info LinearInfo, f Fold) (*linear, error) {
		l, err := m.fold(info, f)
		if err != nil {
			return nil, err
		}
		return l.merged(ctx, m.be, m.projectionType)
	})
}

// WithFactorsOf returns a model that shares the factors of the named projections with
// other, a sibling of m, and everything else with m.
func (m *Model) WithFactorsOf(other *Model, names []string) (*Model, error) {
	if m.be != other.be || !slices.Equal(m.infos, other.infos) {
		return nil, errors.New("share factors: the models are no siblings")
	}
	named := map[string]*linear{}
	for _, name := range names {
		l, err := other.find(name)
		if err != nil {
			return nil, fmt.Errorf("share factors: %w", err)
		}
		if !l.factored() {
			return nil, fmt.Errorf("share factors: %s has none", name)
		}
		named[name] = &linear{info: l.info, u: l.u, vt: l.vt, scales: l.scales}
	}
	return replaced(m, named, func(_ LinearInfo, l *linear) (*linear, error) { return l, nil })
}

// Merged returns a model in which every adapted projection is dense, with the matrix
// that its present parameters make: U·diag(s)·Vᵀ, gains and low-rank pairs. Later calls
// of SetParameters on m do not change it.
func (m *Model) Merged(ctx context.Context) (*Model, error) {
	named := map[string]*linear{}
	for _, l := range m.adapted() {
		named[l.info.Name] = l
	}
	return replaced(m, named, func(_ LinearInfo, l *linear) (*linear, error) {
		return l.merged(ctx, m.be, m.projectionType)
	})
}

// MergeInto makes a model that Merged returned, of m, what Merged would return now, in
// the memory that it has where a matrix is nothing but factored. Neither model may compute
// meanwhile. On an error the merged model is of no use until a later call succeeds.
func (m *Model) MergeInto(ctx context.Context, merged *Model) error {
	if m.be != merged.be || !slices.Equal(m.infos, merged.infos) {
		return errors.New("merge: the models are no siblings")
	}
	for _, l := range m.adapted() {
		dst := merged.layers[l.info.Layer].linears[projectionIndex(l.info.Module)]
		if dst.adapted() {
			return fmt.Errorf("merge %s: it is adapted in the model that was to have it merged", l.info.Name)
		}
		var err error
		if l.beside() {
			var made *linear
			if made, err = l.folded(ctx, m.be, m.projectionType); err == nil {
				*dst = *made
			}
		} else {
			err = l.compose(ctx, m.be, dst.dense)
		}
		if err != nil {
			return fmt.Errorf("merge %s: %w", l.info.Name, err)
		}
	}
	return nil
}

// replaced returns a copy of m in which the named projections are what build
// makes of the given values; one that it makes without a bias keeps its own.
func replaced[T any](m *Model, values map[string]T, build func(LinearInfo, T) (*linear, error)) (*Model, error) {
	other := *m
	other.layers = slices.Clone(m.layers)
	for _, name := range sortedKeys(values) {
		l, err := m.find(name)
		if err != nil {
			return nil, err
		}
		made, err := build(l.info, values[name])
		if err != nil {
			return nil, fmt.Errorf("replace %s: %w", name, err)
		}
		if made.bias == nil {
			made.bias = l.bias
		}
		other.layers[l.info.Layer].linears[projectionIndex(l.info.Module)] = made
	}
	return &other, nil
}
