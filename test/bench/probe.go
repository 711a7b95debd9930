package main

import (
	"sync"
	"time"
)

// probe measures how fast this machine reads memory now, in bytes a second:
// all threads add up a buffer that no cache holds. On shared machines it
// drifts within seconds, so a figure that is bound by memory means something
// only beside a probe.
type probe struct {
	buffer  []uint64
	threads int
	sink    uint64
}

// probeBytes is several times the largest last-level cache of common machines.
const probeBytes = 512 << 20

func newProbe(threads int) *probe {
	p := &probe{buffer: make([]uint64, probeBytes/8), threads: threads}
	for i := range p.buffer {
		p.buffer[i] = uint64(i) // Touched, so that it is there.
	}
	return p
}

func (p *probe) run() float64 {
	begun := time.Now()
	sums := make([]uint64, p.threads)
	var all sync.WaitGroup
	part := len(p.buffer) / p.threads
	for t := range p.threads {
		all.Go(func() { sums[t] = sum(p.buffer[t*part:][:part]) })
	}
	all.Wait()
	for _, s := range sums {
		p.sink += s
	}
	return float64(part*p.threads*8) / time.Since(begun).Seconds()
}

// sum has eight chains of additions, so that it waits for memory only.
func sum(v []uint64) uint64 {
	var a, b, c, d, e, f, g, h uint64
	for len(v) >= 8 {
		a += v[0]
		b += v[1]
		c += v[2]
		d += v[3]
		e += v[4]
		f += v[5]
		g += v[6]
		h += v[7]
		v = v[8:]
	}
	return a + b + c + d + e + f + g + h
}
