package engine

import (
	"slices"

	"github.com/transformersquared/operator/runtime/model"
)

// pin is a beginning that the prefix cache gives up last.
type pin struct {
	writer key
	tokens []int32
}

// pinned makes the beginnings of sets those of the prefix cache, and has them read, unless
// they are so already.
func (e *Engine) pinned(sets []Set) {
	var beginnings []Beginning
	for _, s := range sets {
		beginnings = append(beginnings, s.Beginnings...)
	}
	pins := make([]pin, len(beginnings))
	for i, b := range beginnings {
		pins[i] = pin{writer: e.weights.scoring(b.Mixture), tokens: b.Tokens}
	}
	same := func(a, b pin) bool { return a.writer == b.writer && slices.Equal(a.tokens, b.tokens) }
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.EqualFunc(e.pins, pins, same) || e.closed {
		return
	}
	e.pins, e.repin = pins, true
	for _, b := range beginnings {
		e.reading.Go(func() { e.readBeginning(b) })
	}
}

// readBeginning brings a beginning into the prefix cache. An error is no one's: a prompt that
// begins so meets the same.
func (e *Engine) readBeginning(b Beginning) {
	if len(b.Tokens) < model.BlockSize { // Less is not kept.
		return
	}
	ctx, leave := e.admitOwn(e.weights.ctx)
	defer leave()
	_, _ = e.read(ctx, b.Mixture, ReadRequest{Prompt: b.Tokens})
}

// repin tells the prefix cache of beginnings that are new.
func (l *loop) repin() {
	e := l.engine
	e.mu.Lock()
	pins, changed := e.pins, e.repin
	e.repin = false
	e.mu.Unlock()
	if changed {
		l.prefixes.pin(pins)
	}
}

// pin makes these the beginnings that are given up last.
func (c *prefixCache) pin(pins []pin) {
	c.pins = pins
	for _, b := range c.nodes {
		b.pinned = false
	}
	for _, p := range pins {
		node, tokens := c.roots[p.writer], p.tokens
		for node != nil && len(tokens) >= model.BlockSize {
			_, common, found := node.closest(tokens[:model.BlockSize])
			if common < model.BlockSize {
				break
			}
			found.pinned = true
			node, tokens = found, tokens[model.BlockSize:]
		}
	}
}

// pinnedBlocks is how many of the first blocks of a writer's tokens are those of a pin. One
// that is not full is not: what follows the beginning in it is some prompt's own.
func (c *prefixCache) pinnedBlocks(writer key, tokens []int32) int {
	most := 0
	for _, p := range c.pins {
		if p.writer == writer {
			most = max(most, alike(p.tokens, tokens)/model.BlockSize)
		}
	}
	return most
}
