package cpu

import (
	"slices"
	"sync/atomic"
	"time"
)

// Where others want a processor of ours, Linux is content to leave two of our threads
// on one processor beside a thread that has another to itself: a busy loop on one of
// two processors then gets 0.95 of it where its fair share is 0.67, and we get 1.05
// where ours is 1.33. Nothing moves for as long as all of them run. So a worker that
// finds itself on the processor of another thread of the pool moves to one that none
// of them is on, and lets the system decide again from there.

// place is where one thread of a pool works. The first of a pool is the caller's.
type place struct {
	processor atomic.Int32 // The one it was last seen on, or nowhere.
	asked     atomic.Bool  // Somebody wants to know anew.
}

const (
	nowhere int32 = -1
	// How often a worker looks where it is: shorter than the time slices in which
	// threads share a processor.
	stayTime = time.Millisecond
)

func newPlaces(threads int) []place {
	p := make([]place, threads)
	for i := range p {
		p[i].processor.Store(nowhere)
	}
	return p
}

// answer says where the calling thread is, if anybody asked.
func (p *place) answer() {
	if p.asked.Load() {
		p.asked.Store(false)
		p.processor.Store(processor())
	}
}

// worker is one of a pool's, with a place of its own.
type worker struct {
	pool   *pool
	number int // From 1; the index of its place.
	looked time.Time
	ahead  reader
}

func (w *worker) place() *place { return &w.pool.places[w.number] }

// keepApart is called between tasks. In a crowd it lets others have this processor
// every now and then, and moves to another if a thread of the pool is on this one.
func (w *worker) keepApart() {
	share := w.pool.share
	if !share.crowded.Load() || time.Since(w.looked) < stayTime {
		return
	}
	if share.yields.Load() {
		yield()
	}
	var taken []int32
	for i := range w.pool.places {
		if n := w.pool.places[i].processor.Load(); n != nowhere && i != w.number {
			taken = append(taken, n)
		}
	}
	here := processor()
	if slices.Contains(taken, here) {
		moveAway(taken)
		here = processor()
	}
	w.place().processor.Store(here)
	w.pool.places[0].asked.Store(true)
	w.looked = time.Now() // Others may have had the processor meanwhile.
}
