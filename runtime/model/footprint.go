package model

import (
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
)

// Footprint is the device memory that serving a model takes, in bytes.
type Footprint struct {
	// Weights of the base model.
	Weights int64
	// Cache of keys and values for so many tokens.
	Cache int64
	// Activations of the largest step, and what else steps need: decode steps that are
	// recorded, tables, questions and answers.
	Activations int64
}

// Total is all of it.
func (f Footprint) Total() int64 { return f.Weights + f.Cache + f.Activations }

// FootprintOf says what a model of this configuration takes whose matrices are kept as
// dtype and whose activations and cache are stored so, with a cache of so many tokens and
// such steps, before anything is loaded. It leaves out what a backend fills its layouts up
// with, and norms.
func FootprintOf(c checkpoint.Config, dtype backend.DType, storage Storage, tokens int, steps Steps) Footprint {
	keys := c.KVHeads * c.HeadDim
	var f Footprint
	for _, s := range projectionShapes(c) {
		f.Weights += int64(c.Layers) * dtype.Bytes(s[0], s[1])
	}
	embeddings := int64(2)
	if c.TieEmbeddings {
		embeddings = 1
	}
	f.Weights += embeddings * dtype.Bytes(c.VocabSize, c.HiddenSize)
	f.Cache = int64(c.Layers) * 2 * storage.Cache.Bytes(tokens, keys)
	f.Activations = steps.bytes(c, storage)
	return f
}

// LoadingBytes is what Load takes of the host's memory beside all of the weights, at most:
// it reads a matrix as float32, of which the one before may not have been collected yet.
// Embeddings are the largest ones, but they are read first, when the others are not there.
func LoadingBytes(c checkpoint.Config, dtype backend.DType) int64 {
	const read = 2
	var largest, layers int64
	for _, s := range projectionShapes(c) {
		largest = max(largest, backend.F32.Bytes(s[0], s[1]))
		layers += int64(c.Layers) * dtype.Bytes(s[0], s[1])
	}
	return max(read*largest, backend.F32.Bytes(c.VocabSize, c.HiddenSize)-layers)
}

// Steps bound the steps that memory is planned for.
type Steps struct {
	// Rows are a step's tokens, and Wanted those of them whose logits are wanted.
	Rows, Wanted int
	// Decoded are the sequences of a decode step, and Sequences those of the cache.
	Decoded, Sequences int
	// ContextLength is how many tokens a sequence has at most.
	ContextLength int
}

// StepBytes is the device memory that such steps of this model take: what to reserve for
// them.
func (m *Model) StepBytes(s Steps) int64 { return s.bytes(m.config, m.storage) }

// What is added for alignment, and for what lies free between what is in use: an eighth,
// and so much for buffers of a few numbers.
const (
	stepSlack  = 8
	stepLittle = 256 << 10
)

func (s Steps) bytes(c checkpoint.Config, storage Storage) int64 {
	f32, number := backend.F32, backend.F32.Bytes(1, 1)
	const idle = 32 * 160 // Rows by heads that leave a large device idle otherwise.
	once := activationBytes(c, storage, s.Rows) + splitBytes(c, s, max(s.Decoded*c.Heads, min(s.Rows*c.Heads, idle))) +
		f32.Bytes(s.Wanted, c.VocabSize) + // Logits, and
		f32.Bytes(s.Wanted, c.HiddenSize) + // what they are computed from.
		f32.Bytes(s.Decoded, c.VocabSize) // Logits with penalties and biases.
	recorded := activationBytes(c, storage, s.Decoded) + splitBytes(c, s, s.Decoded*c.Heads) + f32.Bytes(s.Sequences, c.VocabSize) + f32.Bytes(s.Decoded, c.HiddenSize)
	// Lists of rows and of blocks, of a step and of recorded ones, twice since they grow;
	// and questions: a token and a number of each that was read.
	const lists, ofPenalties = 16, 4
	tables := 2*number*int64(lists*(s.Rows+s.Sequences)+2*s.Sequences*Blocks(s.ContextLength)) + number*int64(s.Decoded*ofPenalties*s.ContextLength)
	all := once + recorded + tables
	return all + all/stepSlack + stepLittle
}

// activationBytes is what is in use of activations at a time, at most, in a step of so
// many rows: the residual stream and its norm, and the larger of attention's and the MLP's
// intermediates, with Vᵀx of projections that are factored. Inputs of products with int8
// weights are quantised, too.
func activationBytes(c checkpoint.Config, storage Storage, rows int) int64 {
	width, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	rank := func(out int) int { return min(out, c.HiddenSize) }
	attention := 2*width + 2*keys + rank(width) + 2*rank(keys)
	mlp := 2*c.IntermediateSize + 2*rank(c.IntermediateSize)
	return storage.Activations.Bytes(rows, 2*c.HiddenSize+max(attention, mlp)) +
		2*backend.Int8.Bytes(rows, max(width, c.HiddenSize, c.IntermediateSize)) // With scales in float32.
}

// splitBytes is the workspace of attention whose keys are divided among blocks of a
// device, for so many rows by heads.
func splitBytes(c checkpoint.Config, s Steps, pairs int) int64 {
	const chunk, states = 256, 2
	chunks := (s.ContextLength + chunk - 1) / chunk
	if chunks == 1 {
		return 0
	}
	return backend.F32.Bytes(pairs, chunks*(c.HeadDim+states))
}
