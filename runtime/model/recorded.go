package model

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"weak"

	"github.com/transformersquared/operator/runtime/backend"
)

// recordedSteps are decode steps, in which each sequence gets one token, that a backend
// has recorded to repeat them at the cost of one call. They belong to a cache, whose
// addresses are in them.
//
// A step is recorded for a number of rows and for a bound of what they attend to, and
// filled up with rows that go nowhere. So there are few.
type recordedSteps struct {
	rows, keys []int // Bounds, rising.

	recorder backend.Recorder
	tables   backend.Tables // As large as the largest step needs, so that it stays where it is.
	logits   backend.Buffer // [Seqs, V]; a step's are the first rows.
	list     []*recordedStep
	clock    int
}

// recordedStep is one of them.
type recordedStep struct {
	stepKind
	graph backend.Graph
	// What the model's operations read that may be replaced by another.
	rotary backend.Buffer
	banks  []backend.Buffer
	used   int // When.
}

// stepKind is what a step was recorded for.
type stepKind struct {
	// The model. It is not held: a model that nobody uses has no more steps.
	model weak.Pointer[Model]
	// So many rows, that attend to so many keys at most.
	rows, most int
	// Rows have scales of their own.
	scaled bool
}

// mostRecorded bounds how many steps are kept, the ones used last.
const mostRecorded = 128

func newRecordedSteps(c backend.Capturer, seqs, maxLen int) *recordedSteps {
	return &recordedSteps{recorder: c.NewRecorder(), rows: rowBounds(seqs), keys: keyBounds(maxLen)}
}

// rowBounds are the numbers of rows that steps are recorded for: 1, 2, 4, 8, then two an
// octave, and all sequences.
func rowBounds(seqs int) []int {
	var bounds []int
	for n := 1; n < seqs; n *= 2 {
		bounds = append(bounds, n)
		if half := n + n/2; n >= 8 && half < seqs {
			bounds = append(bounds, half)
		}
	}
	return append(bounds, seqs)
}

// keyBounds are the numbers of keys likewise: what a step costs grows with the bound, but
// little, since the blocks of a grid that have no keys end at once.
func keyBounds(maxLen int) []int {
	const fewest, factor = 256, 4
	var bounds []int
	for n := fewest; n < maxLen; n *= factor {
		bounds = append(bounds, n)
	}
	return append(bounds, maxLen)
}

// bound returns the first of the bounds that is n or more.
func bound(bounds []int, n int) int {
	i, _ := slices.BinarySearch(bounds, n)
	return bounds[i]
}

// free gives everything back.
func (s *recordedSteps) free(be backend.Backend) {
	s.clear(be)
	if s.tables != nil {
		s.tables.Free()
	}
	s.recorder.Free()
}

// repeats reports whether a batch is a step that is recorded and repeated.
func (m *Model) repeats(c *Cache, b *batch) bool {
	if c.steps == nil || m.computesAll || len(b.tokens) != len(b.growths) {
		return false
	}
	return !slices.ContainsFunc(b.growths, func(g growth) bool { return g.n != 1 })
}

// repeat computes a batch by a recorded step, which it records if there is none.
func (m *Model) repeat(ctx context.Context, p *pass, c *Cache, b *batch, take taker) {
	n := len(b.tokens)
	kind := stepKind{
		model: weak.Make(m), rows: bound(c.steps.rows, n), most: bound(c.steps.keys, b.longest), scaled: b.scales.some,
	}
	p.check(ctx)
	p.do(func() error {
		step, err := m.recorded(ctx, c, b, kind)
		if err != nil {
			return err
		}
		return step.graph.Replay()
	})
	logits := p.part(c.steps.logits, m.config.VocabSize, n)
	if p.err == nil {
		take(p, nil, logits, n)
	}
}

// RecordSteps records, ahead of the first of them, the decode steps of up to so many
// sequences, with scales of their own or without. It does nothing where the backend
// cannot record, or the model is Unrecorded. What memory other models' steps of as many
// sequences need is there then, if they have the same projections factored.
func (m *Model) RecordSteps(ctx context.Context, c *Cache, sequences int, scaled bool) error {
	if !c.fits(m) {
		return errors.New("recording steps: the cache was made for another model, or is closed")
	}
	if c.steps == nil || m.computesAll {
		return nil
	}
	// The largest first: the others find memory that is large enough.
	for _, rows := range slices.Backward(c.steps.rows) {
		if sequences <= 0 || rows > bound(c.steps.rows, min(sequences, c.Seqs())) {
			continue
		}
		for _, most := range slices.Backward(c.steps.keys) {
			b := filler()
			b.scales.some = scaled
			if _, err := m.recorded(ctx, c, b, stepKind{model: weak.Make(m), rows: rows, most: most, scaled: scaled}); err != nil {
				return fmt.Errorf("recording a step of %d rows that attend to %d keys: %w", rows, most, err)
			}
		}
	}
	return nil
}

// nowhere is the slot of a row whose key and value are not kept.
const nowhere = -1

// filler is a batch of one row that goes nowhere.
func filler() *batch {
	return &batch{
		tokens: []int32{0}, positions: []int32{0}, slots: []int32{nowhere}, wanted: []int32{0},
		blocks: []int32{0}, first: []int32{0}, count: []int32{1}, scales: rowScales{index: []int32{0}},
	}
}

// fill appends rows that go nowhere, and are otherwise like the first one, and attend to
// its first key, which is there, by tables of their own: no two rows of a decode step share
// one, by which a device may choose how it attends. And it appends blocks, so that lists
// have the same lengths in all steps of a kind.
func (b *batch) fill(kind stepKind) {
	for len(b.tokens) < kind.rows {
		b.wanted = append(b.wanted, int32(len(b.tokens)))
		b.tokens, b.positions = append(b.tokens, b.tokens[0]), append(b.positions, b.positions[0])
		b.slots = append(b.slots, nowhere)
		b.first, b.count = append(b.first, int32(len(b.blocks))), append(b.count, 1)
		b.blocks = append(b.blocks, b.blocks[b.first[0]])
		b.scales.index = append(b.scales.index, b.scales.index[0])
	}
	for len(b.blocks) < kind.rows*Blocks(kind.most) {
		b.blocks = append(b.blocks, 0)
	}
}

// recorded tells the device of a batch and returns the step of this kind, which it
// records if there is none.
func (m *Model) recorded(ctx context.Context, c *Cache, b *batch, kind stepKind) (*recordedStep, error) {
	s := c.steps
	if err := s.reserve(m, c); err != nil {
		return nil, err
	}
	rotary, err := m.rope.upTo(c.maxLen)
	if err != nil {
		return nil, err
	}
	b.fill(kind)
	d, err := b.upload(s.tables)
	if err != nil {
		return nil, err
	}
	d.all.keys.Most = kind.most
	s.clock++
	i := slices.IndexFunc(s.list, func(step *recordedStep) bool { return step.stepKind == kind })
	if i >= 0 && s.list[i].rotary == rotary && m.hasBanks(s.list[i].banks) {
		s.list[i].used = s.clock
		return s.list[i], nil
	}
	if i >= 0 {
		s.drop(i)
	}
	step := &recordedStep{stepKind: kind, rotary: rotary, banks: m.banks(), used: s.clock}
	step.graph, err = s.recorder.Record(func(be backend.Backend) error {
		p := &pass{Parts: backend.Parts{Backend: be, Arena: be.NewArena(), Storage: m.storage.Activations}}
		defer p.release()
		logits := p.part(s.logits, m.config.VocabSize, kind.rows)
		m.logits(p, logits, m.through(ctx, p, c, d, rotary), kind.rows)
		return p.err
	})
	if err != nil {
		return nil, err
	}
	s.keep(step)
	return step, nil
}

// reserve takes, once, what is as large for all steps.
func (s *recordedSteps) reserve(m *Model, c *Cache) error {
	if n := c.Seqs() * m.config.VocabSize; s.logits == nil || s.logits.Len() != n {
		logits, err := c.arena.Alloc(backend.F32, n) // Of what is reserved for steps.
		if err != nil {
			return fmt.Errorf("logits of decode steps: %w", err)
		}
		c.arena.Release(logits)
		s.clear(m.be)
		s.logits = logits
	}
	if s.tables != nil {
		return nil
	}
	tables, err := m.be.NewTables()
	if err != nil {
		return err
	}
	largest := filler()
	largest.fill(stepKind{rows: c.Seqs(), most: c.maxLen})
	if err := tables.Set(largest.lists()...); err != nil {
		tables.Free()
		return err
	}
	s.tables = tables
	return nil
}

// keep adds a step. Those of models that are gone go, and the one used least lately
// where there are too many.
func (s *recordedSteps) keep(step *recordedStep) {
	s.list = slices.DeleteFunc(s.list, func(other *recordedStep) bool {
		gone := other.model.Value() == nil
		if gone {
			other.graph.Free()
		}
		return gone
	})
	if len(s.list) >= mostRecorded {
		oldest := 0
		for i, other := range s.list {
			if other.used < s.list[oldest].used {
				oldest = i
			}
		}
		s.drop(oldest)
	}
	s.list = append(s.list, step)
}

func (s *recordedSteps) drop(i int) {
	s.list[i].graph.Free()
	s.list = slices.Delete(s.list, i, i+1)
}

// clear drops all steps, and the logits that they write.
func (s *recordedSteps) clear(be backend.Backend) {
	for len(s.list) > 0 {
		s.drop(len(s.list) - 1)
	}
	if s.logits != nil {
		be.Free(s.logits)
		s.logits = nil
	}
}

// banks are the buffers that the scales of adapted projections lie in now.
func (m *Model) banks() []backend.Buffer {
	var all []backend.Buffer
	for bank := range m.eachBank() {
		all = append(all, bank.of(nil).Bank)
	}
	return all
}

// hasBanks reports whether the banks are still these.
func (m *Model) hasBanks(banks []backend.Buffer) bool {
	i := 0
	for bank := range m.eachBank() {
		if banks[i] != bank.of(nil).Bank {
			return false
		}
		i++
	}
	return true
}

// eachBank goes over the banks of all projections.
func (m *Model) eachBank() iter.Seq[*bank] {
	return func(yield func(*bank) bool) {
		for i := range m.layers {
			for _, l := range m.layers[i].linears {
				for _, b := range l.banks() {
					if b != nil && !yield(b) {
						return
					}
				}
			}
		}
	}
}
