package tokenizer

import (
	"container/heap"
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"
)

// maxTokenID bounds ids; the largest vocabularies have a quarter of a million.
const maxTokenID = 1 << 22

// bpe is byte-pair encoding: a piece starts as characters, and the pair of
// neighbours whose merge was learned first is merged until none is left.
type bpe struct {
	vocab        map[string]int32
	merges       map[[2]int32]merge
	unk          int32 // -1 if there is none
	fuseUnk      bool
	ignoreMerges bool
	// byteTokens are the tokens "<0x00>" to "<0xFF>" for characters that the
	// vocabulary has not; nil without byte fallback.
	byteTokens *[256]int32

	mu    sync.RWMutex
	cache map[string][]int32
}

// merge says that a pair becomes id; the smallest rank goes first.
type merge struct{ rank, id int32 }

// Bounds of the cache of pieces seen before.
const (
	cacheEntries  = 1 << 14
	cachePieceLen = 64
)

func newBPE(f modelFile) (*bpe, error) {
	if f.Type != "BPE" && f.Type != "" {
		return nil, fmt.Errorf("model type %q is not supported; BPE is", f.Type)
	}
	switch {
	case f.Dropout != nil && *f.Dropout != 0:
		return nil, errors.New("dropout is not supported: encoding must be deterministic")
	case f.ContinuingSubwordPrefix != nil && *f.ContinuingSubwordPrefix != "":
		return nil, errors.New("continuing_subword_prefix is not supported")
	case f.EndOfWordSuffix != nil && *f.EndOfWordSuffix != "":
		return nil, errors.New("end_of_word_suffix is not supported")
	case len(f.Vocab) == 0:
		return nil, errors.New("vocabulary is empty")
	}
	m := &bpe{
		vocab: f.Vocab, merges: make(map[[2]int32]merge, len(f.Merges)), unk: -1,
		fuseUnk: f.FuseUnk, ignoreMerges: f.IgnoreMerges, cache: map[string][]int32{},
	}
	if err := m.addMerges(f.Merges); err != nil {
		return nil, err
	}
	if f.UnkToken != nil {
		// One that is in no vocabulary matters to texts that need it only.
		if id, ok := f.Vocab[*f.UnkToken]; ok {
			m.unk = id
		}
	}
	if f.ByteFallback {
		m.byteTokens = &[256]int32{}
		for b := range 256 {
			id, ok := f.Vocab[fmt.Sprintf("<0x%02X>", b)]
			if !ok {
				id = -1
			}
			m.byteTokens[b] = id
		}
	}
	return m, nil
}

func (m *bpe) addMerges(list mergeList) error {
	for rank, pair := range list {
		left, ok := m.vocab[pair[0]]
		if !ok {
			return fmt.Errorf("merge %d uses %q, which is not in the vocabulary", rank, pair[0])
		}
		right, ok := m.vocab[pair[1]]
		if !ok {
			return fmt.Errorf("merge %d uses %q, which is not in the vocabulary", rank, pair[1])
		}
		joined, ok := m.vocab[pair[0]+pair[1]]
		if !ok {
			return fmt.Errorf("merge %d makes %q, which is not in the vocabulary", rank, pair[0]+pair[1])
		}
		m.merges[[2]int32{left, right}] = merge{rank: int32(rank), id: joined}
	}
	return nil
}

// encode appends the tokens of a piece to dst.
func (m *bpe) encode(dst []int32, text string) ([]int32, error) {
	if text == "" {
		return dst, nil
	}
	if m.ignoreMerges {
		if id, ok := m.vocab[text]; ok {
			return append(dst, id), nil
		}
	}
	if len(text) > cachePieceLen {
		ids, err := m.merge(text)
		return append(dst, ids...), err
	}
	m.mu.RLock()
	ids, ok := m.cache[text]
	m.mu.RUnlock()
	if !ok {
		var err error
		if ids, err = m.merge(text); err != nil {
			return dst, err
		}
		m.mu.Lock()
		if len(m.cache) >= cacheEntries {
			clear(m.cache)
		}
		m.cache[text] = ids
		m.mu.Unlock()
	}
	return append(dst, ids...), nil
}

// symbols returns the initial tokens of a piece, one a character.
func (m *bpe) symbols(text string) ([]int32, error) {
	ids := make([]int32, 0, len(text))
	unknown := false // the last symbol is the unknown token
	for i, r := range text {
		char := text[i : i+utf8.RuneLen(r)]
		if id, ok := m.vocab[char]; ok {
			ids, unknown = append(ids, id), false
			continue
		}
		if fallback, ok := m.bytesOf(char); ok {
			ids, unknown = append(ids, fallback...), false
			continue
		}
		if m.unk < 0 {
			return nil, fmt.Errorf("the vocabulary has no token for %q and no unknown token", char)
		}
		if !unknown || !m.fuseUnk {
			ids = append(ids, m.unk)
		}
		unknown = true
	}
	return ids, nil
}

// bytesOf returns the byte tokens of a character, if all of them exist.
func (m *bpe) bytesOf(char string) ([]int32, bool) {
	if m.byteTokens == nil {
		return nil, false
	}
	ids := make([]int32, len(char))
	for i := range len(char) {
		if ids[i] = m.byteTokens[char[i]]; ids[i] < 0 {
			return nil, false
		}
	}
	return ids, true
}

// merge runs byte-pair encoding on a piece in O(n log n): SentencePiece models
// make a whole text one piece.
func (m *bpe) merge(text string) ([]int32, error) {
	ids, err := m.symbols(text)
	if err != nil {
		return nil, err
	}
	n := len(ids)
	next, prev := make([]int, n), make([]int, n)
	var queue mergeQueue
	push := func(i int) {
		if j := next[i]; j < n {
			if mg, ok := m.merges[[2]int32{ids[i], ids[j]}]; ok {
				queue = append(queue, candidate{merge: mg, left: i, a: ids[i], b: ids[j]})
			}
		}
	}
	for i := range n {
		next[i], prev[i] = i+1, i-1
	}
	for i := range n {
		push(i)
	}
	heap.Init(&queue)
	for queue.Len() > 0 {
		c, _ := heap.Pop(&queue).(candidate)
		i := c.left
		// Either side may have been merged since this candidate was queued.
		if ids[i] != c.a || next[i] >= n || ids[next[i]] != c.b {
			continue
		}
		j := next[i]
		ids[i], ids[j] = c.id, -1
		next[i] = next[j]
		if next[i] < n {
			prev[next[i]] = i
		}
		for _, k := range [2]int{prev[i], i} {
			if k < 0 || next[k] >= n {
				continue
			}
			if mg, ok := m.merges[[2]int32{ids[k], ids[next[k]]}]; ok {
				heap.Push(&queue, candidate{merge: mg, left: k, a: ids[k], b: ids[next[k]]})
			}
		}
	}
	merged := make([]int32, 0, n)
	for i := 0; i < n; i = next[i] {
		merged = append(merged, ids[i])
	}
	return merged, nil
}

// candidate is a pair of neighbours that can be merged.
type candidate struct {
	merge
	left int // index of the left one
	a, b int32
}

// mergeQueue is a heap: lowest rank first, then leftmost.
type mergeQueue []candidate

func (q mergeQueue) Len() int { return len(q) }
func (q mergeQueue) Less(i, j int) bool {
	if q[i].rank != q[j].rank {
		return q[i].rank < q[j].rank
	}
	return q[i].left < q[j].left
}
func (q mergeQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *mergeQueue) Push(x any) {
	if c, ok := x.(candidate); ok {
		*q = append(*q, c)
	}
}

// Pop implements heap.Interface.
func (q *mergeQueue) Pop() any {
	old := *q
	c := old[len(old)-1]
	*q = old[:len(old)-1]
	return c
}
