package engine

import (
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
)

// Plan is what an engine takes of a device's memory, known before anything is loaded.
type Plan struct {
	model.Footprint
	// DType is what matrices are kept as, and Storage what activations and the cache are.
	DType   backend.DType
	Storage model.Storage
	// ContextLength, MaxBatch and CacheTokens are those of Options, with defaults filled
	// in.
	ContextLength, MaxBatch, CacheTokens int
	// Free is what the device has, in bytes; 0 where that is not known.
	Free int64

	config checkpoint.Config
	cache  int // Options.CacheTokens as asked for.
}

// PlanOf plans for a model of this configuration. Zeros are Options' defaults.
func PlanOf(c checkpoint.Config, dtype backend.DType, storage model.Storage, free int64, contextLength, maxBatch, cacheTokens int) Plan {
	if contextLength == 0 {
		contextLength = c.MaxPositions
	}
	if maxBatch == 0 {
		maxBatch = DefaultMaxBatch
	}
	p := Plan{DType: dtype, Storage: storage, ContextLength: contextLength, MaxBatch: maxBatch, Free: free, config: c, cache: cacheTokens}
	slots := newSlots(maxBatch)
	tokenBytes := model.FootprintOf(c, dtype, storage, 1, model.Steps{}).Cache
	p.CacheTokens = model.BlockSize * cacheBlocks(tokenBytes, contextLength, cacheTokens, slots)
	p.Footprint = model.FootprintOf(c, dtype, storage, p.CacheTokens, slots.steps(DefaultStepTokens, contextLength))
	return p
}

// steps are the largest that an engine computes: the tokens of prompts that it reads at
// once, one of each answer, and a few of each label.
func (s slots) steps(prompts, contextLength int) model.Steps {
	const ofLabel = 4
	wanted := s.batch + s.forks*ofLabel
	return model.Steps{
		Rows: prompts + wanted, Wanted: wanted, Decoded: s.batch, Sequences: s.total(), ContextLength: contextLength,
	}
}

// Merged is what one merged mixture takes, in bytes; unmerged experts take Factors more.
func (p Plan) Merged() int64 { return p.Total() - p.Factors }

// Fits reports whether the device has enough for one merged mixture, as far as it says
// how much it has.
func (p Plan) Fits() bool { return p.Free == 0 || p.Merged() <= p.Free }

// FitsUnmerged reports whether it has enough for experts in unmerged form.
func (p Plan) FitsUnmerged() bool { return p.Free == 0 || p.Total() <= p.Free }

// Err says what is missing, and what would fit, where the plan does not; it wraps
// backend.ErrDeviceMemory.
func (p Plan) Err() error {
	if p.Fits() {
		return nil
	}
	hint := "no smaller setting fits"
	if would := p.wouldFit(); len(would) > 0 {
		hint = strings.Join(would, ", or ") + ", would fit"
	}
	return fmt.Errorf("%w: the model takes %s (weights as %s %s, a cache of %d tokens as %s %s, a step as %s %s), and %s are free: %s are missing; %s",
		backend.ErrDeviceMemory, SizeText(p.Merged()), p.DType, SizeText(p.Weights), p.CacheTokens, p.Storage.Cache, SizeText(p.Cache), p.Storage.Activations, SizeText(p.Activations),
		SizeText(p.Free), SizeText(p.Merged()-p.Free), hint)
}

// wouldFit lists single changes that make the plan fit: weights of a smaller type, a
// shorter context, fewer sequences together.
func (p Plan) wouldFit() []string {
	var would []string
	again := func(dtype backend.DType, context, batch int) bool {
		return PlanOf(p.config, dtype, p.Storage, p.Free, context, batch, p.cache).Fits()
	}
	for _, dtype := range backend.DTypes() {
		if dtype.Bytes(1, backend.Int8Block) < p.DType.Bytes(1, backend.Int8Block) && again(dtype, p.ContextLength, p.MaxBatch) {
			would = append(would, fmt.Sprintf("dtype %s", dtype))
			break
		}
	}
	const shortest = 256
	for context := p.ContextLength / 2; context >= shortest; context /= 2 {
		if again(p.DType, context, p.MaxBatch) {
			would = append(would, fmt.Sprintf("a context length of %d", context))
			break
		}
	}
	for batch := p.MaxBatch / 2; batch >= 1; batch /= 2 {
		if again(p.DType, p.ContextLength, batch) {
			would = append(would, fmt.Sprintf("a batch of at most %d", batch))
			break
		}
	}
	return would
}

// SizeText writes a number of bytes in the largest unit that leaves it above one.
func SizeText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/unit, "KMGT"
	for value >= unit && len(units) > 1 {
		value /= unit
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
