package constrain

import (
	"bytes"
	"cmp"
	"container/list"
	"math/bits"
	"slices"
	"sync"
)

// Vocabulary is the tokens of a model as a trie of their bytes, and the masks that have been
// found with it. It may be used concurrently.
type Vocabulary struct {
	size int // Tokens.

	// The trie's nodes but its root, each before those below it.
	label []byte
	depth []uint16 // 1 for those below the root.
	skip  []int32  // The first node that is not below this one.
	first []int32  // Where a node's tokens begin in tokens; one more than there are nodes.

	tokens  []int32
	texts   []string // By token; "" for those that are never allowed.
	deepest int

	mu    sync.Mutex
	masks *list.List // Of *position, the last used first.
	held  int        // Their bytes.
}

// maxToken bounds a token's bytes; longer ones are never allowed.
const maxToken = 1 << 12

// NewVocabulary returns the vocabulary of a model with so many tokens. spell returns the bytes
// that a token adds to a text; none for those that are never allowed, such as special tokens.
func NewVocabulary(size int, spell func(token int32) []byte) *Vocabulary {
	type entry struct {
		text  []byte
		token int32
	}
	entries := make([]entry, 0, size)
	for id := range int32(size) {
		if text := spell(id); len(text) > 0 && len(text) <= maxToken {
			entries = append(entries, entry{text, id})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(bytes.Compare(a.text, b.text), cmp.Compare(a.token, b.token)) })
	v := &Vocabulary{size: size, texts: make([]string, size), masks: list.New()}
	var path []int32 // The nodes of the text before.
	var last []byte
	leave := func(depth int) {
		for _, n := range path[depth:] {
			v.skip[n] = int32(len(v.label))
		}
		path = path[:depth]
	}
	for _, e := range entries {
		common := 0
		for common < len(last) && common < len(e.text) && last[common] == e.text[common] {
			common++
		}
		leave(common)
		for i := common; i < len(e.text); i++ {
			path = append(path, int32(len(v.label)))
			v.label = append(v.label, e.text[i])
			v.depth = append(v.depth, uint16(i+1))
			v.skip = append(v.skip, 0)
			v.first = append(v.first, int32(len(v.tokens)))
		}
		v.tokens = append(v.tokens, e.token)
		v.texts[e.token] = string(e.text)
		v.deepest = max(v.deepest, len(e.text))
		last = e.text
	}
	leave(0)
	v.first = append(v.first, int32(len(v.tokens)))
	return v
}

// Size is how many tokens there are.
func (v *Vocabulary) Size() int { return v.size }

// spelling returns a token's bytes, none if it is never allowed.
func (v *Vocabulary) spelling(token int32) string {
	if token < 0 || int(token) >= v.size {
		return ""
	}
	return v.texts[token]
}

// Mask says which tokens are allowed. It is never changed.
type Mask struct {
	// Bits has a bit for each token: bit i%64 of word i/64.
	Bits []uint64
	// Count is how many are allowed, and First the first of them, −1 for none.
	Count int
	First int32
}

// Allows reports whether a token is allowed.
func (m *Mask) Allows(token int32) bool {
	return token >= 0 && int(token)/64 < len(m.Bits) && m.Bits[token/64]>>(token%64)&1 == 1
}

func newMask(words []uint64) *Mask {
	m := &Mask{Bits: words, First: -1}
	for i, w := range words {
		if w != 0 && m.First < 0 {
			m.First = int32(64*i + bits.TrailingZeros64(w))
		}
		m.Count += bits.OnesCount64(w)
	}
	return m
}

// with returns the mask that allows some more tokens.
func (m *Mask) with(tokens []int32) *Mask {
	words := slices.Clone(m.Bits)
	for _, t := range tokens {
		if t >= 0 && int(t)/64 < len(words) {
			words[t/64] |= 1 << (t % 64)
		}
	}
	return newMask(words)
}

// walk finds the tokens that may follow at a position. The machine's lock is held.
func (v *Vocabulary) walk(m *machine, p *position) (*Mask, error) {
	words := make([]uint64, (v.size+63)/64)
	path := make([]*position, v.deepest+1)
	path[0] = p
	for n := 0; n < len(v.label); {
		depth := v.depth[n]
		at := path[depth-1]
		next := at.next[m.grammar.class[v.label[n]]]
		if next == nil {
			next = m.step(at, v.label[n])
		}
		if len(next.configs) == 0 && !next.ends {
			if next.err != nil {
				return nil, next.err
			}
			n = int(v.skip[n])
			continue
		}
		path[depth] = next
		for _, t := range v.tokens[v.first[n]:v.first[n+1]] {
			words[t/64] |= 1 << (t % 64)
		}
		n++
	}
	return newMask(words), nil
}

// mask returns the mask of a position, from the cache where it is there. The machine's lock
// is held.
func (v *Vocabulary) mask(m *machine, p *position) (*Mask, error) {
	v.mu.Lock()
	if p.mask != nil {
		v.masks.MoveToFront(p.kept)
		mask := p.mask
		v.mu.Unlock()
		return mask, nil
	}
	v.mu.Unlock()
	mask, err := v.walk(m, p)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	p.mask, p.kept = mask, v.masks.PushFront(p)
	v.held += 8 * len(mask.Bits)
	for v.held > maskBytes && v.masks.Len() > 1 {
		oldest, _ := v.masks.Remove(v.masks.Back()).(*position)
		v.held -= 8 * len(oldest.mask.Bits)
		oldest.mask, oldest.kept = nil, nil
	}
	return mask, nil
}
