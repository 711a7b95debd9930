package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Stored is a tensor on its way to a safetensors file, whose data need not be in
// memory before they are written.
type Stored struct {
	Name string
	// DType is one that the format has; it need not be one that can be loaded.
	DType string
	Shape []int
	// Size is how many bytes Write writes.
	Size  int64
	Write func(w io.Writer) error
}

// Stored is the entry as WriteStored takes it.
func (e Entry) Stored() Stored {
	return Stored{
		Name: e.Name, DType: string(e.DType), Shape: e.Tensor.Shape, Size: int64(len(e.Tensor.Data)) * int64(e.DType.Size()),
		Write: func(w io.Writer) error { return encodeTensor(w, e) },
	}
}

// Stored returns a tensor of the checkpoint as it is stored, whatever its dtype.
func (c *Checkpoint) Stored(name string) (Stored, error) {
	f := c.where[name]
	if f == nil {
		return Stored{}, failure.Permanentf(contract.ReasonInvalidModel, "%s has no tensor %q", c.dir, name)
	}
	info := f.infos[name]
	return Stored{Name: name, DType: info.DType, Shape: info.Shape, Size: info.Size, Write: func(w io.Writer) error {
		err := f.eachChunk(info, func(_ int64, b []byte) error {
			_, err := w.Write(b)
			return err
		})
		if err != nil {
			return fmt.Errorf("copying from %s: %w", f.path, err)
		}
		return nil
	}}, nil
}

// referenceOrder has the format's dtypes as its reference implementation orders them:
// by alignment. The widest are written first, so that all lie aligned.
var referenceOrder = []string{
	"BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0",
	"F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16", "BF16",
	"I32", "U32", "F32", "C64", "F64", "I64", "U64",
}

// WriteStored writes a safetensors file, byte for byte as the format's reference
// implementation does, which PyTorch, transformers and PEFT write with: the metadata
// first, then the tensors by dtype, the widest first, and by name. The file appears
// whole or not at all.
func WriteStored(path string, tensors []Stored, metadata map[string]string) error {
	sorted := slices.SortedFunc(slices.Values(tensors), func(a, b Stored) int {
		return cmp.Or(
			cmp.Compare(slices.Index(referenceOrder, b.DType), slices.Index(referenceOrder, a.DType)),
			strings.Compare(a.Name, b.Name),
		)
	})
	header, err := referenceHeader(sorted, metadata)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return artifact.WriteFileAtomic(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, t := range sorted {
			counted := &counter{w: w}
			if err := t.Write(counted); err != nil {
				return fmt.Errorf("tensor %q: %w", t.Name, err)
			}
			if counted.n != t.Size {
				return fmt.Errorf("tensor %q: %d bytes were written, not %d", t.Name, counted.n, t.Size)
			}
		}
		return nil
	})
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// referenceHeader returns the length prefix and the JSON header of tensors in this
// order, padded with spaces so that the data begin at a multiple of 8.
func referenceHeader(ordered []Stored, metadata map[string]string) ([]byte, error) {
	var text bytes.Buffer
	text.WriteByte('{')
	field := func(name string, v any) error {
		if text.Len() > 1 {
			text.WriteByte(',')
		}
		for i, part := range []any{name, v} {
			e := json.NewEncoder(&text)
			e.SetEscapeHTML(false)
			if err := e.Encode(part); err != nil {
				return err
			}
			text.Truncate(text.Len() - 1) // A line's end.
			if i == 0 {
				text.WriteByte(':')
			}
		}
		return nil
	}
	if len(metadata) > 0 {
		if err := field(metadataKey, metadata); err != nil {
			return nil, err
		}
	}
	at, seen := int64(0), map[string]bool{metadataKey: true}
	for _, t := range ordered {
		if seen[t.Name] {
			return nil, fmt.Errorf("tensor name %q is taken", t.Name)
		}
		seen[t.Name] = true
		if err := checkSize(Info{DType: t.DType, Shape: t.Shape, Size: t.Size}); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		info := headerInfo{DType: t.DType, Shape: append([]int{}, t.Shape...), Offsets: [2]int64{at, at + t.Size}}
		if err := field(t.Name, info); err != nil {
			return nil, err
		}
		at += t.Size
	}
	text.WriteByte('}')
	for text.Len()%8 != 0 {
		text.WriteByte(' ')
	}
	if text.Len() > maxHeader {
		return nil, fmt.Errorf("header has %d bytes, the format allows %d", text.Len(), maxHeader)
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(text.Len())), text.Bytes()...), nil
}

// WriteShards writes tensors in this order to dir: to model.safetensors, or, if they
// have more than limit bytes together, to as many shards as they need and an index. A
// tensor that is larger by itself is a shard of its own.
func WriteShards(dir string, tensors []Stored, metadata map[string]string, limit int64) error {
	if limit < 1 {
		return fmt.Errorf("a shard of at most %d bytes holds nothing", limit)
	}
	var shards [][]Stored
	total, last := int64(0), int64(0)
	for _, t := range tensors {
		if n := len(shards); n == 0 || last > 0 && last+t.Size > limit {
			shards, last = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], t)
		last += t.Size
		total += t.Size
	}
	switch len(shards) {
	case 0:
		return errors.New("there are no tensors to write")
	case 1:
		return WriteStored(filepath.Join(dir, WeightsFile), shards[0], metadata)
	}
	index := struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{WeightMap: map[string]string{}}
	index.Metadata.TotalSize = total
	for i, shard := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		for _, t := range shard {
			index.WeightMap[t.Name] = name
		}
		if err := WriteStored(filepath.Join(dir, name), shard, maps.Clone(metadata)); err != nil {
			return err
		}
	}
	return artifact.WriteJSONAtomic(filepath.Join(dir, IndexFile), index)
}
