package server

import (
	"errors"
	"io"
	"sync"
)

// bodies bounds the memory of requests' bodies: of those that are being read, that wait
// and that are answered, as their text is needed until their answers have ended. How many
// requests there may be says nothing of it, and many that nobody has admitted are read at a
// time. Bytes count as they come, so that whoever announces much and sends little takes
// little.
type bodies struct {
	mu    sync.Mutex
	limit int64 // Set before the first is read; 0 means none.
	used  int64
}

// errBodies says that bodies take as much memory as they may.
var errBodies = errors.New("the bodies of requests take as much memory as they may")

// take counts so many bytes more, if they are there.
func (b *bodies) take(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit > 0 && b.used+n > b.limit {
		return errBodies
	}
	b.used += n
	return nil
}

func (b *bodies) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// setLimit is called before the first body is read.
func (b *bodies) setLimit(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = n
}

// inUse returns how many bytes count.
func (b *bodies) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// body is one that has been read, and counts until it is released.
type body struct {
	of    *bodies
	bytes []byte
}

func (b *body) release() {
	b.of.give(int64(cap(b.bytes)))
	b.bytes = nil
}

// firstBody is what a body begins with: room for a question. It gets twice as much whenever
// that is full.
const firstBody = 4 << 10

// read reads a body to its end.
func (b *bodies) read(r io.Reader) (*body, error) {
	read := &body{of: b}
	for {
		if len(read.bytes) == cap(read.bytes) {
			if err := read.grow(); err != nil {
				read.release()
				return nil, err
			}
		}
		n, err := r.Read(read.bytes[len(read.bytes):cap(read.bytes)])
		read.bytes = read.bytes[:len(read.bytes)+n]
		switch {
		case errors.Is(err, io.EOF):
			return read, nil
		case err != nil:
			read.release()
			return nil, unreadable(err)
		}
	}
}

// grow makes room for more; for a moment the old bytes count beside the new ones.
func (b *body) grow() error {
	size := max(2*cap(b.bytes), firstBody)
	if err := b.of.take(int64(size)); err != nil {
		return err
	}
	grown := make([]byte, len(b.bytes), size)
	copy(grown, b.bytes)
	b.of.give(int64(cap(b.bytes)))
	b.bytes = grown
	return nil
}
