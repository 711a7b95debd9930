package model

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/tensor"
)

// TestAMatrixIsTheSameInPieces composes a matrix at once and so many rows at a
// time, bit for bit, and ends between two pieces when it is cancelled.
func TestAMatrixIsTheSameInPieces(t *testing.T) {
	const out, in, rank = 150, 70, 70
	be, err := cpu.New(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := be.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := rand.New(rand.NewPCG(1, 2))
	random := func(shape ...int) *tensor.Tensor {
		w := tensor.New(shape...)
		for i := range w.Data {
			w.Data[i] = float32(r.NormFloat64())
		}
		return w
	}
	l, err := newFactored(be, backend.F32, LinearInfo{Out: out, In: in}, Factors{
		U: random(out, rank), S: random(rank).Data, Vt: random(rank, in),
	})
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.product(t.Context(), be, out)
	if err != nil {
		t.Fatal(err)
	}
	for _, rows := range []int{1, 7, 64, 149, 1000} {
		got, err := l.product(t.Context(), be, rows)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d rows at a time make another matrix (%v)", rows, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.product(ctx, be, 7); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
