package svd

import "math"

// maxRootSteps bounds the iteration for one root. Seven steps are usual, and
// halving alone needs fewer than this.
const maxRootSteps = 300

// root finds the i-th root λ of 1 + rho·Σ zⱼ²/(dⱼ − λ), which lies between d[i]
// and d[i+1], or above the last d, and writes d − λ to gaps. The unknown is the
// distance x from the nearer pole, so that the gaps next to it are accurate.
// Steps interpolate the sums left and right of the root by a pole each (Bunch,
// Nielsen and Sorensen); a step out of the bracket becomes a halving.
func root(d, z []float64, rho float64, i int, gaps []float64) float64 {
	k := len(d)
	if k == 1 {
		x := rho * z[0] * z[0]
		gaps[0] = -x
		return d[0] + x
	}
	left := min(i, k-2)
	origin, low, high := i, 0.0, 0.0
	if i < k-1 {
		half := (d[i+1] - d[i]) / 2
		high = half
		if f := valueAt(d, z, 1/rho, d[i], half); f < 0 {
			origin, low, high = i+1, -half, 0
		}
	} else {
		for _, v := range z {
			high += rho * v * v
		}
		high *= 1 + 4*precision // Rounding must not cut off the root.
	}
	for j := range gaps {
		gaps[j] = d[j] - d[origin]
	}
	x := between(low, high)
	for range maxRootSteps {
		s := sums(gaps, z, left, x)
		f := 1/rho + s.left + s.right
		size := 1/rho + s.size + math.Abs(x)*(s.leftSlope+s.rightSlope)
		if math.Abs(f) <= precision*size {
			break
		}
		if f < 0 {
			low = x
		} else {
			high = x
		}
		next := x + s.step(f, 1/rho, gaps[left]-x, gaps[left+1]-x, i > left)
		if !(next > low && next < high) {
			next = between(low, high)
		}
		if next == x || next <= low || next >= high {
			break // Neighbouring numbers.
		}
		x = next
	}
	for j := range gaps {
		gaps[j] -= x
	}
	return d[origin] + x
}

// valueAt returns inverse + Σ zⱼ²/(dⱼ − (base + x)).
func valueAt(d, z []float64, inverse, base, x float64) float64 {
	f := inverse
	for j, v := range z {
		f += v * v / (d[j] - base - x)
	}
	return f
}

// between halves a bracket, geometrically when its ends differ in size, because
// a root may be many orders of magnitude closer to its pole than the middle.
func between(low, high float64) float64 {
	switch {
	case low == 0:
		return high / 64
	case high == 0:
		return low / 64
	case low > 0 && high > 4*low, high < 0 && low < 4*high:
		return math.Copysign(math.Sqrt(math.Abs(low))*math.Sqrt(math.Abs(high)), low)
	}
	return low + (high-low)/2
}

// poleSums are Σ zⱼ²/(gapⱼ − x) and its derivative over the poles left and right
// of a root, and the sum of all absolute values, weighted by what rounding does.
type poleSums struct {
	left, leftSlope, right, rightSlope, size float64
}

func sums(gaps, z []float64, left int, x float64) poleSums {
	var s poleSums
	for j, gap := range gaps[:left+1] {
		r := z[j] / (gap - x)
		s.left += z[j] * r
		s.leftSlope += r * r
		s.size += math.Abs(s.left)
	}
	for j := len(gaps) - 1; j > left; j-- {
		r := z[j] / (gaps[j] - x)
		s.right += z[j] * r
		s.rightSlope += r * r
		s.size += math.Abs(s.right)
	}
	return s
}

// step returns the change of x that the interpolation wants: the root of
// c + p/(a−step) + q/(b−step), with the poles at distances a and b.
func (s poleSums) step(f, inverse, a, b float64, last bool) float64 {
	p, q := s.leftSlope*a*a, s.rightSlope*b*b
	c := inverse + (s.left - s.leftSlope*a) + (s.right - s.rightSlope*b)
	sum, product := c*(a+b)+p+q, f*a*b
	width := math.Sqrt(max(0, sum*sum-4*product*c))
	if last {
		if sum >= 0 {
			return (sum + width) / (2 * c)
		}
		return 2 * product / (sum - width)
	}
	if sum <= 0 {
		return (sum - width) / (2 * c)
	}
	return 2 * product / (sum + width)
}
