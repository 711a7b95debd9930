package tensor_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/tensor"
)

func TestShapesAndRows(t *testing.T) {
	x := tensor.New(2, 3, 4)
	if x.Rows() != 6 || x.Cols() != 4 || len(x.Data) != 24 {
		t.Errorf("[2 3 4] has %d rows of %d, %d elements", x.Rows(), x.Cols(), len(x.Data))
	}
	row := x.Row(5)
	row[3] = 7
	if x.Data[23] != 7 || cap(row) != 4 {
		t.Error("a row is not a capped view of the tensor's memory")
	}
	c := x.Clone()
	c.Data[0], c.Shape[0] = 1, 9
	if x.Data[0] != 0 || !x.HasShape(2, 3, 4) {
		t.Error("a clone shares memory with its original")
	}
	if v := tensor.New(3); v.Rows() != 1 || v.Cols() != 3 {
		t.Errorf("a vector has %d rows of %d", v.Rows(), v.Cols())
	}
	if s := tensor.New(); s.Rows() != 1 || s.Cols() != 1 || len(s.Data) != 1 {
		t.Error("a scalar is not one row of one element")
	}
}

func TestFromSliceChecksTheShape(t *testing.T) {
	cases := []struct {
		name  string
		n     int
		shape []int
		ok    bool
	}{
		{"fits", 6, []int{2, 3}, true},
		{"a scalar", 1, nil, true},
		{"nothing, last", 0, []int{5, 0}, true},
		{"nothing, first", 0, []int{0, 5}, true},
		{"too few", 5, []int{2, 3}, false},
		{"too many", 7, []int{2, 3}, false},
		{"something for nothing", 1, []int{0, 5}, false},
		{"negative", 6, []int{-2, -3}, false},
		{"negative and nothing", 0, []int{-2, 0}, false},
		{"overflowing", 0, []int{1 << 32, 1 << 32}, false},
		{"overflowing to the right number", 4, []int{1 << 62, 4, 4}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x, err := tensor.FromSlice(make([]float32, c.n), c.shape...)
			if (err == nil) != c.ok {
				t.Fatalf("the error is %v, want ok %v", err, c.ok)
			}
			if c.ok && !x.HasShape(c.shape...) {
				t.Errorf("the shape is %v, want %v", x.Shape, c.shape)
			}
		})
	}
}

// TestEveryHalfPrecisionValueSurvives widens and narrows all 65536 values.
func TestEveryHalfPrecisionValueSurvives(t *testing.T) {
	formats := map[string]struct {
		widen  func(uint16) float32
		narrow func(float32) uint16
	}{
		"BF16": {tensor.BF16ToF32, tensor.F32ToBF16},
		"F16":  {tensor.F16ToF32, tensor.F32ToF16},
	}
	for name, f := range formats {
		for i := range 1 << 16 {
			v := f.widen(uint16(i))
			back := f.narrow(v)
			if v != v {
				if again := f.widen(back); again == again {
					t.Fatalf("%s %#04x: NaN became %v", name, i, again)
				}
				continue
			}
			if back != uint16(i) {
				t.Fatalf("%s %#04x is %v, which narrows to %#04x", name, i, v, back)
			}
		}
	}
}

// TestNarrowingRoundsToNearestEven compares with the nearest of the two
// neighbours, in float64, between and at the midpoints.
func TestNarrowingRoundsToNearestEven(t *testing.T) {
	formats := map[string]struct {
		widen    func(uint16) float32
		narrow   func(float32) uint16
		infinity uint16
		overflow float64 // What infinity's bits would mean if it were a number.
	}{
		"BF16": {tensor.BF16ToF32, tensor.F32ToBF16, 0x7f80, 0x1p128},
		"F16":  {tensor.F16ToF32, tensor.F32ToF16, 0x7c00, 65536},
	}
	for name, f := range formats {
		for i := range f.infinity {
			low, high := float64(f.widen(i)), float64(f.widen(i+1))
			if i+1 == f.infinity {
				high = f.overflow
			}
			for _, part := range []float64{0.25, 0.5, 0.75} {
				v := float32(low + part*(high-low))
				want := i
				if part > 0.5 || (part == 0.5 && i%2 == 1) {
					want++
				}
				if exactly := float64(v) == low+part*(high-low); !exactly {
					continue // float32 has no such number: the lowest subnormals of BF16.
				}
				if got := f.narrow(v); got != want {
					t.Fatalf("%s: %v narrows to %#04x, want %#04x", name, v, got, want)
				}
				if got := f.narrow(-v); got != want|0x8000 {
					t.Fatalf("%s: %v narrows to %#04x, want %#04x", name, -v, got, want|0x8000)
				}
			}
		}
	}
}

func TestEncodeAndDecode(t *testing.T) {
	values := []float32{0, 1, -2.5, 0x1p-20, 3e38, float32(math.Inf(-1))}
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		raw := make([]byte, len(values)*d.Size())
		if err := tensor.Encode(raw, values, d); err != nil {
			t.Fatal(err)
		}
		once := make([]float32, len(values))
		if err := tensor.Decode(once, raw, d); err != nil {
			t.Fatal(err)
		}
		again := make([]byte, len(raw))
		if err := tensor.Encode(again, once, d); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(raw, again); diff != "" {
			t.Errorf("%s is not stable (-first +second):\n%s", d, diff)
		}
		if d == tensor.F32 && !cmp.Equal(values, once) {
			t.Errorf("F32 changed %v to %v", values, once)
		}
		if err := tensor.Decode(once, raw[1:], d); err == nil {
			t.Errorf("%s: a byte is missing and there is no error", d)
		}
	}
	if err := tensor.Decode(make([]float32, 1), make([]byte, 8), "F64"); err == nil {
		t.Error("an unknown format: no error")
	}
}
