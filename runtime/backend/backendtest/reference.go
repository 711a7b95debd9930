package backendtest

import (
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// The operations in float64, as plainly as they can be written.

// refMatMul returns y [n, out] = x [n, in]·Wᵀ.
func refMatMul(x, w []float64, n, out, in int) []float64 {
	y := make([]float64, n*out)
	for r := range n {
		for o := range out {
			y[r*out+o] = dot(x[r*in:(r+1)*in], w[o*in:(o+1)*in])
		}
	}
	return y
}

// refStored returns rows [·, cols] as a type of weights holds them.
func refStored(kind backend.DType, v []float32, cols int) []float64 {
	return refKept(kind, v, cols, func(top float32) (scale, inverse float32) {
		scale = float32(refBF16(top / 127))
		return scale, 1 / scale
	})
}

// roundedRows returns rows [·, cols] as MatMul rounds x for a type of weights.
func (s *suite) roundedRows(kind backend.DType, v []float32, cols int) []float64 {
	if s.widened(kind) {
		kind = backend.BF16
	}
	return refRounded(kind, v, cols)
}

// multipliedRows returns rows [·, cols] of a weight as MatMul multiplies with them.
func (s *suite) multipliedRows(kind backend.DType, v []float32, cols int) []float64 {
	stored := refStored(kind, v, cols)
	if s.widened(kind) { // float32 holds what int8 weights store.
		return refRounded(backend.BF16, narrowed(stored), cols)
	}
	return stored
}

// widened says whether MatMul takes weights of a type for bfloat16.
func (s *suite) widened(kind backend.DType) bool {
	return kind == backend.Int8 && s.variants[0].Capabilities().WidenedInt8
}

// refRounded returns rows [·, cols] as MatMul rounds x for a type of weights.
func refRounded(kind backend.DType, v []float32, cols int) []float64 {
	return refKept(kind, v, cols, func(top float32) (scale, inverse float32) { return top / 127, 127 / top })
}

// refKept rounds rows; scales gives the scale of an int8 block, and what its
// elements are multiplied by, for the largest magnitude.
func refKept(kind backend.DType, v []float32, cols int, scales func(top float32) (scale, inverse float32)) []float64 {
	switch kind {
	case backend.BF16:
		out := make([]float64, len(v))
		for i, x := range v {
			out[i] = refBF16(x)
		}
		return out
	case backend.Int8:
		var out []float64
		for row := range slices.Chunk(v, cols) {
			for block := range slices.Chunk(row, backend.Int8Block) {
				out = append(out, refInt8(block, scales)...)
			}
		}
		return out
	default:
		return widen(v)
	}
}

// refBF16 rounds to eight significant bits, ties to even.
func refBF16(x float32) float64 {
	const bits = 8
	fraction, exponent := math.Frexp(float64(x))
	return math.Ldexp(math.RoundToEven(math.Ldexp(fraction, bits)), exponent-bits)
}

func refInt8(block []float32, scales func(top float32) (scale, inverse float32)) []float64 {
	out := make([]float64, len(block))
	var top float32
	for _, x := range block {
		top = max(top, float32(math.Abs(float64(x))))
	}
	if top < 0x1p-119 {
		return out
	}
	scale, inverse := scales(top)
	for i, x := range block {
		out[i] = float64(scale)*math.RoundToEven(float64(x*inverse)) + 0 // Never −0.
	}
	return out
}

func refTranspose(w []float64, rows, cols int) []float64 {
	out := make([]float64, len(w))
	for r := range rows {
		for c := range cols {
			out[c*rows+r] = w[r*cols+c]
		}
	}
	return out
}

func refRMSNorm(x, gain []float64, n int, eps float64) []float64 {
	c := len(gain)
	y := make([]float64, len(x))
	for r := range n {
		row := x[r*c : (r+1)*c]
		scale := 1 / math.Sqrt(dot(row, row)/float64(c)+eps)
		for i, v := range row {
			y[r*c+i] = v * scale * gain[i]
		}
	}
	return y
}

func refSwiGLU(gate, up []float64) []float64 {
	y := make([]float64, len(gate))
	for i, g := range gate {
		y[i] = g / (1 + math.Exp(-g)) * up[i]
	}
	return y
}

func refLogSoftmax(x []float64, n int) []float64 {
	c := len(x) / n
	y := make([]float64, len(x))
	for r := range n {
		row := x[r*c : (r+1)*c]
		top := math.Inf(-1)
		for _, v := range row {
			top = max(top, v)
		}
		var total float64
		for _, v := range row {
			total += math.Exp(v - top)
		}
		for i, v := range row {
			y[r*c+i] = v - top - math.Log(total)
		}
	}
	return y
}

// refRoPE rotates by the table's angles; sign −1 turns back.
func refRoPE(x []float64, positions []int32, heads int, table []float64, headDim int, sign float64) []float64 {
	y := make([]float64, len(x))
	half := headDim / 2
	for r, p := range positions {
		for h := range heads {
			at := (r*heads + h) * headDim
			for i := range half {
				cos := table[int(p)*headDim+i]
				sin := sign * table[int(p)*headDim+half+i]
				y[at+i] = x[at+i]*cos - x[at+half+i]*sin
				y[at+half+i] = x[at+half+i]*cos + x[at+i]*sin
			}
		}
	}
	return y
}

// refAttention returns the output and the logarithms of the denominators.
func refAttention(q, k, v []float64, keys []span, s backend.AttentionShape) (out, lse []float64) {
	d, group := s.HeadDim, s.Heads/s.KVHeads
	out, lse = make([]float64, len(q)), make([]float64, len(keys)*s.Heads)
	for n, keys := range keys {
		for h := range s.Heads {
			query := q[(n*s.Heads+h)*d:][:d]
			row := func(x []float64, j int) []float64 {
				return x[((int(keys.first)+j)*s.KVHeads+h/group)*d:][:d]
			}
			scores := make([]float64, keys.count)
			for j := range scores {
				scores[j] = float64(s.Scale) * dot(query, row(k, j))
			}
			logs := refLogSoftmax(scores, 1)
			lse[n*s.Heads+h] = scores[0] - logs[0]
			for j, l := range logs {
				for i, value := range row(v, j) {
					out[(n*s.Heads+h)*d+i] += math.Exp(l) * value
				}
			}
		}
	}
	return out, lse
}

// refAttentionBackward returns the gradients of q, k and v by their formula, of the
// output and the logarithms of denominators that are given: with P = exp(s − lse) the
// weights and dP = dOut·vᵀ, the gradient of the scores is P ⊙ (dP − ⟨dOut, out⟩).
func refAttentionBackward(dOut, out, lse, q, k, v []float64, keys []span, s backend.AttentionShape) (dq, dk, dv []float64) {
	d, group := s.HeadDim, s.Heads/s.KVHeads
	dq, dk, dv = make([]float64, len(q)), make([]float64, len(k)), make([]float64, len(v))
	for n, keys := range keys {
		for h := range s.Heads {
			row := (n*s.Heads + h) * d
			delta := dot(dOut[row:row+d], out[row:row+d])
			for j := range int(keys.count) {
				key := ((int(keys.first)+j)*s.KVHeads + h/group) * d
				p := math.Exp(float64(s.Scale)*dot(q[row:row+d], k[key:key+d]) - lse[n*s.Heads+h])
				ds := p * (dot(dOut[row:row+d], v[key:key+d]) - delta) * float64(s.Scale)
				for i := range d {
					dq[row+i] += ds * k[key+i]
					dk[key+i] += ds * q[row+i]
					dv[key+i] += p * dOut[row+i]
				}
			}
		}
	}
	return dq, dk, dv
}
