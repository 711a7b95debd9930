package svd

import (
	"context"
	"sync"
	"sync/atomic"
)

// team runs loops on a fixed number of goroutines. How work is split never
// depends on that number, so results do not either.
type team struct {
	ctx     context.Context
	workers int
}

// each calls body for 0 … n−1 and returns when all calls have.
func (t *team) each(n int, body func(i int)) {
	workers := min(t.workers, n)
	if workers <= 1 {
		for i := range n {
			body(i)
		}
		return
	}
	var next atomic.Int64
	loop := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			body(i)
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(loop)
	}
	loop()
	wg.Wait()
}

// chunks calls body for consecutive ranges of blockRows out of n.
func (t *team) chunks(n int, body func(from, to int)) {
	t.each((n+blockRows-1)/blockRows, func(i int) { body(i*blockRows, min(n, (i+1)*blockRows)) })
}
