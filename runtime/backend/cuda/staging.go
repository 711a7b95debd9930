//go:build cuda

package cuda

import (
	"errors"
	"unsafe"

	"gorgonia.org/cu"
)

// staging is memory of the host that is pinned: the device copies from and to it by
// itself, while the host goes on. It belongs to the owner's goroutine.
type staging struct {
	small ring // For lists, questions and answers, of which a step has some.
	large ring // For weights, piece by piece: one is filled while another is copied.
}

const (
	smallSlot, smallSlots = 64 << 10, 32
	largeSlot, largeSlots = 4 << 20, 2
)

func newStaging() staging {
	return staging{small: ring{size: smallSlot, slots: make([]slot, smallSlots)}, large: ring{size: largeSlot, slots: make([]slot, largeSlots)}}
}

// ring gives out slots in turn. It takes memory when it is first used.
type ring struct {
	size  int64 // Of a slot, in bytes.
	slots []slot
	next  int
	at    unsafe.Pointer
}

// slot is a part of a ring, in use until its event has happened.
type slot struct {
	at    unsafe.Pointer
	event cu.Event
	there bool // The event.
	busy  bool
}

// bytes are the first of a slot.
func (s *slot) bytes(n int64) []byte { return bytesAt(s.at, n) }

func bytesAt(p unsafe.Pointer, n int64) []byte {
	return unsafe.Slice((*byte)(p), n) //nolint:gosec // Callers say how much there is.
}

// of returns the ring for a copy.
func (s *staging) of(bytes int64) *ring {
	if bytes <= s.small.size {
		return &s.small
	}
	return &s.large
}

// take returns the next slot, once what was copied from or to it before is done.
func (r *ring) take() (*slot, error) {
	if r.at == nil {
		at, err := pin(r.size * int64(len(r.slots)))
		if err != nil {
			return nil, err
		}
		r.at = at
		for i := range r.slots {
			r.slots[i].at = unsafe.Add(at, int64(i)*r.size)
		}
	}
	s := &r.slots[r.next]
	if !s.there {
		var err error
		if s.event, err = cu.MakeEvent(cu.DisableTiming | cu.BlockingSyncEvent); err != nil {
			return nil, of("cuEventCreate", err)
		}
		s.there = true
	}
	if err := s.wait(); err != nil {
		return nil, err
	}
	r.next = (r.next + 1) % len(r.slots)
	return s, nil
}

// used says that what was queued until now uses the slot.
func (s *slot) used(queue cu.Stream) error {
	s.busy = true
	return of("cuEventRecord", s.event.Record(queue))
}

// wait waits until nothing uses the slot.
func (s *slot) wait() error {
	if !s.busy {
		return nil
	}
	s.busy = false
	return of("cuEventSynchronize", s.event.Synchronize())
}

// release gives everything back.
func (s *staging) release() error {
	var errs []error
	for _, r := range []*ring{&s.small, &s.large} {
		for i := range r.slots {
			if r.slots[i].there {
				errs = append(errs, of("cuEventDestroy", cu.DestroyEvent(&r.slots[i].event)))
			}
		}
		if r.at != nil {
			errs = append(errs, unpin(r.at))
		}
		r.slots, r.at = nil, nil
	}
	return errors.Join(errs...)
}

// copyUp queues a copy to the device. It has read what it copies when it returns. It runs
// on the owner.
func (o *owner) copyUp(dst address, src unsafe.Pointer, bytes int64) error {
	ring := o.staging.of(bytes)
	for at := int64(0); at < bytes; at += ring.size {
		n := min(bytes-at, ring.size)
		s, err := ring.take()
		if err != nil {
			return err
		}
		copy(s.bytes(n), bytesAt(unsafe.Add(src, at), n))
		if err := cu.MemcpyHtoDAsync(cu.DevicePtr(dst+address(at)), s.at, n, o.stream); err != nil {
			return of("cuMemcpyHtoDAsync", err)
		}
		if err := s.used(o.stream); err != nil {
			return err
		}
	}
	return nil
}

// piece is what is copied from the device.
type piece struct {
	dst   unsafe.Pointer
	src   address
	bytes int64
}

// pieceOf is what fills a slice.
func pieceOf[T any](dst []T, src address) piece {
	var one T
	return piece{elements(dst), src, int64(len(dst)) * int64(unsafe.Sizeof(one))}
}

// copyDown copies pieces from the device, behind all that was queued, and waits. It runs
// on the owner.
func (o *owner) copyDown(pieces []piece) error {
	largest := int64(0)
	for _, p := range pieces {
		largest = max(largest, p.bytes)
	}
	ring := o.staging.of(largest)
	type arrival struct {
		at *slot
		to []byte
	}
	var coming []arrival
	arrive := func() error {
		first := coming[0]
		coming = coming[1:]
		err := first.at.wait()
		if err == nil {
			copy(first.to, first.at.bytes(int64(len(first.to))))
		}
		return err
	}
	for _, p := range pieces {
		for at := int64(0); at < p.bytes; at += ring.size {
			if len(coming) == len(ring.slots) {
				if err := arrive(); err != nil {
					return err
				}
			}
			s, err := ring.take()
			if err != nil {
				return err
			}
			n := min(p.bytes-at, ring.size)
			if err := cu.MemcpyDtoHAsync(s.at, cu.DevicePtr(p.src+address(at)), n, o.stream); err != nil {
				return of("cuMemcpyDtoHAsync", err)
			}
			if err := s.used(o.stream); err != nil {
				return err
			}
			coming = append(coming, arrival{s, bytesAt(unsafe.Add(p.dst, at), n)})
		}
	}
	for len(coming) > 0 {
		if err := arrive(); err != nil {
			return err
		}
	}
	return nil
}
