package torch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/tensor"
)

// maxRank bounds the dimensions of a tensor.
const maxRank = 8

// view is a tensor before its data are read: elements of a storage, from offset on,
// strides (in elements) apart.
type view struct {
	storage  *storage
	offset   int64
	size     []int64
	stride   []int64
	elements int64
}

// rebuildTensor is torch._utils._rebuild_tensor_v2: (storage, offset, size, stride,
// requires_grad, backward_hooks[, metadata]).
func rebuildTensor(args tuple) (*view, error) {
	if len(args) != 6 && len(args) != 7 {
		return nil, fmt.Errorf("a tensor is made of %d things, 6 or 7 are known", len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("a tensor is a view of %s, where a storage should be", kind(args[0]))
	}
	offset, ok := args[1].(int64)
	if !ok || offset < 0 {
		return nil, fmt.Errorf("a tensor begins at %v", args[1])
	}
	size, err := dimensions(args[2], "size")
	if err != nil {
		return nil, err
	}
	stride, err := dimensions(args[3], "stride")
	if err != nil {
		return nil, err
	}
	if len(size) != len(stride) {
		return nil, fmt.Errorf("a tensor of %d dimensions has strides for %d", len(size), len(stride))
	}
	// Hooks are functions, and metadata say that values are to be conjugated or
	// negated: nothing that parameters have.
	for _, extra := range args[5:] {
		if d, ok := extra.(*dict); extra != nil && (!ok || len(d.keys) > 0) {
			return nil, errors.New("a tensor has hooks or metadata: save plain tensors")
		}
	}
	v := &view{storage: s, offset: offset, size: size, stride: stride}
	return v, v.check()
}

// check counts the elements and verifies that all of them lie in the storage. A view
// has at most as many elements as its storage, so that a small file stays small.
func (v *view) check() error {
	v.elements = 1
	for _, n := range v.size {
		if n == 0 {
			v.elements = 0
			return nil
		}
		if v.elements > v.storage.numel/n {
			return fmt.Errorf("a tensor of size %v is a view of %d elements: expanded tensors are not read, save a contiguous copy", v.size, v.storage.numel)
		}
		v.elements *= n
	}
	if v.offset > v.storage.numel {
		return fmt.Errorf("a tensor begins at %d of its storage of %d elements", v.offset, v.storage.numel)
	}
	// size-1 and stride are below numel each where they count, so that nothing
	// overflows: numel is at most MaxBytes.
	last := v.offset
	for i, n := range v.size {
		if n == 1 {
			continue
		}
		if v.stride[i] > v.storage.numel {
			return fmt.Errorf("a tensor of size %v and stride %v leaves its storage of %d elements", v.size, v.stride, v.storage.numel)
		}
		last += (n - 1) * v.stride[i]
	}
	if last < 0 || last >= v.storage.numel {
		return fmt.Errorf("a tensor of size %v and stride %v from %d on leaves its storage of %d elements", v.size, v.stride, v.offset, v.storage.numel)
	}
	return nil
}

func dimensions(v any, what string) ([]int64, error) {
	parts, ok := v.(tuple)
	if !ok {
		return nil, fmt.Errorf("the %s of a tensor is %s, where a tuple should be", what, kind(v))
	}
	if len(parts) > maxRank {
		return nil, fmt.Errorf("a tensor has %d dimensions, at most %d are read", len(parts), maxRank)
	}
	dims := make([]int64, len(parts))
	for i, part := range parts {
		n, ok := part.(int64)
		if !ok || n < 0 {
			return nil, fmt.Errorf("the %s of a tensor has %v in it", what, part)
		}
		dims[i] = n
	}
	return dims, nil
}

// rebuildParameter is torch._utils._rebuild_parameter: (tensor, requires_grad,
// backward_hooks), and its variant with a state behind, which are Python attributes.
func rebuildParameter(args tuple) (*view, error) {
	if len(args) != 3 && len(args) != 4 {
		return nil, fmt.Errorf("a parameter is made of %d things, 3 or 4 are known", len(args))
	}
	v, ok := args[0].(*view)
	if !ok {
		return nil, fmt.Errorf("a parameter holds %s, where a tensor should be", kind(args[0]))
	}
	return v, nil
}

// load copies a view's elements, row by row, to a tensor.
func (a *archive) load(v *view) (*tensor.Tensor, error) {
	shape := make([]int, len(v.size))
	for i, n := range v.size {
		if n > math.MaxInt32 {
			return nil, fmt.Errorf("has size %v", v.size)
		}
		shape[i] = int(n)
	}
	t := &tensor.Tensor{Shape: shape, Data: make([]float32, v.elements)}
	if v.elements == 0 {
		return t, nil
	}
	data, err := a.dataOf(v.storage)
	if err != nil {
		return nil, err
	}
	size := elementSize(v.storage.dtype)
	if v.contiguous() {
		return t, decode(t.Data, data[v.offset*size:(v.offset+v.elements)*size], v.storage.dtype)
	}
	index := make([]int64, len(v.size))
	at := v.offset
	for i := range t.Data {
		if err := decode(t.Data[i:i+1], data[at*size:(at+1)*size], v.storage.dtype); err != nil {
			return nil, err
		}
		// Count up, the last dimension first.
		for d := len(index) - 1; d >= 0; d-- {
			if index[d]++; index[d] < v.size[d] {
				at += v.stride[d]
				break
			}
			at -= (v.size[d] - 1) * v.stride[d]
			index[d] = 0
		}
	}
	return t, nil
}

// dataOf reads the data of a storage, once.
func (a *archive) dataOf(s *storage) ([]byte, error) {
	if s.data != nil {
		return s.data, nil
	}
	b, err := readEntry(s.entry, a.budget)
	if err != nil {
		return nil, err
	}
	a.budget -= int64(len(b))
	s.data = b
	return b, nil
}

// contiguous reports whether the elements lie behind each other in row-major order.
func (v *view) contiguous() bool {
	want := int64(1)
	for i, n := range slices.Backward(v.size) {
		if n != 1 && v.stride[i] != want {
			return false
		}
		want *= n
	}
	return true
}

func decode(dst []float32, src []byte, dtype tensor.DType) error {
	if dtype != f64 {
		return tensor.Decode(dst, src, dtype)
	}
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
	return nil
}
