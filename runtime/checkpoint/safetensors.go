// Package checkpoint reads and writes models in Hugging Face layout: a folder
// with config.json and safetensors files. It trusts none of them: whatever a
// file says about offsets, shapes and types is checked against the file before
// anything is allocated.
package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// metadataKey is the name in a header that is no tensor's.
const metadataKey = "__metadata__"

// Limits of the safetensors format.
const (
	maxHeader = 100 << 20
	maxRank   = 16
)

// Info describes one tensor of a safetensors file.
type Info struct {
	// DType is as the file spells it: F32, BF16, F16, F64 or one that can be
	// listed but not loaded, such as I64.
	DType string
	Shape []int
	// Offset and Size locate the data in the file, in bytes.
	Offset int64
	Size   int64
}

// Elements is the product of the shape.
func (i Info) Elements() int64 {
	n := int64(1)
	for _, d := range i.Shape {
		n *= int64(d)
	}
	return n
}

// elementBits has the size of each dtype that the format knows.
var elementBits = map[string]int64{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}

// File is an open safetensors file, mapped into memory where that is possible.
// Its methods may be called concurrently.
type File struct {
	data     io.ReaderAt
	closer   io.Closer
	path     string
	names    []string // sorted
	infos    map[string]Info
	metadata map[string]string
}

// Open opens a safetensors file and validates its header: a plausible length,
// no duplicate keys, known types, sizes that match shapes, and data that tile
// the file without overlap, hole or remainder. Anything else is
// contract.ReasonInvalidModel.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening weights: %w", err)
	}
	file, err := openFile(f, path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

func openFile(f *os.File, path string) (*File, error) {
	stat, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening weights: %w", err)
	}
	if !stat.Mode().IsRegular() {
		return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s is no regular file", path)
	}
	mapped, err := mapFile(f, stat.Size())
	if err != nil {
		// Some file systems cannot map; they can be read.
		file, err := Read(f, stat.Size(), path)
		if err != nil {
			return nil, err
		}
		file.closer = f
		return file, nil
	}
	file, err := Read(mapped, stat.Size(), path)
	if err != nil {
		return nil, errors.Join(err, mapped.Close())
	}
	file.closer = mapped
	return file, f.Close() // The mapping stays.
}

// Read is Open for size bytes of data that are somewhere else; path names them
// in errors.
func Read(data io.ReaderAt, size int64, path string) (*File, error) {
	f, err := newFile(data, size, path)
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("%s: %w", path, err))
	}
	return f, nil
}

func newFile(data io.ReaderAt, size int64, path string) (*File, error) {
	header, err := readHeader(data, size)
	if err != nil {
		return nil, err
	}
	base := 8 + int64(len(header))
	infos, metadata, err := parseHeader(header, size-base)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(infos))
	for name, info := range infos {
		info.Offset += base
		infos[name] = info
		names = append(names, name)
	}
	slices.Sort(names)
	return &File{data: data, path: path, names: names, infos: infos, metadata: metadata}, nil
}

func readHeader(r io.ReaderAt, size int64) ([]byte, error) {
	var prefix [8]byte
	if size < 8 {
		return nil, fmt.Errorf("has %d bytes, too few for a safetensors file: it is truncated or no safetensors file", size)
	}
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, err
	}
	if err := checkPointer(r, size); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader {
		return nil, fmt.Errorf("header length %d is more than %d: it is no safetensors file", n, maxHeader)
	}
	if int64(n) > size-8 {
		return nil, fmt.Errorf("header length %d is more than the file has: it is truncated", n)
	}
	header := make([]byte, n)
	if _, err := r.ReadAt(header, 8); err != nil {
		return nil, err
	}
	return header, nil
}

// checkPointer names a Git LFS pointer, which is what a clone without the weights
// has in their place.
func checkPointer(r io.ReaderAt, size int64) error {
	if size > artifact.MaxLFSPointer {
		return nil
	}
	head := make([]byte, size)
	if _, err := r.ReadAt(head, 0); err != nil {
		return err
	}
	return artifact.CheckLFSPointer("this", head)
}

// Names lists the tensors, sorted.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Info describes the tensor of this name.
func (f *File) Info(name string) (Info, bool) {
	i, ok := f.infos[name]
	return i, ok
}

// Metadata returns the free-form strings of the header; nil if there are none.
func (f *File) Metadata() map[string]string { return f.metadata }

// Close closes the file.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// parseHeader decodes a header whose data section has dataSize bytes. It walks
// the JSON by token, because encoding/json would let the last of two equal
// keys win silently.
func parseHeader(header []byte, dataSize int64) (map[string]Info, map[string]string, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, errors.New("header does not begin with '{': it is no safetensors file")
	}
	if !utf8.Valid(header) {
		return nil, nil, errors.New("header is no UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(header))
	d.UseNumber()
	infos := map[string]Info{}
	var metadata map[string]string
	err := object(d, "header", func(name string) error {
		if name == metadataKey {
			var err error
			metadata, err = parseMetadata(d, name)
			return err
		}
		info, err := parseInfo(d, name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		infos[name] = info
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if rest := bytes.TrimRight(header[d.InputOffset():], " "); len(rest) > 0 {
		return nil, nil, errors.New("header: text after the JSON object")
	}
	if err := checkTiling(infos, dataSize); err != nil {
		return nil, nil, err
	}
	return infos, metadata, nil
}

// parseMetadata decodes the free-form strings; null is none.
func parseMetadata(d *json.Decoder, name string) (map[string]string, error) {
	token, err := d.Token()
	if token == nil || err != nil {
		return nil, err
	}
	if token != json.Delim('{') {
		return nil, fmt.Errorf("%s: %v where { should be", name, token)
	}
	metadata := map[string]string{}
	return metadata, members(d, name, func(key string) error {
		token, err := d.Token()
		if err != nil {
			return err
		}
		value, ok := token.(string)
		if !ok {
			return fmt.Errorf("metadata %q is no string", key)
		}
		metadata[key] = value
		return nil
	})
}

// object walks a JSON object, calling value at each value; it refuses
// duplicate keys.
func object(d *json.Decoder, what string, value func(key string) error) error {
	if err := delim(d, '{'); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return members(d, what, value)
}

// members is object behind the opening brace.
func members(d *json.Decoder, what string, value func(key string) error) error {
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return fmt.Errorf("%s: key %v is no string", what, token)
		}
		if seen[key] {
			return fmt.Errorf("%s: key %q appears twice", what, key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	return delim(d, '}')
}

func delim(d *json.Decoder, want json.Delim) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("%v where %v should be", token, want)
	}
	return nil
}

func parseInfo(d *json.Decoder, name string) (Info, error) {
	var info Info
	var offsets []int64
	err := object(d, name, func(key string) error {
		switch key {
		case "dtype":
			token, err := d.Token()
			if err != nil {
				return err
			}
			s, ok := token.(string)
			if !ok || s == "" {
				return fmt.Errorf("dtype %v is no name of a type", token)
			}
			info.DType = s
			return nil
		case "shape":
			dims, err := integers(d, maxRank)
			if err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			info.Shape = make([]int, len(dims))
			for i, n := range dims {
				info.Shape[i] = int(n)
			}
			return nil
		case "data_offsets":
			var err error
			if offsets, err = integers(d, 2); err != nil {
				return fmt.Errorf("data_offsets: %w", err)
			}
			return nil
		default:
			return fmt.Errorf("unknown field %q", key)
		}
	})
	if err != nil {
		return Info{}, err
	}
	switch {
	case info.DType == "":
		return Info{}, errors.New("has no dtype")
	case info.Shape == nil:
		return Info{}, errors.New("has no shape")
	case len(offsets) != 2:
		return Info{}, errors.New("data_offsets are not two numbers")
	case offsets[0] > offsets[1]:
		return Info{}, fmt.Errorf("data_offsets %v end before they begin", offsets)
	}
	info.Offset, info.Size = offsets[0], offsets[1]-offsets[0]
	return info, checkSize(info)
}

// integers decodes a list of at most limit non-negative integers.
func integers(d *json.Decoder, limit int) ([]int64, error) {
	if err := delim(d, '['); err != nil {
		return nil, err
	}
	list := []int64{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		number, ok := token.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%v is no number", token)
		}
		n, err := strconv.ParseInt(number.String(), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s is no non-negative integer", number)
		}
		if len(list) == limit {
			return nil, fmt.Errorf("has more than %d numbers", limit)
		}
		list = append(list, n)
	}
	return list, delim(d, ']')
}

// checkSize compares shape and dtype with the number of bytes. Of a dtype that is
// not known here (the format gains some, of less than a byte too) only the place
// can be checked; such a tensor may lie in the file as long as nobody asks for it.
func checkSize(info Info) error {
	bits, known := elementBits[info.DType]
	want := max(bits/8, 1)
	for _, d := range info.Shape {
		if d != 0 && want > math.MaxInt64/int64(d) {
			return fmt.Errorf("shape %v overflows", info.Shape)
		}
		want *= int64(d)
	}
	if known && want != info.Size {
		return fmt.Errorf("shape %v of %s needs %d bytes, data_offsets give %d", info.Shape, info.DType, want, info.Size)
	}
	return nil
}

// checkTiling verifies that the tensors cover the data section exactly.
func checkTiling(infos map[string]Info, dataSize int64) error {
	names := make([]string, 0, len(infos))
	for name := range infos {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := infos[a], infos[b]
		if x.Offset != y.Offset {
			return int(min(max(x.Offset-y.Offset, -1), 1))
		}
		return int(min(max(x.Size-y.Size, -1), 1)) // Empty tensors before the one that begins there.
	})
	end, before := int64(0), "the header"
	for _, name := range names {
		i := infos[name]
		if i.Offset < end {
			return fmt.Errorf("tensor %q overlaps %q", name, before)
		}
		if i.Offset > end {
			return fmt.Errorf("%d unused bytes between %s and tensor %q", i.Offset-end, before, name)
		}
		end, before = i.Offset+i.Size, name
	}
	switch {
	case end > dataSize:
		return fmt.Errorf("tensor %q ends at byte %d of %d: the file is truncated", before, end, dataSize)
	case end < dataSize:
		return fmt.Errorf("%d bytes after the last tensor", dataSize-end)
	}
	return nil
}
