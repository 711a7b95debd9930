package constrain

import (
	"fmt"
	"math/big"
	"strings"
)

const (
	// maxWritten is how many digits a number has at most, all in all: two such numbers
	// are two in float64, too, so that a bound is kept by those who read no more.
	maxWritten = 15
	// maxFraction is how many digits a bound may have behind the point. Numbers have as
	// many as their bounds, if that is more.
	maxFraction = 20
)

// numbers reads the numbers that satisfy a clause. Clauses that say the same of numbers share
// a rule.
func (b *builder) numbers(start, end int32, c clause, fractions bool) error {
	low, high := c.bounds()
	d := &digits{b: b, place: goal(c).place(), fraction: maxFraction}
	if !fractions {
		d.fraction = 0
	}
	if err := d.multiples(c); err != nil {
		return err
	}
	key := fmt.Sprintf("%v %v %d %d %d", low, high, d.fraction, d.divisor, d.scale)
	r, ok := b.ranges[key]
	if !ok {
		r = b.newRule()
		b.ranges[key] = r
		d.end = b.rules[r].end
		if err := b.numbersBetween(b.rules[r].start, low, high, d, fractions); err != nil {
			return err
		}
	}
	b.call(start, end, r)
	return nil
}

// numbersBetween reads the numbers between two bounds; nil is none.
func (b *builder) numbersBetween(start int32, low, high *bound, d *digits, fractions bool) error {
	d.exponent = fractions && low == nil && high == nil && d.divisor == 0
	zero := decimal{whole: "0"}
	// Numbers from 0 up, and then those below it by what follows the sign.
	if high == nil || !high.negative {
		d.low, d.high = low, high
		if low == nil || low.negative {
			d.low = &bound{decimal: zero}
		}
		if err := d.build(start); err != nil {
			return err
		}
	}
	if low == nil || low.negative {
		d.low, d.high = &bound{decimal: zero, exclusive: true}, nil
		if high != nil && high.negative {
			d.low = &bound{high.negated(), high.exclusive}
		}
		if low != nil {
			d.high = &bound{low.negated(), low.exclusive}
		}
		return d.build(b.text(start, "-"))
	}
	return nil
}

// digits reads a number without a sign, between bounds, digit by digit. It remembers how
// what has been read compares with the same digits of the bounds, and the remainder of a
// division.
type digits struct {
	b     *builder
	end   int32
	place string

	low       *bound
	high      *bound // nil for none.
	fraction  int    // Most digits behind the point.
	least     int    // That many may be written, however many there are before it.
	exponent  bool
	divisor   int // Of the number times 10^scale; 0 for none.
	scale     int
	known     map[progress]int32
	remaining []progress
}

// progress is how far a number has been read.
type progress struct {
	whole, at int  // Digits before the point: all, and those that have been read.
	fraction  int  // Digits behind the point that have been read; −1 before the point.
	low, high int8 // −1, 0 or 1: below the bound so far, equal, above.
	remainder int
}

// multiples sets divisor and scale to those of all multipleOf.
func (d *digits) multiples(c clause) error {
	var all []decimal
	for _, n := range c {
		all = append(all, n.multiples...)
	}
	for _, m := range all {
		d.scale = max(d.scale, len(m.fraction))
	}
	least := big.NewInt(1)
	for _, m := range all {
		units, ok := new(big.Int).SetString(m.whole+m.fraction+strings.Repeat("0", d.scale-len(m.fraction)), 10)
		if !ok {
			return refuse(d.place, "multipleOf %s is no number", m)
		}
		common := new(big.Int).GCD(nil, nil, least, units)
		least.Mul(least, units.Div(units, common))
		if least.Cmp(big.NewInt(MaxMultiple)) > 0 {
			return refuse(d.place+"/multipleOf", "it is more than %d units of its last digit", MaxMultiple)
		}
	}
	if len(all) > 0 {
		d.divisor = int(least.Int64())
		d.fraction = min(d.fraction, d.scale)
	}
	return nil
}

// build reads from a state on.
func (d *digits) build(start int32) error {
	d.known = map[progress]int32{}
	d.least = len(d.low.fraction)
	if d.high != nil {
		d.least = max(d.least, len(d.high.fraction))
	}
	for whole := 1; whole <= maxWritten; whole++ {
		p := progress{whole: whole, fraction: -1}
		p.low = int8(compareInts(whole, len(d.low.whole)))
		if d.high != nil {
			p.high = int8(compareInts(whole, len(d.high.whole)))
		} else {
			p.high = -1
		}
		if p.low < 0 || p.high > 0 {
			continue // All numbers of this length are out of bounds.
		}
		d.b.skip(start, d.state(p))
	}
	for len(d.remaining) > 0 {
		p := d.remaining[len(d.remaining)-1]
		d.remaining = d.remaining[:len(d.remaining)-1]
		d.expand(p)
		if d.b.full() {
			return d.b.check(d.place)
		}
	}
	return nil
}

func compareInts(a, b int) int { return min(max(a-b, -1), 1) }

func (d *digits) state(p progress) int32 {
	s, ok := d.known[p]
	if !ok {
		s = d.b.newState()
		d.known[p] = s
		d.remaining = append(d.remaining, p)
	}
	return s
}

// expand adds what may follow.
func (d *digits) expand(p progress) {
	s := d.known[p]
	if p.at < p.whole {
		first := byte('0')
		if p.at == 0 && p.whole > 1 {
			first = '1'
		}
		next := p
		next.at++
		d.digit(s, next, first)
		return
	}
	if p.fraction != 0 && d.accepts(p) {
		d.b.skip(s, d.end)
		if d.exponent {
			d.b.exponents(s, d.end)
		}
	}
	if p.fraction < 0 && d.room(p.whole, 0) {
		next := p
		next.fraction = 0
		d.b.read(s, d.state(next), '.', '.')
	}
	if p.fraction >= 0 && d.room(p.whole, p.fraction) {
		next := p
		next.fraction++
		d.digit(s, next, '0')
	}
}

// digit reads one more digit, of those from first on. then is what has been read with it, but
// for what the digit itself says. Digits that say the same are read together.
func (d *digits) digit(from int32, then progress, first byte) {
	for c := first; c <= '9'; {
		next, ok := d.with(then, c)
		last := c
		for last < '9' {
			if other, also := d.with(then, last+1); other != next || also != ok {
				break
			}
			last++
		}
		if ok {
			d.b.read(from, d.state(next), c, last)
		}
		c = last + 1
	}
}

// with adds what a digit says. It reports whether the number can still be between the bounds.
func (d *digits) with(p progress, c byte) (progress, bool) {
	var ok bool
	if p.fraction > 0 {
		ok = p.take(c, d.low.fraction, d.high, p.fraction-1, true)
	} else {
		ok = p.take(c, d.low.whole, d.high, p.at-1, false)
	}
	if d.divisor > 0 {
		p.remainder = (p.remainder*10 + int(c-'0')) % d.divisor
	}
	return p, ok
}

// room reports whether one more digit may be written behind the point.
func (d *digits) room(whole, fraction int) bool {
	return fraction < d.fraction && (whole+fraction < maxWritten || fraction < d.least)
}

// take compares one more digit with the bounds'. It reports whether the number can still be
// between them.
func (p *progress) take(c byte, low string, high *bound, at int, behind bool) bool {
	if p.low == 0 {
		p.low = int8(compareInts(int(c), int(digitAt(low, at))))
	}
	if p.high == 0 {
		digits := high.whole
		if behind {
			digits = high.fraction
		}
		p.high = int8(compareInts(int(c), int(digitAt(digits, at))))
	}
	return p.low >= 0 && p.high <= 0
}

func digitAt(digits string, at int) byte {
	if at < len(digits) {
		return digits[at]
	}
	return '0'
}

// accepts reports whether the number may end here.
func (d *digits) accepts(p progress) bool {
	read := max(p.fraction, 0)
	if p.low == 0 && (len(d.low.fraction) > read || d.low.exclusive) {
		return false // Bounds have no zeros at their end: more digits are more.
	}
	if p.high == 0 && len(d.high.fraction) <= read && d.high.exclusive {
		return false
	}
	if d.divisor == 0 {
		return true
	}
	remainder := p.remainder
	for range d.scale - read {
		remainder = remainder * 10 % d.divisor
	}
	return remainder == 0
}

// exponents reads an exponent of at most two digits.
func (n *nfa) exponents(from, to int32) {
	sign, first, second := n.newState(), n.newState(), n.newState()
	n.read(from, sign, 'e', 'e')
	n.read(from, sign, 'E', 'E')
	n.skip(sign, first)
	for _, c := range []byte("+-") {
		n.read(sign, first, c, c)
	}
	n.read(first, second, '0', '9')
	n.skip(second, to)
	n.read(second, to, '0', '9')
}
