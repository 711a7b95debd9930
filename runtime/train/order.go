package train

import "github.com/transformersquared/operator/runtime/sample"

// order says which records make up which batch: an endless sequence of random
// permutations of the data, cut into batches. It is a function of the seed
// alone, so that a run can be continued anywhere. The present
// permutation is kept, because neighbouring batches are of the same one.
type order struct {
	seed  uint64
	n     int
	epoch int
	perm  []int
}

func newOrder(seed uint64, n int) *order { return &order{seed: seed, n: n, epoch: -1} }

// batch returns the records of an iteration (from 0). A batch larger than the
// data has records more than once; they get different answers where rollouts
// are sampled.
func (o *order) batch(iteration, size int) []int {
	records := make([]int, size)
	for i := range records {
		at := iteration*size + i
		records[i] = o.permutation(at / o.n)[at%o.n]
	}
	return records
}

func (o *order) permutation(epoch int) []int {
	if epoch != o.epoch {
		o.epoch, o.perm = epoch, sample.Stream(o.seed, streamOrder, uint64(epoch)).Perm(o.n)
	}
	return o.perm
}
