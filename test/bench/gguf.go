package main

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Types of values and tensors in GGUF files, version 3.
const (
	ggufUint32  = 4
	ggufInt32   = 5
	ggufFloat32 = 6
	ggufBool    = 7
	ggufString  = 8
	ggufArray   = 9

	ggmlF32  = 0
	ggmlQ8   = 8
	ggmlBF16 = 30

	ggufAlignment = 32
	// q8Block is the number of weights that share a scale.
	q8Block = 32
)

// writeGGUF writes the same model as write does as a GGUF file for llama.cpp,
// with matrices of type f32, bf16 or int8 (Q8_0: blocks of 32 weights with an
// f16 scale), and with the same vocabulary, so that a text has the same tokens.
func (s shape) writeGGUF(path, dtype string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return artifact.WriteFileAtomic(path, func(out io.Writer) error {
		w := &ggufWriter{w: out}
		s.encodeGGUF(w, dtype)
		return w.err
	})
}

// ggufPath is where that file is, in the bench's folder.
func (s shape) ggufPath(dir, dtype string) string {
	return filepath.Join(s.folder(dir), dtype+".gguf")
}

func (s shape) encodeGGUF(w *ggufWriter, dtype string) {
	numbers := []struct {
		key   string
		value int
	}{
		{"vocab_size", s.Vocab}, {"context_length", context}, {"embedding_length", s.Hidden}, {"block_count", s.Layers},
		{"feed_forward_length", s.Inner}, {"rope.dimension_count", s.HeadDim}, {"attention.key_length", s.HeadDim},
		{"attention.value_length", s.HeadDim}, {"attention.head_count", s.Heads}, {"attention.head_count_kv", s.KVHeads},
	}
	matrices := s.matrices()
	w.bytes([]byte("GGUF"))
	w.number(uint32(3))
	w.number(uint64(len(matrices)))
	w.number(uint64(len(numbers) + 2 + ggufTokenizerPairs))
	w.pair("general.architecture", ggufString)
	w.text("llama")
	w.tokenizer(s.Vocab)
	w.pair("llama.attention.layer_norm_rms_epsilon", ggufFloat32)
	w.number(float32(1e-5))
	for _, n := range numbers {
		w.pair("llama."+n.key, ggufUint32)
		w.number(uint32(n.value))
	}
	offset := uint64(0)
	for _, m := range matrices {
		w.text(m.gguf)
		if m.vector() {
			w.number(uint32(1))
			w.number(uint64(m.cols))
		} else {
			w.number(uint32(2))
			w.number(uint64(m.cols)) // The fastest dimension goes first.
			w.number(uint64(m.rows))
		}
		kind, size := m.ggml(dtype)
		w.number(kind)
		w.number(offset)
		offset += (size + ggufAlignment - 1) / ggufAlignment * ggufAlignment
	}
	w.align()
	for _, m := range matrices {
		w.matrix(m, dtype)
		w.align()
	}
}

const ggufTokenizerPairs = 7

// tokenizer writes the vocabulary of n tokens: a BPE without merges. Token 0 ends a text, as
// config.json has it.
func (w *ggufWriter) tokenizer(n int) {
	const normal = 1 // Type of a token.
	w.pair("tokenizer.ggml.model", ggufString)
	w.text("gpt2")
	w.pair("tokenizer.ggml.pre", ggufString)
	w.text("gpt-2")
	w.list("tokenizer.ggml.tokens", ggufString, n)
	for _, token := range vocabulary(n) {
		w.text(token)
	}
	w.list("tokenizer.ggml.token_type", ggufInt32, n)
	for range n {
		w.number(int32(normal))
	}
	w.list("tokenizer.ggml.merges", ggufString, 0)
	w.pair("tokenizer.ggml.eos_token_id", ggufUint32)
	w.number(uint32(0))
	w.pair("tokenizer.ggml.add_bos_token", ggufBool)
	w.number(false)
}

// ggml returns a matrix's type and size in bytes.
func (m matrix) ggml(dtype string) (kind uint32, size uint64) {
	n := uint64(m.rows * m.cols)
	switch {
	case m.vector() || dtype == "f32":
		return ggmlF32, 4 * n
	case dtype == "int8":
		return ggmlQ8, n / q8Block * (2 + q8Block)
	default:
		return ggmlBF16, 2 * n
	}
}

// ggufWriter counts what it writes and keeps the first error.
type ggufWriter struct {
	w   io.Writer
	at  int64
	err error
}

func (w *ggufWriter) bytes(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
		w.at += int64(len(b))
	}
}

func (w *ggufWriter) number(v any) {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if w.err == nil {
		w.err = err
	}
	w.bytes(b)
}

func (w *ggufWriter) text(s string) {
	w.number(uint64(len(s)))
	w.bytes([]byte(s))
}

func (w *ggufWriter) pair(key string, kind uint32) {
	w.text(key)
	w.number(kind)
}

// list begins an array of n values.
func (w *ggufWriter) list(key string, kind uint32, n int) {
	w.pair(key, ggufArray)
	w.number(kind)
	w.number(uint64(n))
}

func (w *ggufWriter) align() {
	w.bytes(make([]byte, (ggufAlignment-w.at%ggufAlignment)%ggufAlignment))
}

func (w *ggufWriter) matrix(m matrix, dtype string) {
	kind, _ := m.ggml(dtype)
	values := m.values()
	if kind == ggmlQ8 {
		for block := range slices.Chunk(values, q8Block) {
			w.q8(block)
		}
		return
	}
	as := tensor.F32
	if kind == ggmlBF16 {
		as = tensor.BF16
	}
	b := make([]byte, len(values)*as.Size())
	if err := tensor.Encode(b, values, as); w.err == nil {
		w.err = err
	}
	w.bytes(b)
}

// q8 writes one block: the scale and its multiples.
func (w *ggufWriter) q8(block []float32) {
	largest := float32(0)
	for _, v := range block {
		largest = max(largest, v, -v)
	}
	scale := largest / 127
	w.number(tensor.F32ToF16(scale))
	b := make([]byte, len(block))
	for i, v := range block {
		if scale > 0 {
			q := v / scale
			if q < 0 {
				q -= 0.5
			} else {
				q += 0.5
			}
			b[i] = byte(int8(q))
		}
	}
	w.bytes(b)
}
