package model

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// modules names the projections by their index, with the part of the layer that
// they belong to.
var modules = [projections]struct{ part, name string }{
	qProj:    {"self_attn", "q_proj"},
	kProj:    {"self_attn", "k_proj"},
	vProj:    {"self_attn", "v_proj"},
	oProj:    {"self_attn", "o_proj"},
	gateProj: {"mlp", "gate_proj"},
	upProj:   {"mlp", "up_proj"},
	downProj: {"mlp", "down_proj"},
}

func projectionIndex(module string) int {
	for i, m := range modules {
		if m.name == module {
			return i
		}
	}
	return -1
}

const (
	embedName = "model.embed_tokens.weight"
	normName  = "model.norm.weight"
	headName  = "lm_head.weight"
)

// Option changes how Load keeps a model.
type Option func(*Model)

// WeightsAs keeps every matrix as this type: projections, also those that are
// replaced later, factors, the token embedding and the head. Without it they are
// float32, as norms, biases and scales are in any case.
func WeightsAs(t backend.DType) Option {
	return func(m *Model) { m.projectionType, m.embeddingType = t, t }
}

// EmbeddingAs keeps the token embedding and the head as this type. It goes behind
// WeightsAs.
func EmbeddingAs(t backend.DType) Option {
	return func(m *Model) { m.embeddingType = t }
}

// Unrecorded computes every step operation by operation, also on a backend that can
// record steps and repeat them.
func Unrecorded() Option {
	return func(m *Model) { m.computesAll = true }
}

// Of says which artifact the model is, by its digest, so that a backend may share its
// matrices with other processes (backend.Sharer).
func Of(digest string) Option {
	return func(m *Model) { m.digest = digest }
}

// Load reads a model's weights onto a backend, one tensor after the other, so that
// it needs little more memory than the result. The checkpoint may be closed
// afterwards. When tensors are missing or have another shape than the
// configuration says, the error names every one of them.
func Load(ctx context.Context, be backend.Backend, ck *checkpoint.Checkpoint, options ...Option) (*Model, error) {
	c := ck.Config()
	keys := c.KVHeads * c.HeadDim
	m := &Model{
		config: c, be: be,
		rope:     newRopeTable(be, c),
		bankRows: newBankRows(),
		layers:   make([]layer, c.Layers),
		attention: backend.AttentionShape{
			Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
			Scale: float32(1 / math.Sqrt(float64(c.HeadDim))),
		},
		eps:    float32(c.RMSNormEps),
		hidden: c.HiddenSize, inner: c.IntermediateSize, keys: keys,
	}
	for _, o := range options {
		o(m)
	}
	if err := m.storage.check(be); err != nil {
		return nil, err
	}
	shapes := projectionShapes(c)
	for i := range c.Layers {
		for j, module := range modules {
			m.infos = append(m.infos, LinearInfo{
				Name:  fmt.Sprintf("model.layers.%d.%s.%s", i, module.part, module.name),
				Layer: i, Module: module.name, Out: shapes[j][0], In: shapes[j][1], Bias: c.AttentionBias && j <= vProj,
			})
		}
	}
	l := &loader{ctx: ctx, be: be, ck: ck, digest: m.digest}
	tied, err := l.tied(c)
	if err != nil {
		return nil, err
	}
	if err := l.check(m, tied); err != nil {
		return nil, err
	}
	l.embeddings(m, tied)
	m.norm = l.vector(normName)
	for i := range m.layers {
		m.layers[i].attentionNorm = l.vector(normOf(i, "input_layernorm"))
		m.layers[i].mlpNorm = l.vector(normOf(i, "post_attention_layernorm"))
		for j, name := range headNorms {
			if c.QKNorm {
				m.layers[i].headNorms[j] = l.vector(normOf(i, name))
			}
		}
		for j := range projections {
			info := m.infos[i*projections+j]
			m.layers[i].linears[j] = &linear{info: info, dense: l.matrix(info.Name+".weight", m.projectionType)}
			if info.Bias {
				m.layers[i].linears[j].bias = &bank{columns: info.Out, rows: l.vector(info.Name + ".bias"), n: 1}
			}
		}
	}
	if l.err != nil {
		return nil, l.err
	}
	return m, nil
}

// projectionShapes are the shapes [Out, In] of the projections of each layer.
func projectionShapes(c checkpoint.Config) [projections][2]int {
	width, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	return [projections][2]int{
		qProj: {width, c.HiddenSize}, kProj: {keys, c.HiddenSize}, vProj: {keys, c.HiddenSize}, oProj: {c.HiddenSize, width},
		gateProj: {c.IntermediateSize, c.HiddenSize}, upProj: {c.IntermediateSize, c.HiddenSize}, downProj: {c.HiddenSize, c.IntermediateSize},
	}
}

// ProjectionShapes lists [out, in] of every projection of a model of this configuration.
func ProjectionShapes(c checkpoint.Config) [][2]int {
	var all [][2]int
	for range c.Layers {
		shapes := projectionShapes(c)
		all = append(all, shapes[:]...)
	}
	return all
}

// headNorms are the norms of single heads, of queries and of keys.
var headNorms = [2]string{"self_attn.q_norm", "self_attn.k_norm"}

func normOf(layer int, name string) string {
	return fmt.Sprintf("model.layers.%d.%s.weight", layer, name)
}

// loader reads tensors one after the other and keeps the first error.
type loader struct {
	ctx context.Context //nolint:containedctx // Lives for one call of Load.
	be  backend.Backend
	ck  *checkpoint.Checkpoint
	err error

	digest string // Of the model; empty where it is not known.
}

// tied reports whether the output projection is the embedding: where config.json
// says so and the weights do not have both, each with values of its own. Those that
// were trained apart are used apart, whatever became of the configuration.
func (l *loader) tied(c checkpoint.Config) (bool, error) {
	if !c.TieEmbeddings || !l.ck.Has(embedName) || !l.ck.Has(headName) {
		return c.TieEmbeddings, nil
	}
	same, err := l.ck.Same(embedName, headName)
	if err != nil {
		return false, fmt.Errorf("loading the embedding: %w", err)
	}
	return same, nil
}

// embedName returns the name of the token embedding. A tied matrix is stored
// once, and some writers keep it under the name of the output projection.
func (l *loader) embedName(tied bool) string {
	if tied && !l.ck.Has(embedName) && l.ck.Has(headName) {
		return headName
	}
	return embedName
}

// embeddings reads the token embedding and the head. Rows of an embedding that is
// no head too may be damaged, as long as no prompt has their token; a damaged row of
// a head spoils every distribution.
func (l *loader) embeddings(m *Model, tied bool) {
	if tied {
		m.embed = l.matrix(l.embedName(tied), m.embeddingType)
		m.head = m.embed
		return
	}
	if l.err != nil {
		return
	}
	var damaged []int
	read := false
	m.embed = l.keep(embedName, m.embeddingType, func() (*tensor.Tensor, error) {
		t, rows, err := l.ck.Rows(embedName)
		damaged, read = rows, true
		if err == nil {
			err = l.checkDamaged(rows)
		}
		return t, err
	})
	if l.err == nil && !read { // Somebody else has.
		if damaged, l.err = l.ck.DamagedRows(embedName); l.err == nil {
			l.err = l.checkDamaged(damaged)
		}
	}
	m.damaged = make(map[int32]bool, len(damaged))
	for _, row := range damaged {
		m.damaged[int32(row)] = true
	}
	m.head = l.matrix(headName, m.embeddingType)
}

// checkDamaged refuses an embedding of which too many rows are damaged.
func (l *loader) checkDamaged(damaged []int) error {
	info, _ := l.ck.Info(embedName)
	if len(damaged) <= info.Shape[0]/maxDamaged {
		return nil
	}
	return failure.Permanentf(contract.ReasonInvalidModel,
		"tensor %s has %d rows with a NaN or an infinity, of %d: the weights are damaged", embedName, len(damaged), info.Shape[0])
}

// maxDamaged is the part of an embedding, as a divisor, that may be damaged.
const maxDamaged = 10

// check compares every tensor the model needs with what the checkpoint has,
// before anything is read.
func (l *loader) check(m *Model, tied bool) error {
	var problems []error
	want := func(name string, shape ...int) {
		info, ok := l.ck.Info(name)
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("tensor %s is missing", name))
		case !slices.Equal(info.Shape, shape):
			problems = append(problems, fmt.Errorf("tensor %s has shape %v, want %v", name, info.Shape, shape))
		}
	}
	want(l.embedName(tied), m.config.VocabSize, m.hidden)
	if !tied {
		want(headName, m.config.VocabSize, m.hidden)
	}
	want(normName, m.hidden)
	for i := range m.layers {
		want(normOf(i, "input_layernorm"), m.hidden)
		want(normOf(i, "post_attention_layernorm"), m.hidden)
		for _, info := range m.infos[i*projections : (i+1)*projections] {
			want(info.Name+".weight", info.Out, info.In)
			if info.Bias {
				want(info.Name+".bias", info.Out)
			}
		}
		if m.config.QKNorm {
			for _, name := range headNorms {
				want(normOf(i, name), m.config.HeadDim)
			}
		}
	}
	if len(problems) > 0 {
		return failure.Permanent(contract.ReasonInvalidModel,
			fmt.Errorf("the weights do not fit config.json: %w", errors.Join(problems...)))
	}
	return nil
}

func (l *loader) read(name string) *tensor.Tensor {
	if l.err == nil {
		l.err = l.ctx.Err()
	}
	if l.err != nil {
		return nil
	}
	t, err := l.ck.Tensor(name)
	l.err = err
	return t
}

func (l *loader) matrix(name string, as backend.DType) backend.Weight {
	return l.keep(name, as, func() (*tensor.Tensor, error) { return l.ck.Tensor(name) })
}

// keep makes a weight of a matrix of the checkpoint, which is read if need be.
func (l *loader) keep(name string, as backend.DType, read func() (*tensor.Tensor, error)) backend.Weight {
	if l.err == nil {
		l.err = l.ctx.Err()
	}
	if l.err != nil {
		return nil
	}
	var readErr error
	info, _ := l.ck.Info(name)
	w, err := backend.SharedWeight(l.be, originOf(l.digest, name), as, info.Shape[0], info.Shape[1], func() ([]float32, error) {
		var t *tensor.Tensor
		if t, readErr = read(); readErr != nil {
			return nil, readErr
		}
		return t.Data, nil
	})
	switch {
	case readErr != nil:
		l.err = readErr
	case err != nil:
		l.err = fmt.Errorf("keep tensor %s as %s: %w", name, as, err)
	}
	return w
}

// originOf names a matrix of an artifact; where that is not known, it has no origin.
func originOf(digest, name string) backend.Origin {
	if digest == "" {
		return backend.Origin{}
	}
	return backend.Origin{Digest: digest, Name: name}
}

func (l *loader) vector(name string) backend.Buffer {
	t := l.read(name)
	if l.err != nil {
		return nil
	}
	b, err := upload(l.be, t.Data)
	l.err = err
	return b
}
