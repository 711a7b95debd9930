package backendtest

import (
	"math"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// parts wants of the parts of a layer, whether fused or composed, what the small
// operations give.
func (s *suite) parts(t *testing.T) {
	for _, n := range []int{1, 5, 40} {
		t.Run(name("Project ", n), func(t *testing.T) { s.project(t, n) })
		t.Run(name("RotateStore ", n), func(t *testing.T) { s.rotateStore(t, n) })
	}
}

func (s *suite) project(t *testing.T, n int) {
	const hidden, out, rank, eps = 70, 48, 30, 1e-5
	s = s.float32s(3, 4, 5)
	x, gain, bias := s.random(n*hidden, 1), random(hidden, 2), random(out, 3)
	dense, u, vt := random(out*hidden, 4), random(out*rank, 5), random(rank*hidden, 6)
	bank := random(3*rank, 7)
	index := make([]int32, n)
	for i := range index {
		index[i] = int32(i * 2 % 3)
	}
	residual := s.random(n*out, 8)
	values := [][]float32{garbage(n * out), residual, x, gain, bias, bank}
	for _, kind := range backend.DTypes() {
		linears := func(be backend.Backend, b []backend.Buffer) (d, f backend.Linear) {
			d = backend.Linear{W: newWeight(t, be, kind, out, hidden, dense)}
			f = backend.Linear{
				U: newWeight(t, be, kind, out, rank, u), Vt: newWeight(t, be, kind, rank, hidden, vt),
				Scales: &backend.Scales{Bank: b[5], Index: list(t, be, index...)},
			}
			return d, f
		}
		for _, normed := range []bool{false, true} {
			got := s.compute(t, []int{0, 1}, values, func(be backend.Backend, b []backend.Buffer) error {
				d, f := linears(be, b)
				p := &backend.Parts{Backend: be, Arena: be.NewArena(), Storage: s.storage}
				defer p.Arena.Reset()
				var norm *backend.Norm
				if normed {
					norm = &backend.Norm{Gain: b[3], Eps: eps}
				}
				return p.Project(b[2], norm, n, backend.Projection{Linear: d, Y: b[0], Bias: &backend.Scales{Bank: b[4]}}, backend.Projection{Linear: f, Y: b[1], Add: true})
			})
			want := s.compute(t, []int{0, 1}, values, func(be backend.Backend, b []backend.Buffer) error {
				d, f := linears(be, b)
				in, h := s.newBuffer(t, be, x), s.newBuffer(t, be, garbage(n*rank))
				if normed {
					if err := be.RMSNorm(in, b[2], b[3], n, eps); err != nil {
						return err
					}
				}
				if err := be.MatMul(n, backend.Product{Y: b[0], X: in, W: d.W}, backend.Product{Y: h, X: in, W: f.Vt}); err != nil {
					return err
				}
				if err := be.AddToRows(b[0], backend.Scales{Bank: b[4]}, n); err != nil {
					return err
				}
				return be.MatMul(n, backend.Product{Y: b[1], X: h, W: f.U, Scales: f.Scales, Add: true})
			})
			for i := range 2 {
				if !sameBits(got[i], want[i]) {
					t.Errorf("%s, normed %v: projection %d differs from that of small operations", kind, normed, i)
				}
			}
		}
	}
}

func (s *suite) rotateStore(t *testing.T, n int) {
	const positions, blocks = 50, 60
	shape := backend.AttentionShape{Heads: 4, KVHeads: 2, HeadDim: 6}
	width, kvWidth := shape.Heads*shape.HeadDim, shape.KVHeads*shape.HeadDim
	table := make([]float32, positions*shape.HeadDim)
	half := shape.HeadDim / 2
	for p := range positions {
		for i := range half {
			table[p*shape.HeadDim+i] = float32(math.Cos(float64(p) / float64(i+1)))
			table[p*shape.HeadDim+half+i] = float32(math.Sin(float64(p) / float64(i+1)))
		}
	}
	at, slots := make([]int32, n), make([]int32, n)
	for i := range n {
		at[i], slots[i] = int32(i*7%positions), int32(blocks-1-i)
	}
	slots[n-1] = -1
	q, k, v := s.random(n*width, 1), s.random(n*kvWidth, 2), s.random(n*kvWidth, 3)
	cacheK, cacheV := s.random(blocks*kvWidth, 4), s.random(blocks*kvWidth, 5)
	got := s.float32s(5).compute(t, []int{0, 1, 3, 4}, [][]float32{q, k, v, cacheK, cacheV, table}, func(be backend.Backend, b []backend.Buffer) error {
		p := &backend.Parts{Backend: be, Arena: be.NewArena(), Storage: s.storage}
		defer p.Arena.Reset()
		tables := lists(t, be, at, slots)
		r := backend.Rotary{Positions: tables.At(0), Table: b[5], Shape: shape}
		return p.RotateStore(r, b[0], b[1], b[2], backend.CacheRows{K: b[3], V: b[4], Slots: tables.At(1)})
	})
	near(t, "queries", got[0], refRoPE(widen(q), at, shape.Heads, widen(table), shape.HeadDim, 1), s.bound(boundSum, 1))
	rotated := refRoPE(widen(k), at, shape.KVHeads, widen(table), shape.HeadDim, 1)
	wantK, wantV := widen(cacheK), widen(cacheV)
	for i, slot := range slots {
		if slot >= 0 {
			copy(wantK[int(slot)*kvWidth:], rotated[i*kvWidth:][:kvWidth])
			copy(wantV[int(slot)*kvWidth:], widen(v[i*kvWidth:][:kvWidth]))
		}
	}
	near(t, "the cache's keys", got[3], wantK, s.bound(boundSum, 1))
	near(t, "the cache's values", got[4], wantV, s.bound(boundSum, 1))
}
