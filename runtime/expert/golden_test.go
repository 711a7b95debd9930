package expert

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/transformersquared/operator/runtime/tensor"
)

// goldenCase is a case of testdata/svf.json, which PyTorch made in float64:
//
//	/usr/bin/python3 hack/golden/svd.py runtime/expert/testdata/svf.json
type goldenCase struct {
	Name          string    `json:"name"`
	Out           int       `json:"out"`
	In            int       `json:"in"`
	M             float64   `json:"m"`
	Alpha         float64   `json:"alpha"`
	W             []float32 `json:"w"`
	C             []float64 `json:"c"`
	P             []float32 `json:"p"`
	P2            []float32 `json:"p2"`
	Sigma         []float64 `json:"sigma"`
	Z             []float64 `json:"z"`
	Composed      []float64 `json:"composed"`
	DLds          []float64 `json:"dLds"`
	DLdp          []float64 `json:"dLdp"`
	Mixed         []float64 `json:"mixed"`
	MixedComposed []float64 `json:"mixedComposed"`
}

func goldens(t *testing.T) []goldenCase {
	t.Helper()
	b, err := os.ReadFile("testdata/svf.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version int          `json:"version"`
		Cases   []goldenCase `json:"cases"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if file.Version != 1 || len(file.Cases) == 0 {
		t.Fatalf("golden file of version %d with %d cases", file.Version, len(file.Cases))
	}
	return file.Cases
}

// near compares with tolerance 1e-5 + 1e-5·|want|: some float32 roundings.
func near[T float32 | float64](t *testing.T, what string, got []T, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d elements, want %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i]) - want[i]); !(d <= 1e-5+1e-5*math.Abs(want[i])) {
			t.Errorf("%s[%d] is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// multiply computes U·diag(s)·Vᵀ in float64.
func multiply(f factors, s []float32) []float64 {
	out, in := f.u.Rows(), f.vt.Cols()
	w := make([]float64, out*in)
	for o := range out {
		for r, u := range f.u.Row(o) {
			for i, v := range f.vt.Row(r) {
				w[o*in+i] += float64(u) * float64(s[r]) * float64(v)
			}
		}
	}
	return w
}

// gradient computes dL/ds for L = Σ C⊙W': uᵢᵀ·C·vᵢ.
func gradient(f factors, c []float64) []float32 {
	in := f.vt.Cols()
	g := make([]float32, len(f.s.Data))
	for r := range g {
		sum := 0.0
		for o := range f.u.Rows() {
			for i, v := range f.vt.Row(r) {
				sum += float64(f.u.Row(o)[r]) * c[o*in+i] * float64(v)
			}
		}
		g[r] = float32(sum)
	}
	return g
}

func TestComposingAndItsGradientAreTheReferences(t *testing.T) {
	for _, c := range goldens(t) {
		t.Run(c.Name, func(t *testing.T) {
			f, err := processor{}.factorise(t.Context(), &tensor.Tensor{Shape: []int{c.Out, c.In}, Data: c.W}, tensor.F32, 1)
			if err != nil {
				t.Fatal(err)
			}
			sigma := f.s.Data
			near(t, "σ", sigma, c.Sigma)
			param := Sigmoid{M: c.M}
			z := param.Z(sigma, c.P)
			near(t, "z", z, c.Z)
			s, err := ScaledSigma(sigma, z)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "W'", multiply(f, s), c.Composed)
			ds := gradient(f, c.C)
			near(t, "dL/ds", ds, c.DLds)
			near(t, "dL/dp", param.Grad(sigma, c.P, ds), c.DLdp)

			vector := func(p []float32) Adapter { return Adapter{Z: map[string][]float32{"w": param.Z(sigma, p)}} }
			mixed, err := Mix([]Weighted{{Adapter: vector(c.P), Alpha: c.Alpha}, {Adapter: vector(c.P2), Alpha: 1 - c.Alpha}})
			if err != nil {
				t.Fatal(err)
			}
			near(t, "mixed z", mixed["w"].Z, c.Mixed)
			if s, err = ScaledSigma(sigma, mixed["w"].Z); err != nil {
				t.Fatal(err)
			}
			near(t, "mixed W'", multiply(f, s), c.MixedComposed)
		})
	}
}

func TestFactorsAreOrthonormalAndReconstruct(t *testing.T) {
	for _, c := range goldens(t) {
		w := &tensor.Tensor{Shape: []int{c.Out, c.In}, Data: c.W}
		for dtype, bound := range map[tensor.DType]float64{tensor.F32: 2e-7, tensor.BF16: 1e-2} {
			f, err := processor{}.factorise(t.Context(), w, dtype, 1)
			if err != nil {
				t.Fatal(err)
			}
			// The error that is reported is the error that there is.
			difference, norm := 0.0, 0.0
			for i, x := range multiply(f, f.s.Data) {
				difference += (x - float64(c.W[i])) * (x - float64(c.W[i]))
				norm += float64(c.W[i]) * float64(c.W[i])
			}
			if actual := math.Sqrt(difference / norm); math.Abs(actual-f.relativeError) > 1e-12 || actual > bound {
				t.Errorf("%s, %s: relative error %.3g, reported %.3g, allowed %.3g", c.Name, dtype, actual, f.relativeError, bound)
			}
			if dtype != tensor.F32 {
				continue
			}
			r := len(f.s.Data)
			gram := mat.NewDense(r, r, nil)
			for i := range r {
				for j := range r {
					for k := range c.In {
						gram.Set(i, j, gram.At(i, j)+float64(f.vt.Row(i)[k])*float64(f.vt.Row(j)[k]))
					}
					want := 0.0
					if i == j {
						want = 1
					}
					if math.Abs(gram.At(i, j)-want) > 1e-6 {
						t.Errorf("%s: rows %d and %d of Vᵀ have product %v", c.Name, i, j, gram.At(i, j))
					}
				}
			}
		}
	}
}

func TestAZeroMatrixIsItsOwnDecomposition(t *testing.T) {
	f, err := processor{}.factorise(t.Context(), tensor.New(3, 5), tensor.F32, 1)
	if err != nil {
		t.Fatal(err)
	}
	if f.relativeError != 0 {
		t.Errorf("relative error %v", f.relativeError)
	}
	p := []float32{0.1, 0.2, 0.3}
	for i, z := range (Sigmoid{M: 1}).Z(f.s.Data, p) {
		if !(z > 0 && z < 1) {
			t.Errorf("z[%d] is %v", i, z)
		}
	}
	for i, g := range (Sigmoid{M: 1}).Grad(f.s.Data, p, []float32{1, 1, 1}) {
		if g != 0 {
			t.Errorf("gradient[%d] is %v", i, g)
		}
	}
}
