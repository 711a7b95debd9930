package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Tensor reads a tensor as float32. Only F32, BF16, F16 and F64 are read; a NaN or
// an infinity is refused with its place, because one of them makes every
// logit of a model a NaN.
func (f *File) Tensor(name string) (*tensor.Tensor, error) {
	t, _, err := f.tensor(name, false)
	return t, err
}

// tensor is Tensor; with rows, rows of a matrix that hold a NaN or an infinity are
// made zero and listed instead.
func (f *File) tensor(name string, rows bool) (*tensor.Tensor, []int, error) {
	info, ok := f.infos[name]
	if !ok {
		return nil, nil, failure.Permanentf(contract.ReasonInvalidModel, "%s has no tensor %q", f.path, name)
	}
	width := 0
	if rows && len(info.Shape) == 2 {
		width = info.Shape[1]
	}
	t, damaged, err := f.read(info, width)
	if err != nil {
		return nil, nil, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("%s: tensor %q: %w", f.path, name, err))
	}
	return t, damaged, nil
}

// chunk is how much is converted at a time, so that it is checked while it is
// in a cache; a multiple of every element size.
const chunk = 128 << 10

// read converts a tensor. Where width is 0 an element that is not finite is an
// error, else its row of that width is made zero and listed.
func (f *File) read(info Info, width int) (t *tensor.Tensor, damaged []int, err error) {
	if elementSize(info.DType) == 0 {
		return nil, nil, unloadable(info)
	}
	t = tensor.New(info.Shape...)
	damaged, err = f.scan(info, width, func(first, n int64) []float32 { return t.Data[first : first+n] })
	if err != nil {
		return nil, nil, err
	}
	for _, row := range damaged {
		clear(t.Data[row*width : (row+1)*width])
	}
	return t, damaged, nil
}

// damagedRows lists the rows of a matrix that hold a NaN or an infinity.
func (f *File) damagedRows(name string) ([]int, error) {
	info := f.infos[name]
	if len(info.Shape) != 2 || elementSize(info.DType) == 0 {
		return nil, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("%s: tensor %q: %w", f.path, name, unloadable(info)))
	}
	room := make([]float32, chunk)
	damaged, err := f.scan(info, info.Shape[1], func(_, n int64) []float32 { return room[:n] })
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("%s: tensor %q: %w", f.path, name, err))
	}
	return damaged, nil
}

func unloadable(info Info) error {
	return fmt.Errorf("has dtype %s; F32, BF16, F16 and F64 can be loaded", info.DType)
}

// scan converts a tensor, a chunk at a time, to where into says for so many elements from
// the first on. Where width is 0 an element that is not finite is an error, else its row of
// that width is listed.
func (f *File) scan(info Info, width int, into func(first, n int64) []float32) (damaged []int, err error) {
	size := int64(elementSize(info.DType))
	err = f.eachChunk(info, func(at int64, b []byte) error {
		first := at / size
		dst := into(first, int64(len(b))/size)
		if err := decode(dst, b, info.DType); err != nil {
			return err
		}
		for at := 0; at < len(dst); {
			i := firstNonFinite(dst[at:])
			if i < 0 {
				return nil
			}
			i += at
			if width == 0 {
				return fmt.Errorf("element %d is %v: the weights are damaged", first+int64(i), dst[i])
			}
			row := (int(first) + i) / width
			if n := len(damaged); n == 0 || damaged[n-1] != row {
				damaged = append(damaged, row)
			}
			at = (row+1)*width - int(first)
		}
		return nil
	})
	return damaged, err
}

// elementSize returns the bytes of an element that can be loaded, else 0.
func elementSize(dtype string) int {
	if dtype == f64 {
		return 8
	}
	return tensor.DType(dtype).Size()
}

// f64 is read, because some tools write norms so, but never written.
const f64 = "F64"

func decode(dst []float32, src []byte, dtype string) error {
	if dtype != f64 {
		return tensor.Decode(dst, src, tensor.DType(dtype))
	}
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
	return nil
}

// eachChunk calls use with the bytes of a tensor, a chunk at a time, and where
// in the tensor each begins: in place where the file is mapped, in a buffer
// where it is not.
func (f *File) eachChunk(info Info, use func(at int64, b []byte) error) error {
	mapped, _ := f.data.(*mapping)
	var buf []byte
	if mapped == nil {
		buf = make([]byte, min(chunk, info.Size))
	}
	for at := int64(0); at < info.Size; at += chunk {
		n := min(chunk, info.Size-at)
		if mapped != nil {
			if err := mapped.with(info.Offset+at, n, func(b []byte) error { return use(at, b) }); err != nil {
				return err
			}
			continue
		}
		if _, err := f.data.ReadAt(buf[:n], info.Offset+at); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if err := use(at, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// firstNonFinite returns the index of the first NaN or infinity, or -1.
func firstNonFinite(v []float32) int {
	const exponent = 0x7f800000
	for i, x := range v {
		if math.Float32bits(x)&exponent == exponent {
			return i
		}
	}
	return -1
}
