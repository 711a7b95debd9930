// Package tensor holds dense host tensors of float32 and converts the stored
// number formats of model files from and to them.
//
// It is deliberately small: a tensor is a shape and a slice in row-major order.
// Arithmetic lives in runtime/backend; this package is what checkpoints, expert
// vectors and the model exchange with each other in host memory.
package tensor

import (
	"fmt"
	"slices"
)

// Tensor is a dense row-major array of float32: the last dimension is
// contiguous. The zero value is an empty tensor.
type Tensor struct {
	// Shape lists the dimensions, outermost first.
	Shape []int
	// Data holds the elements; its length is the product of Shape.
	Data []float32
}

// New returns a tensor of zeros. A negative dimension counts as zero.
func New(shape ...int) *Tensor {
	own := slices.Clone(shape)
	for i, d := range own {
		own[i] = max(d, 0)
	}
	return &Tensor{Shape: own, Data: make([]float32, product(own))}
}

// FromSlice returns a tensor over data, without copying it. It fails when the
// shape has a negative dimension or does not hold exactly len(data) elements.
func FromSlice(data []float32, shape ...int) (*Tensor, error) {
	n := 1
	for _, d := range shape {
		if d < 0 {
			return nil, fmt.Errorf("shape %v has a negative dimension", shape)
		}
	}
	for _, d := range shape {
		if d > 0 && n > len(data)/d && !slices.Contains(shape, 0) {
			return nil, fmt.Errorf("shape %v needs more than the %d elements given", shape, len(data))
		}
		n *= d
	}
	if n != len(data) {
		return nil, fmt.Errorf("shape %v needs %d elements, %d given", shape, n, len(data))
	}
	return &Tensor{Shape: slices.Clone(shape), Data: data}, nil
}

// Cols returns the length of a row: the last dimension, or 1 for a scalar.
func (t *Tensor) Cols() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[len(t.Shape)-1]
}

// Rows returns the number of rows: the product of all dimensions but the last,
// so 1 for a vector.
func (t *Tensor) Rows() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return product(t.Shape[:len(t.Shape)-1])
}

// Row returns row i as a slice of the tensor's own memory, capped so that an
// append never writes into the next row.
func (t *Tensor) Row(i int) []float32 {
	c := t.Cols()
	return t.Data[i*c : (i+1)*c : (i+1)*c]
}

// Clone returns a copy that shares no memory with t.
func (t *Tensor) Clone() *Tensor {
	return &Tensor{Shape: slices.Clone(t.Shape), Data: slices.Clone(t.Data)}
}

// HasShape reports whether the tensor has exactly this shape.
func (t *Tensor) HasShape(shape ...int) bool {
	return slices.Equal(t.Shape, shape)
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}
