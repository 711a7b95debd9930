package model_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/model"
)

// long is tiny with room for several blocks.
func long() shape {
	s := tiny()
	s.MaxPositions = 8 * model.BlockSize
	return s
}

func newPagedCache(t *testing.T, m *model.Model, seqs, maxLen, blocks int) *model.Cache {
	t.Helper()
	c, err := m.NewPagedCache(seqs, maxLen, blocks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestStepsTakeBlocksAndFailCleanlyWhenThereAreNone(t *testing.T) {
	const block = model.BlockSize
	m := newModel(t, newBackend(t, 2), long())
	c := newPagedCache(t, m, 3, 4*block, 4)
	tokens := randomTokens(4*block, long().Vocab, 1)
	used := func(want int) {
		t.Helper()
		if got := c.UsedBlocks(); got != want || c.TotalBlocks() != 4 {
			t.Errorf("%d of %d blocks are used, want %d of 4", got, c.TotalBlocks(), want)
		}
	}
	used(0)
	step(t, m, c, model.Segment{Seq: 0, Tokens: tokens[:2*block]}, model.Segment{Seq: 1, Tokens: tokens[:1]})
	used(3)
	// One block is left, and two are asked for.
	_, err := m.Step(t.Context(), c, []model.Segment{{Seq: 0, Tokens: tokens[2*block : 2*block+1]}, {Seq: 2, Tokens: tokens[:1]}})
	var full *model.CacheFullError
	if !errors.As(err, &full) || *full != (model.CacheFullError{Needed: 2, Free: 1, Total: 4}) {
		t.Fatalf("got %v, want that 2 blocks are needed and 1 is free", err)
	}
	if c.Len(0) != 2*block || c.Len(1) != 1 || c.Len(2) != 0 {
		t.Errorf("the lengths are %d, %d, %d after a step that failed", c.Len(0), c.Len(1), c.Len(2))
	}
	used(3)
	// A step that fails later gives back what it took.
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Step(cancelled, c, []model.Segment{{Seq: 2, Tokens: tokens[:1]}}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want cancelled", err)
	}
	used(3)
	if err := c.Truncate(1, 0); err != nil {
		t.Fatal(err)
	}
	used(2)
	got := step(t, m, c, model.Segment{Seq: 0, Tokens: tokens[2*block : 2*block+1]}, model.Segment{Seq: 2, Tokens: tokens[:1]})
	used(4)
	want := step(t, m, newPagedCache(t, m, 2, 4*block, 8), model.Segment{Seq: 1, Tokens: tokens[:2*block+1]}, model.Segment{Seq: 0, Tokens: tokens[:1]})
	if !slices.Equal(got.Data, want.Data) {
		t.Error("a step that was tried again differs from one at once")
	}
	if err := c.Truncate(0, block); err != nil {
		t.Fatal(err)
	}
	used(2)
}

// TestSharedBlocksAreCopiedWhenWritten continues a prefix that ends within a block
// three ways, and one that has been shortened into a shared block.
func TestSharedBlocksAreCopiedWhenWritten(t *testing.T) {
	be := newBackend(t, 2)
	for _, s := range storages(be) {
		t.Run("stored as "+s.String(), func(t *testing.T) {
			sharedBlocksAreCopied(t, newModel(t, be, long(), model.StoredAs(s)))
		})
	}
}

func sharedBlocksAreCopied(t *testing.T, m *model.Model) {
	t.Helper()
	const block, prefix = model.BlockSize, model.BlockSize + 7
	c := newPagedCache(t, m, 4, 4*block, 5)
	tokens := randomTokens(prefix, long().Vocab, 1)
	step(t, m, c, model.Segment{Seq: 0, Tokens: tokens})
	for dst := 1; dst < 4; dst++ {
		if err := c.CopyPrefix(dst, 0, prefix-dst/3); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Truncate(3, block-5); err != nil {
		t.Fatal(err)
	}
	if n := c.UsedBlocks(); n != 2 {
		t.Errorf("sharing took blocks: %d are used, want 2", n)
	}
	var segments []model.Segment
	var alone []model.Segment
	for seq := range 4 {
		tail := randomTokens(3, long().Vocab, uint64(seq+2))
		segments = append(segments, model.Segment{Seq: seq, Tokens: tail, AllLogits: true})
		alone = append(alone, model.Segment{Seq: seq, Tokens: append(slices.Clone(tokens[:c.Len(seq)]), tail...)})
	}
	if n := c.Needed(segments); n != 3 {
		t.Errorf("a step that copies a block for all but the last sequence needs %d blocks, want 3", n)
	}
	got := step(t, m, c, segments...)
	// Sequence 3 wrote to the first block; the last of the others kept the second.
	if n := c.UsedBlocks(); n != 1+3+1 {
		t.Errorf("%d blocks are used after writing, want 5", n)
	}
	want := step(t, m, newPagedCache(t, m, 4, 4*block, 16), alone...)
	for seq := range 4 {
		if !slices.Equal(got.Row(3*seq+2), want.Row(seq)) {
			t.Errorf("sequence %d differs from computing it anew", seq)
		}
	}
}

// TestHeldBlocksAreAdopted ends a sequence whose blocks are held, and begins others by
// them: with all of them, and with a part of the last.
func TestHeldBlocksAreAdopted(t *testing.T) {
	be := newBackend(t, 2)
	for _, s := range storages(be) {
		t.Run("stored as "+s.String(), func(t *testing.T) { heldBlocksAreAdopted(t, newModel(t, be, long(), model.StoredAs(s))) })
	}
}

func heldBlocksAreAdopted(t *testing.T, m *model.Model) {
	t.Helper()
	const block, length = model.BlockSize, model.BlockSize + 9
	c := newPagedCache(t, m, 3, 3*block, 6)
	tokens := randomTokens(length, long().Vocab, 1)
	step(t, m, c, model.Segment{Seq: 0, Tokens: tokens})
	var blocks []model.Block
	for i := range 2 {
		b, err := c.Hold(0, i)
		if at, held := c.HeldAt(0, i); err != nil || c.IsIdle(b) || !held || at != b {
			t.Fatalf("block %d: %v", i, err)
		}
		blocks = append(blocks, b)
	}
	if _, err := c.Hold(0, 1); err == nil {
		t.Error("a block held twice: no error")
	}
	if err := c.Truncate(0, 0); err != nil {
		t.Fatal(err)
	}
	if c.UsedBlocks() != 2 || c.IdleBlocks() != 2 || c.FreeBlocks() != 4 || !c.IsIdle(blocks[0]) {
		t.Fatalf("%d blocks are used and %d idle, want 2 and 2", c.UsedBlocks(), c.IdleBlocks())
	}
	for seq, n := range []int{length, length - 5, block} {
		if err := c.Adopt(seq, blocks[:model.Blocks(n)], n); err != nil {
			t.Fatal(err)
		}
		tail := randomTokens(4, long().Vocab, uint64(2+seq))
		got := step(t, m, c, model.Segment{Seq: seq, Tokens: tail})
		want := step(t, m, newPagedCache(t, m, 1, 3*block, 3), model.Segment{Tokens: append(slices.Clone(tokens[:n]), tail...)})
		if !slices.Equal(got.Data, want.Data) {
			t.Errorf("%d tokens of held blocks and 4 behind them differ from computing all anew", n)
		}
	}
	for name, err := range map[string]error{
		"more tokens than blocks":     c.Adopt(0, blocks, 2*block+1),
		"a block that is not held":    c.Adopt(0, []model.Block{5}, 1),
		"no such sequence":            c.Adopt(3, blocks, length),
		"a block of a cache too long": c.LetGo(99),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for seq := range 3 {
		if err := c.Truncate(seq, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range blocks {
		if err := c.LetGo(b); err != nil {
			t.Error(err)
		}
	}
	if c.UsedBlocks() != 0 || c.LetGo(blocks[0]) == nil {
		t.Errorf("%d blocks are used when all is let go", c.UsedBlocks())
	}
}

// TestForksGoOnAsTheirSequenceDoes forks sequences that end everywhere in a block, some
// of which share the block that they begin in, and compares with computing each whole.
func TestForksGoOnAsTheirSequenceDoes(t *testing.T) {
	be := newBackend(t, 2)
	for _, s := range storages(be) {
		t.Run("stored as "+s.String(), func(t *testing.T) {
			forksGoOn(t, newModel(t, be, long(), model.StoredAs(s)))
		})
	}
}

func forksGoOn(t *testing.T, m *model.Model) {
	t.Helper()
	const block = model.BlockSize
	for _, tc := range []struct {
		from, n int
		shared  bool
		blocks  int // Used after the step.
	}{
		{from: 0, n: 3, blocks: 1 + 3},
		{from: 0, n: block, blocks: 1 + 3},
		{from: 5, n: 4, blocks: 1 + 3},
		{from: 5, n: 4, shared: true, blocks: 2 + 3},
		{from: 5, n: block, shared: true, blocks: 3 + 3},
		{from: block - 4, n: 4, shared: true, blocks: 2 + 3},
		{from: block, n: 2, shared: true, blocks: 2 + 3},
		{from: block + 7, n: 2*block + 1, blocks: 4 + 3},
	} {
		t.Run(fmt.Sprintf("%d+%d, shared %v", tc.from, tc.n, tc.shared), func(t *testing.T) {
			c := newPagedCache(t, m, 5, 5*block, 12)
			tokens := randomTokens(tc.from+tc.n, long().Vocab, 1)
			if tc.from > 0 {
				step(t, m, c, model.Segment{Seq: 0, Tokens: tokens[:tc.from]})
			}
			if tc.shared {
				if err := c.CopyPrefix(4, 0, tc.from); err != nil {
					t.Fatal(err)
				}
			}
			segment := model.Segment{Seq: 0, Tokens: tokens[tc.from:]}
			var alone []model.Segment
			for seq := 1; seq < 4; seq++ {
				tail := randomTokens(seq, long().Vocab, uint64(seq+1))
				segment.Forks = append(segment.Forks, model.Fork{Seq: seq, Tokens: tail})
				alone = append(alone, model.Segment{Seq: seq, Tokens: slices.Concat(tokens, tail), AllLogits: true})
			}
			cancelled, cancel := context.WithCancel(t.Context())
			cancel()
			before := c.UsedBlocks()
			if _, err := m.Step(cancelled, c, []model.Segment{segment}); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want cancelled", err)
			}
			if n := c.UsedBlocks(); n != before || c.Len(0) != tc.from || c.Len(1) != 0 {
				t.Errorf("after a step that failed %d blocks are used, were %d; lengths %d and %d", n, before, c.Len(0), c.Len(1))
			}
			got := step(t, m, c, segment)
			if n := c.UsedBlocks(); n != tc.blocks {
				t.Errorf("%d blocks are used, want %d", n, tc.blocks)
			}
			fresh := newPagedCache(t, m, 4, 5*block, 20)
			want := step(t, m, fresh, alone...)
			// Every sequence goes on from what it has, the one that shared it, too.
			next, wantNext := []model.Segment{{Seq: 0, Tokens: tokens[:1]}}, []model.Segment{{Seq: 0, Tokens: append(slices.Clone(tokens), tokens[0])}}
			row, wantRow := 1, 0
			for seq := 1; seq < 4; seq++ {
				wantRow += len(tokens)
				if seq == 1 && !slices.Equal(got.Row(0), want.Row(wantRow-1)) {
					t.Error("the logits behind the sequence's own tokens differ")
				}
				for range seq {
					if !slices.Equal(got.Row(row), want.Row(wantRow)) {
						t.Errorf("row %d, of fork %d, differs from computing it alone", row, seq)
					}
					row, wantRow = row+1, wantRow+1
				}
				if n := c.Len(seq); n != len(tokens)+seq {
					t.Errorf("fork %d has %d tokens, want %d", seq, n, len(tokens)+seq)
				}
				next = append(next, model.Segment{Seq: seq, Tokens: tokens[:1]})
				wantNext = append(wantNext, model.Segment{Seq: seq, Tokens: tokens[:1]})
			}
			if !slices.Equal(step(t, m, c, next...).Data, step(t, m, fresh, wantNext...).Data) {
				t.Error("what follows differs")
			}
		})
	}
}

// TestNewCacheBacksEverySequence fills all of them, shares and fills them again.
func TestNewCacheBacksEverySequence(t *testing.T) {
	const maxLen = 2*model.BlockSize + 3
	m := newModel(t, newBackend(t, 2), long())
	c, err := m.NewCache(3, maxLen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fill := func() {
		for seq := range 3 {
			step(t, m, c, model.Segment{Seq: seq, Tokens: randomTokens(maxLen-c.Len(seq), long().Vocab, 1)})
		}
	}
	fill()
	for dst := 1; dst < 3; dst++ {
		if err := c.CopyPrefix(dst, 0, maxLen-1); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Truncate(0, 1); err != nil {
		t.Fatal(err)
	}
	fill()
	if c.UsedBlocks() > c.TotalBlocks() || c.TotalBlocks() != 9 {
		t.Errorf("%d of %d blocks are used, want at most 9 of 9", c.UsedBlocks(), c.TotalBlocks())
	}
	for what, err := range map[string]error{
		"no blocks":          second(m.NewPagedCache(1, maxLen, 0)),
		"too many blocks":    second(m.NewPagedCache(1, maxLen, 1<<31)),
		"too many sequences": second(m.NewCache(1<<31, maxLen)),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
