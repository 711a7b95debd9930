package engine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/model"
)

// Wish is what memory is planned for. Zeros are Options' defaults.
type Wish struct {
	// DType is what matrices are kept as, and Storage what activations and the cache are.
	DType   backend.DType
	Storage model.Storage
	// ContextLength, MaxBatch and CacheTokens are those of Options. CacheBytes asks for a
	// cache of so many bytes, where CacheTokens are 0.
	ContextLength, MaxBatch, CacheTokens int
	CacheBytes                           int64
	// Request is how many tokens of one sequence the cache must hold with nothing beside it,
	// whatever its size is asked to be; 0 where nothing is known of requests.
	Request int
	// Experts may be served, in this Form. Matrices are what they scale, [out, in] each; nil
	// means all projections.
	Experts  bool
	Form     Form
	Matrices [][2]int
	// Body is how many bytes the largest request has; 0 where nobody sends any.
	Body int64
	// Kept is how many bytes of texts are kept after their requests; 0 where none are.
	Kept int64
	// Memory is what there is.
	Memory Memory
}

// Memory is what a plan divides.
type Memory struct {
	// Host is what the process may have; of what it shares with others a quarter is left to
	// them.
	Host host.Limit
	// Device is what a device with memory of its own has free, in bytes; 0 where weights lie
	// in the host's.
	Device int64
}

// Plan is what an engine takes of memory, in bytes, known before anything is loaded: what
// it needs in any case, and budgets, which follow from what is left. Of a device with memory
// of its own it takes the Footprint and Experts.
type Plan struct {
	model.Footprint
	// Experts is the budget of what mixtures are computed with: merged models and factors.
	// Budgets are 0 where it is not known how much there is.
	Experts int64
	// Swap is what making one of these takes for a while: the factors of one matrix.
	Swap int64
	// Bodies is the budget of requests' bodies; as much again twice is for what is made of
	// them.
	Bodies int64
	// Process is what everything else takes: the program, vocabularies, connections, and the
	// texts that are kept.
	Process int64
	// Loading is what reading the model takes for a while of the host's memory, before there
	// are a cache, steps and bodies.
	Loading int64
	// Merged is what the matrices of one merged mixture take, and Unmerged the factors that
	// all mixtures share.
	Merged, Unmerged int64
	// ContextLength, MaxBatch and CacheTokens are those of the Wish, with defaults filled
	// in.
	ContextLength, MaxBatch, CacheTokens int

	config checkpoint.Config
	wish   Wish
}

const (
	// process is for the program itself, and for each word of a vocabulary: measured, with a
	// quarter more.
	process     = 64 << 20
	processWord = 600
	// Bodies may take a sixty-fourth of the memory, at most so much, and at least four of
	// the largest: one counts up to three times while it is read.
	ofBodies     = 64
	mostBodies   = 256 << 20
	leastBodies  = 4
	copiesOfBody = 3
	// Where memory is shared with others, and nobody says how much is ours, experts may take
	// so much, or what eight merged mixtures or two sets of factors take.
	sharedExperts = 1 << 30
)

// PlanOf plans for a model of this configuration.
func PlanOf(c checkpoint.Config, w Wish) Plan {
	if w.ContextLength == 0 {
		w.ContextLength = c.MaxPositions
	}
	if w.MaxBatch == 0 {
		w.MaxBatch = DefaultMaxBatch
	}
	p := Plan{ContextLength: w.ContextLength, MaxBatch: w.MaxBatch, config: c, wish: w}
	slots := newSlots(w.MaxBatch)
	p.Footprint = model.FootprintOf(c, w.DType, w.Storage, 1, slots.steps(DefaultStepTokens, w.ContextLength))
	tokenBytes := p.Cache
	p.Process = process + processWord*int64(c.VocabSize) + w.Kept
	p.Loading = model.LoadingBytes(c, w.DType)
	p.planExperts()
	if w.Body > 0 {
		p.Bodies = max(min(p.hostLimit()/ofBodies, mostBodies), leastBodies*w.Body)
	}
	// What is left is for the cache and for experts.
	p.Cache = 0
	left := p.limit() - p.needs()
	p.CacheTokens = model.BlockSize * p.cacheBlocks(tokenBytes, left, slots)
	p.Cache = int64(p.CacheTokens) * tokenBytes
	if left -= p.Cache; w.Experts && p.limit() > 0 {
		p.Experts = max(left, 0)
		if p.isShared() {
			p.Experts = min(p.Experts, max(sharedExperts, 8*p.Merged, 2*p.Unmerged))
		}
	}
	return p
}

// planExperts fills in what experts take.
func (p *Plan) planExperts() {
	if !p.wish.Experts {
		return
	}
	matrices := p.wish.Matrices
	if matrices == nil {
		matrices = model.ProjectionShapes(p.config)
	}
	dtype := p.wish.DType
	for _, m := range matrices {
		out, in, rank := m[0], m[1], min(m[0], m[1])
		p.Merged += dtype.Bytes(out, in)
		p.Unmerged += unmergedBytes(dtype, out, in, rank)
		// As they are read, and as they are multiplied with.
		p.Swap = max(p.Swap, 2*backend.F32.Bytes(rank, out+in))
	}
}

// unmergedBytes is what the factors of a matrix take.
func unmergedBytes(dtype backend.DType, out, in, rank int) int64 {
	return dtype.Bytes(out, rank) + dtype.Bytes(rank, in) + backend.F32.Bytes(1, rank)
}

// steps are the largest that an engine computes: the tokens of prompts that it reads at
// once, one of each answer and of each job of pass 1, and those of labels.
func (s slots) steps(prompts, contextLength int) model.Steps {
	wanted := s.answers + s.questions + s.labelRows
	return model.Steps{
		Rows: prompts + wanted, Wanted: wanted, Decoded: s.answers, Sequences: s.total(), ContextLength: contextLength,
	}
}

// isOnDevice says that weights lie in memory of the device's own.
func (p *Plan) isOnDevice() bool { return p.wish.Memory.Device > 0 }

// isShared says that what weights lie in is shared with others.
func (p *Plan) isShared() bool { return !p.isOnDevice() && !p.wish.Memory.Host.Own }

// hostLimit is what there is of the host's memory, 0 where it is not known.
func (p *Plan) hostLimit() int64 {
	if l := p.wish.Memory.Host; l.Own {
		return l.Bytes
	}
	const ofOthers = 4
	return p.wish.Memory.Host.Bytes - p.wish.Memory.Host.Bytes/ofOthers
}

// limit is what there is of what weights lie in, 0 where it is not known.
func (p *Plan) limit() int64 {
	if p.isOnDevice() {
		return p.wish.Memory.Device
	}
	return p.hostLimit()
}

// hostNeeds is what is in the host's memory wherever weights are: while the model is
// loaded, or while it is served.
func (p *Plan) hostNeeds() int64 { return p.Process + max(p.serving(), p.Loading) }

// serving is what of the host's memory requests and mixtures take.
func (p *Plan) serving() int64 { return copiesOfBody*p.Bodies + p.Swap }

// needs is what is in the memory of weights while the model is served, but for experts.
func (p *Plan) needs() int64 {
	n := p.Weights + p.Cache + p.Activations
	if !p.isOnDevice() {
		n += p.Process + p.serving()
	}
	return n
}

// leastExperts is what experts need at least, in the form that is asked for.
func (p *Plan) leastExperts() int64 {
	switch p.wish.Form {
	case FormMerged:
		return p.Merged
	case FormUnmerged:
		return p.Unmerged
	default:
		return min(p.Merged, p.Unmerged)
	}
}

// Needs is the least that the plan takes of what weights lie in.
func (p Plan) Needs() int64 {
	n := p.needs() + p.leastExperts()
	if !p.isOnDevice() {
		n = max(n, p.Weights+p.Process+p.Loading)
	}
	return n
}

// Limit is what there is of that, and Source where this is from; 0 where it is not known.
func (p Plan) Limit() (bytes int64, source string) {
	if p.isOnDevice() {
		return p.limit(), "what the device has free"
	}
	source = p.wish.Memory.Host.Source
	if p.isShared() {
		source = "three quarters of " + source
	}
	return p.limit(), source
}

// Outside is what lies outside of Go's heap of the host's memory: weights and the cache.
func (p Plan) Outside() int64 {
	if p.isOnDevice() {
		return 0
	}
	return p.Weights + p.Cache + p.Experts
}

// Heap is what Go's heap may have, 0 where that is not known.
func (p Plan) Heap() int64 {
	if p.hostLimit() == 0 {
		return 0
	}
	return max(p.hostLimit()-p.Outside(), p.Process+p.serving())
}

// LoadingHeap is what Go's heap may have while the model is loaded, 0 where that is not
// known.
func (p Plan) LoadingHeap() int64 {
	if p.hostLimit() == 0 {
		return 0
	}
	least, left := p.Process+p.Loading, p.hostLimit()
	if !p.isOnDevice() {
		left -= p.Weights
	}
	return max(least, left)
}

// MergedFit is how many merged mixtures there is memory for, and UnmergedFits says that
// there is for the factors of all. Both are so where it is not known how much there is.
func (p Plan) MergedFit() int {
	if p.limit() == 0 || p.Merged == 0 {
		return mostComposed
	}
	return int(min(p.Experts/p.Merged, mostComposed))
}

// UnmergedFits is described at MergedFit.
func (p Plan) UnmergedFits() bool { return p.limit() == 0 || p.Unmerged <= p.Experts }

// Fits reports whether there is enough, as far as is known how much there is.
func (p Plan) Fits() bool {
	if p.limit() > 0 && p.Needs() > p.limit() {
		return false
	}
	return !p.lacksHost()
}

// lacksHost says that it is the host's memory that is too small, beside a device.
func (p *Plan) lacksHost() bool {
	return p.isOnDevice() && p.hostLimit() > 0 && p.hostNeeds() > p.hostLimit()
}

// ErrCache is that the cache is asked to be smaller than any request needs it.
var ErrCache = errors.New("the cache of keys and values is too small")

// tooSmall says so, and how large it has to be: for one sequence and a block more, which
// the first token of its answer may begin, or a label.
func (p *Plan) tooSmall() error {
	least := model.BlockSize * (model.Blocks(p.wish.Request) + 1)
	if p.wish.Request == 0 || p.CacheTokens >= least {
		return nil
	}
	tokenBytes := p.Cache / int64(p.CacheTokens)
	return fmt.Errorf("%w: it holds %d tokens as %s in %s, and a request of %d tokens needs %d: give it %d bytes (%s) at least, or say nothing of it",
		ErrCache, p.CacheTokens, p.wish.Storage.Cache, host.SizeText(p.Cache), p.wish.Request, least, int64(least)*tokenBytes, host.SizeText(int64(least)*tokenBytes))
}

// Err says what is missing, and what would fit, where the plan does not; it wraps
// backend.ErrDeviceMemory or host.ErrMemory, by what has too little, or ErrCache.
func (p Plan) Err() error {
	if err := p.tooSmall(); err != nil {
		return err
	}
	switch {
	case p.Fits():
		return nil
	case p.lacksHost():
		return fmt.Errorf("%w: beside the device's memory the process takes %s (%s), and %s has %s",
			host.ErrMemory, host.SizeText(p.hostNeeds()), p.ofHost(), p.wish.Memory.Host.Source, host.SizeText(p.hostLimit()))
	}
	hint := "no smaller setting fits"
	if would := p.wouldFit(); len(would) > 0 {
		hint = strings.Join(would, ", or ") + " would fit"
	}
	limit, source := p.Limit()
	kind := host.ErrMemory
	if p.isOnDevice() {
		kind = backend.ErrDeviceMemory
	}
	enough := p.enough()
	return fmt.Errorf("%w: the model takes %s (%s), and %s is %s: %s are missing; %s",
		kind, host.SizeText(enough.Needs()), enough.parts(), source, host.SizeText(limit), host.SizeText(enough.Needs()-limit), hint)
}

// enough is the plan of just as much memory as fits. It takes more than this one, whose
// bodies have a part of what is too little.
func (p *Plan) enough() Plan {
	q := *p
	for !q.Fits() {
		w := q.wish
		if q.isOnDevice() {
			w.Memory.Device = q.Needs()
		} else {
			w.Memory.Host.Bytes, w.Memory.Host.Own = q.Needs(), true
		}
		q = PlanOf(q.config, w)
	}
	return q
}

// parts names what is needed and how much of it.
func (p *Plan) parts() string {
	parts := []string{
		fmt.Sprintf("weights as %s %s", p.wish.DType, host.SizeText(p.Weights)),
		fmt.Sprintf("a cache of %d tokens as %s %s", p.CacheTokens, p.wish.Storage.Cache, host.SizeText(p.Cache)),
		fmt.Sprintf("a step as %s %s", p.wish.Storage.Activations, host.SizeText(p.Activations)),
	}
	if p.wish.Experts {
		parts = append(parts, fmt.Sprintf("experts at least %s: one mixture merged %s, all unmerged %s",
			host.SizeText(p.leastExperts()), host.SizeText(p.Merged), host.SizeText(p.Unmerged)))
	}
	if !p.isOnDevice() {
		parts = append(parts, p.ofHost())
	}
	return strings.Join(parts, ", ")
}

func (p *Plan) ofHost() string {
	return fmt.Sprintf("the process %s, requests' bodies %s, making a mixture %s; or, beside weights and the process, reading them %s",
		host.SizeText(p.Process), host.SizeText(copiesOfBody*p.Bodies), host.SizeText(p.Swap), host.SizeText(p.Loading))
}

// wouldFit lists single changes that make the plan fit: weights of a smaller type, a
// smaller cache, a shorter context, fewer sequences together.
func (p *Plan) wouldFit() []string {
	var would []string
	fits := func(change func(*Wish)) bool {
		w := p.wish
		change(&w)
		return PlanOf(p.config, w).Fits()
	}
	for _, dtype := range backend.DTypes() {
		if dtype.Bytes(1, backend.Int8Block) < p.wish.DType.Bytes(1, backend.Int8Block) && fits(func(w *Wish) { w.DType = dtype }) {
			would = append(would, fmt.Sprintf("dtype %s", dtype))
			break
		}
	}
	if w := p.wish; w.CacheBytes > 0 || w.CacheTokens > 0 {
		smaller := func(w *Wish) { w.CacheBytes, w.CacheTokens = 0, 0 }
		if fits(smaller) {
			smaller(&w)
			would = append(would, fmt.Sprintf("a cache of %s", host.SizeText(PlanOf(p.config, w).Cache)))
		}
	}
	const shortest = 256
	for context := p.ContextLength / 2; context >= shortest; context /= 2 {
		if fits(func(w *Wish) { w.ContextLength = context }) {
			would = append(would, fmt.Sprintf("a context length of %d", context))
			break
		}
	}
	for batch := p.MaxBatch / 2; batch >= 1; batch /= 2 {
		if fits(func(w *Wish) { w.MaxBatch = batch }) {
			would = append(would, fmt.Sprintf("a batch of at most %d", batch))
			break
		}
	}
	return would
}

// cacheBlocks is the size of the cache, where so much memory is left for it and for
// experts. By default a full batch of answers of the whole context, the forks of labels of a
// few tokens, and one context more for the prefix cache fit in, if they take no more than
// half of what is left, or than DefaultCacheBytes where that is shared with others; a
// request of the whole context always does.
func (p *Plan) cacheBlocks(tokenBytes, left int64, s slots) int {
	if p.wish.CacheTokens > 0 {
		return model.Blocks(p.wish.CacheTokens)
	}
	blockBytes := tokenBytes * model.BlockSize
	if p.wish.CacheBytes > 0 {
		return int(max(p.wish.CacheBytes/blockBytes, 1))
	}
	share := int64(DefaultCacheBytes)
	if p.limit() > 0 {
		const ofExperts = 2
		most := left
		if p.wish.Experts {
			most = min(left/ofExperts, left-p.leastExperts())
		}
		if p.isShared() || p.isOnDevice() {
			most = min(most, DefaultCacheBytes)
		}
		share = most
	}
	return defaultBlocks(blockBytes, share, p.ContextLength, s)
}
