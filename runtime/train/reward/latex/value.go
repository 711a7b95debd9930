package latex

import (
	"hash/fnv"
	"math"
	"math/big"
	"math/cmplx"
)

// point gives values to symbols and decides ±: the trial-th of several at which
// two expressions are compared.
type point struct {
	trial int
	minus bool // ± is −, ∓ is +
}

// at returns the value of a symbol at p: a fraction like no other's, positive
// at the first points.
func (p point) at(name string) *big.Rat {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(p.trial)})
	_, _ = h.Write([]byte(name))
	x := h.Sum64()
	v := big.NewRat(int64(17+x%211), int64(5+2*(x>>32%13)))
	if p.trial%3 == 2 {
		v.Neg(v)
	}
	return v
}

// opposite reports whether a plusMinus subtracts at p.
func (p point) opposite(n *node) bool { return p.minus != (n.text == "mp") }

// exact returns the rational value of n at p, if it has one that is easily found.
func (p point) exact(n *node) (*big.Rat, bool) {
	v, ok := p.rational(n)
	if !ok || v.Num().BitLen() > maxBits || v.Denom().BitLen() > maxBits {
		return nil, false
	}
	return v, true
}

func (p point) rational(n *node) (*big.Rat, bool) {
	switch n.kind {
	case constant:
		return n.value, true
	case symbol:
		switch n.text {
		case "i", "e", `\pi`:
			return nil, false
		}
		return p.at(n.text), true
	case power:
		return p.exactPower(n)
	case call:
		return p.exactCall(n)
	}
	args := make([]*big.Rat, len(n.args))
	for i, a := range n.args {
		var ok bool
		if args[i], ok = p.exact(a); !ok {
			return nil, false
		}
	}
	v := new(big.Rat)
	switch n.kind {
	case sum:
		for _, a := range args {
			v.Add(v, a)
		}
	case product:
		v.Mul(args[0], args[1])
	case quotient:
		if args[1].Sign() == 0 {
			return nil, false
		}
		v.Quo(args[0], args[1])
	case negation:
		v.Neg(args[0])
	case percent:
		v.Quo(args[0], big.NewRat(100, 1))
	case plusMinus:
		if p.opposite(n) {
			v.Sub(args[0], args[1])
		} else {
			v.Add(args[0], args[1])
		}
	default:
		return nil, false
	}
	return v, true
}

// maxExponent bounds exact powers.
const maxExponent = 1 << 12

func (p point) exactPower(n *node) (*big.Rat, bool) {
	base, ok := p.exact(n.args[0])
	if !ok {
		return nil, false
	}
	exponent, ok := p.exact(n.args[1])
	if !ok || !exponent.IsInt() || !exponent.Num().IsInt64() {
		return nil, false
	}
	e := exponent.Num().Int64()
	size := int64(max(base.Num().BitLen(), base.Denom().BitLen()))
	if e > maxExponent || e < -maxExponent || size*max(e, -e) > maxBits || base.Sign() == 0 && e <= 0 {
		return nil, false
	}
	abs := big.NewInt(max(e, -e))
	above, below := new(big.Int).Exp(base.Num(), abs, nil), new(big.Int).Exp(base.Denom(), abs, nil)
	if e < 0 {
		above, below = below, above
	}
	return new(big.Rat).SetFrac(above, below), true
}

func (p point) exactCall(n *node) (*big.Rat, bool) {
	x, ok := p.exact(n.args[0])
	if !ok {
		return nil, false
	}
	switch {
	case n.text == "abs":
		return new(big.Rat).Abs(x), true
	case n.text == "sqrt" && len(n.args) == 1 && x.Sign() >= 0:
		above, below := new(big.Int).Sqrt(x.Num()), new(big.Int).Sqrt(x.Denom())
		root := new(big.Rat).SetFrac(above, below)
		return root, new(big.Rat).Mul(root, root).Cmp(x) == 0
	case n.text == "lfloor":
		return new(big.Rat).SetInt(new(big.Int).Div(x.Num(), x.Denom())), true
	case n.text == "lceil":
		up := new(big.Int).Div(new(big.Int).Neg(x.Num()), x.Denom())
		return new(big.Rat).SetInt(up.Neg(up)), true
	case n.text == "!" && x.IsInt() && x.Sign() >= 0 && x.Num().IsInt64() && x.Num().Int64() <= 500:
		return new(big.Rat).SetInt(new(big.Int).MulRange(1, x.Num().Int64())), true
	case n.text == "binom":
		k, ok := p.exact(n.args[1])
		if !ok || !x.IsInt() || !k.IsInt() || !x.Num().IsInt64() || !k.Num().IsInt64() {
			return nil, false
		}
		above, below := x.Num().Int64(), k.Num().Int64()
		if above < 0 || above > 1000 || below < 0 || below > above {
			return nil, false
		}
		return new(big.Rat).SetInt(new(big.Int).Binomial(above, below)), true
	}
	return nil, false
}

// approximate returns the value of n at p as a complex number; ok is false
// where it has none.
func (p point) approximate(n *node) (v complex128, ok bool) {
	v, ok = p.number(n)
	return v, ok && !cmplx.IsNaN(v) && !cmplx.IsInf(v)
}

func (p point) number(n *node) (complex128, bool) {
	switch n.kind {
	case constant:
		f, _ := n.value.Float64()
		return complex(f, 0), true
	case symbol:
		switch n.text {
		case "i":
			return 1i, true
		case "e":
			return math.E, true
		case `\pi`:
			return math.Pi, true
		}
		f, _ := p.at(n.text).Float64()
		return complex(f, 0), true
	}
	args := make([]complex128, len(n.args))
	for i, a := range n.args {
		var ok bool
		if args[i], ok = p.approximate(a); !ok {
			return 0, false
		}
	}
	switch n.kind {
	case sum:
		var v complex128
		for _, a := range args {
			v += a
		}
		return v, true
	case product:
		return args[0] * args[1], true
	case quotient:
		return args[0] / args[1], args[1] != 0
	case power:
		if e := real(args[1]); imag(args[1]) == 0 && e == math.Trunc(e) && math.Abs(e) <= 64 {
			return integerPower(args[0], int(e))
		}
		return cmplx.Pow(args[0], args[1]), true
	case negation:
		return -args[0], true
	case percent:
		return args[0] / 100, true
	case plusMinus:
		if p.opposite(n) {
			return args[0] - args[1], true
		}
		return args[0] + args[1], true
	case call:
		return p.called(n, args)
	default:
		return 0, false
	}
}

// integerPower multiplies, which keeps the powers of i exact.
func integerPower(base complex128, e int) (complex128, bool) {
	v := complex128(1)
	for range max(e, -e) {
		v *= base
	}
	if e < 0 {
		return 1 / v, v != 0
	}
	return v, true
}

// analytic are the functions of one number.
var analytic = map[string]func(complex128) complex128{
	"sin": cmplx.Sin, "cos": cmplx.Cos, "tan": cmplx.Tan, "cot": cmplx.Cot, "exp": cmplx.Exp,
	"sec":    func(x complex128) complex128 { return 1 / cmplx.Cos(x) },
	"csc":    func(x complex128) complex128 { return 1 / cmplx.Sin(x) },
	"arcsin": cmplx.Asin, "arccos": cmplx.Acos, "arctan": cmplx.Atan,
	"sinh": cmplx.Sinh, "cosh": cmplx.Cosh, "tanh": cmplx.Tanh, "ln": cmplx.Log, "lg": cmplx.Log10,
	"abs": func(x complex128) complex128 { return complex(cmplx.Abs(x), 0) },
}

func (p point) called(n *node, args []complex128) (complex128, bool) {
	switch n.text {
	case "sqrt":
		if len(args) == 1 {
			return cmplx.Sqrt(args[0]), true
		}
		if imag(args[0]) == 0 && real(args[0]) < 0 && args[1] == 3 {
			return -cmplx.Pow(-args[0], complex(1./3, 0)), true
		}
		return cmplx.Pow(args[0], 1/args[1]), args[1] != 0
	case "log":
		if len(args) == 2 {
			base := cmplx.Log(args[1])
			return cmplx.Log(args[0]) / base, base != 0
		}
		return cmplx.Log(args[0]), true
	case "overline":
		return cmplx.Conj(args[0]), true
	}
	if f, ok := analytic[n.text]; ok && len(args) == 1 {
		return f(args[0]), true
	}
	// What is exact only (factorials, binomials, \lfloor) was no rational.
	if v, ok := p.exact(n); ok {
		f, _ := v.Float64()
		return complex(f, 0), true
	}
	return 0, false
}
