package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Entry is a tensor to be written, and how.
type Entry struct {
	Name   string
	DType  tensor.DType
	Tensor *tensor.Tensor
}

// WriteSafetensors writes tensors to a safetensors file, all with one dtype
// (values are rounded to it), sorted by name, so that equal content gives equal
// bytes. The file appears whole or not at all.
func WriteSafetensors(path string, tensors map[string]*tensor.Tensor, dtype tensor.DType, metadata map[string]string) error {
	entries := make([]Entry, 0, len(tensors))
	for name, t := range tensors {
		entries = append(entries, Entry{Name: name, DType: dtype, Tensor: t})
	}
	return WriteEntries(path, entries, metadata)
}

// WriteEntries is WriteSafetensors where each tensor has a dtype of its own.
func WriteEntries(path string, entries []Entry, metadata map[string]string) error {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	header, err := encodeHeader(sorted, metadata)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return artifact.WriteFileAtomic(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, e := range sorted {
			if err := encodeTensor(w, e); err != nil {
				return fmt.Errorf("tensor %q: %w", e.Name, err)
			}
		}
		return nil
	})
}

type headerInfo struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// encodeHeader returns the length prefix and the JSON header, padded with
// spaces so that the data begin at a multiple of 8.
func encodeHeader(sorted []Entry, metadata map[string]string) ([]byte, error) {
	fields := make(map[string]any, len(sorted)+1)
	if len(metadata) > 0 {
		fields[metadataKey] = metadata
	}
	at := int64(0)
	for _, e := range sorted {
		if _, twice := fields[e.Name]; twice || e.Name == metadataKey {
			return nil, fmt.Errorf("tensor name %q is taken", e.Name)
		}
		if e.DType.Size() == 0 {
			return nil, fmt.Errorf("tensor %q: dtype %s cannot be written; F32, BF16 and F16 can", e.Name, e.DType)
		}
		size := int64(len(e.Tensor.Data)) * int64(e.DType.Size())
		info := Info{DType: string(e.DType), Shape: e.Tensor.Shape, Size: size}
		if err := checkSize(info); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", e.Name, err)
		}
		shape := e.Tensor.Shape
		if shape == nil {
			shape = []int{}
		}
		fields[e.Name] = headerInfo{DType: info.DType, Shape: shape, Offsets: [2]int64{at, at + size}}
		at += size
	}
	text, err := json.Marshal(fields) // Sorts keys.
	if err != nil {
		return nil, err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	if len(text) > maxHeader {
		return nil, fmt.Errorf("header has %d bytes, the format allows %d", len(text), maxHeader)
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), nil
}

func encodeTensor(w io.Writer, e Entry) error {
	if i := firstNonFinite(e.Tensor.Data); i >= 0 {
		return fmt.Errorf("element %d is %v", i, e.Tensor.Data[i])
	}
	size := e.DType.Size()
	per := chunk / size
	buf := make([]byte, min(per, len(e.Tensor.Data))*size)
	for rest := e.Tensor.Data; len(rest) > 0; {
		n := min(per, len(rest))
		if err := tensor.Encode(buf[:n*size], rest[:n], e.DType); err != nil {
			return err
		}
		if _, err := w.Write(buf[:n*size]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}
