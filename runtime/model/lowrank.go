package model

import (
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// lowRank are the pairs of a projection, behind each other.
type lowRank struct {
	a, b   backend.Weight // [R, In] and [Out, R], R the sum of all ranks.
	ranks  []int
	scales *bank // Rows [R]; the first is the model's own.
	own    bool  // The model's own scales are not all zero.
	// each has the pairs one by one, for long runs of rows that have few of them; nil where
	// there is one, and where rows are not divided: sums are not ordered
	// (backend.Capabilities.OrderedSums), or one pair has an odd rank.
	each []pair
}

// pair is one of several.
type pair struct {
	a, b backend.Weight // [r, In] and [Out, r].
	at   int            // The ranks of those before it.
}

func newLowRank(be backend.Backend, as backend.DType, info LinearInfo, pairs []LowRank) (*lowRank, error) {
	if len(pairs) == 0 {
		return nil, nil //nolint:nilnil // There is none.
	}
	low := &lowRank{}
	total := 0
	var a, own []float32
	for i, p := range pairs {
		if !p.fits(info) {
			return nil, fmt.Errorf("low-rank pair %d of shapes %v and %v is none of a matrix [%d %d]", i, shapeOf(p.A), shapeOf(p.B), info.Out, info.In)
		}
		r := p.A.Shape[0]
		low.ranks = append(low.ranks, r)
		low.own = low.own || p.Scale != 0
		total += r
		a = append(a, p.A.Data...)
		own = append(own, slices.Repeat([]float32{p.Scale}, r)...)
	}
	b, at := make([]float32, info.Out*total), 0
	for i, p := range pairs {
		r := low.ranks[i]
		for row := range info.Out {
			copy(b[row*total+at:], p.B.Data[row*r:][:r])
		}
		at += r
	}
	var err error
	if low.a, err = be.NewWeight(as, total, info.In, a); err != nil {
		return nil, err
	}
	if low.b, err = be.NewWeight(as, info.Out, total, b); err != nil {
		return nil, err
	}
	if low.scales, err = newBank(be, own); err != nil {
		return nil, err
	}
	return low, low.part(be)
}

// part makes the single pairs of several.
func (l *lowRank) part(be backend.Backend) error {
	if len(l.ranks) == 1 || !be.Capabilities().OrderedSums || slices.ContainsFunc(l.ranks, func(r int) bool { return r%2 != 0 }) {
		return nil
	}
	a, err := be.WeightData(l.a)
	if err != nil {
		return err
	}
	b, err := be.WeightData(l.b)
	if err != nil {
		return err
	}
	in, out, total, at := l.a.In(), l.b.Out(), l.a.Out(), 0
	l.each = make([]pair, len(l.ranks))
	for i, r := range l.ranks {
		p := pair{at: at}
		if p.a, err = be.NewWeight(l.a.Type(), r, in, a[at*in:][:r*in]); err != nil {
			return err
		}
		columns := make([]float32, 0, out*r)
		for row := range out {
			columns = append(columns, b[row*total+at:][:r]...)
		}
		if p.b, err = be.NewWeight(l.b.Type(), out, r, columns); err != nil {
			return err
		}
		l.each[i] = p
		at += r
	}
	return nil
}

// replace replaces the matrices A [R, In] and B [Out, R]; nil leaves one as it is.
func (l *lowRank) replace(be backend.Backend, a, b []float32) error {
	for _, each := range []struct {
		values []float32
		w      *backend.Weight
	}{{a, &l.a}, {b, &l.b}} {
		if each.values == nil {
			continue
		}
		w, err := be.NewWeight((*each.w).Type(), (*each.w).Out(), (*each.w).In(), each.values)
		if err != nil {
			return err
		}
		*each.w = w
	}
	return l.part(be)
}

// spread gives each row of A the scale of its pair; nil is zeros.
func (l *lowRank) spread(scales []float32) []float32 {
	out := make([]float32, 0, l.a.Out())
	for i, r := range l.ranks {
		s := float32(0)
		if scales != nil {
			s = scales[i]
		}
		out = append(out, slices.Repeat([]float32{s}, r)...)
	}
	return out
}

// seen are the pairs as the backend sees them.
func (l *lowRank) seen(p *pass, s rowsScaling, name string) []backend.LowRank {
	if !s.some || l.own {
		return []backend.LowRank{{A: l.a, B: l.b, Scales: l.scales.of(s.index)}}
	}
	var all []backend.LowRank
	for _, rows := range s.low {
		low := backend.LowRank{A: l.a, B: l.b, From: rows.from, To: rows.to}
		switch {
		case rows.scales == nil:
			low.Scales = l.scales.of(rows.index)
			all = append(all, low)
		case l.each == nil && rows.scales.pairs[name] != nil:
			low.Scales = l.scales.part(p, rows.scales.row, 0, low.A.Out())
			all = append(all, low)
		case l.each != nil:
			for _, i := range rows.scales.pairs[name] {
				low.A, low.B = l.each[i].a, l.each[i].b
				low.Scales = l.scales.part(p, rows.scales.row, l.each[i].at, l.ranks[i])
				all = append(all, low)
			}
		}
	}
	return all
}
