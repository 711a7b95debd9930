package model

import (
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
)

// Footprint is the device memory that serving a model takes, in bytes.
type Footprint struct {
	// Weights of the base model.
	Weights int64
	// Factors of every projection of full rank, which the unmerged form holds beside the
	// weights.
	Factors int64
	// Cache of keys and values for so many tokens.
	Cache int64
	// Activations of one step of so many rows, at their largest.
	Activations int64
}

// Total is all of it.
func (f Footprint) Total() int64 { return f.Weights + f.Factors + f.Cache + f.Activations }

// FootprintOf says what a model of this configuration takes whose matrices are kept as
// dtype and whose activations and cache are stored so, with a cache of so many tokens and
// steps of so many rows, before anything is loaded. It leaves out what a backend fills its
// layouts up with, and norms.
func FootprintOf(c checkpoint.Config, dtype backend.DType, storage Storage, tokens, rows int) Footprint {
	width, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	var f Footprint
	for _, s := range projectionShapes(c) {
		rank := min(s[0], s[1])
		f.Weights += int64(c.Layers) * dtype.Bytes(s[0], s[1])
		f.Factors += int64(c.Layers) * (dtype.Bytes(s[0], rank) + dtype.Bytes(rank, s[1]) + backend.F32.Bytes(1, rank))
	}
	embeddings := int64(2)
	if c.TieEmbeddings {
		embeddings = 1
	}
	f.Weights += embeddings * dtype.Bytes(c.VocabSize, c.HiddenSize)
	f.Cache = int64(c.Layers) * 2 * storage.Cache.Bytes(tokens, keys)
	// The residual stream, its norm, and the larger of attention's and the MLP's
	// intermediates; and the logits, which are float32.
	f.Activations = storage.Activations.Bytes(rows, 2*c.HiddenSize+max(2*width+2*keys, 2*c.IntermediateSize)) + backend.F32.Bytes(rows, c.VocabSize)
	return f
}
