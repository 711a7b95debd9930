//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"math"
	"time"

	"gorgonia.org/cu"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
)

// Choice says when the kernels of kernels/hopper.cu are used in place of their twins that
// run on every device.
type Choice int

// The choices. None lets a kernel be used whose results the twin's do not confirm.
const (
	// WhenFaster uses each where a measurement at opening finds it faster.
	WhenFaster Choice = iota
	// Always does without the measurement.
	Always
	// Never does without the kernels.
	Never
)

// EnvHopper is the environment variable by which a user overrides the choice: "always" or
// "never", in the sense of those; "auto" is as if it were not there.
const EnvHopper = "T2_HOPPER"

// ChoiceOf returns the choice that a value of EnvHopper stands for.
func ChoiceOf(value string) (Choice, error) {
	switch value {
	case "", "auto":
		return WhenFaster, nil
	case "always":
		return Always, nil
	case "never":
		return Never, nil
	}
	return WhenFaster, fmt.Errorf("%s=%q: it is one of auto, always and never", EnvHopper, value)
}

// hopperUnit is the unit with kernels that only compute capability 9.0 runs.
const hopperUnit = "hopper"

// trust is where a twin may be used, by what it was seen to compute.
type trust int

const (
	// nowhere: its results are others, or it is slower, or not there.
	nowhere trust = iota
	// whereAlone: its results differ in the last bits. So it is for what has no rows
	// beside it that choose its kernel, which is composing: a product of many rows that
	// took it would give a row other bits than a product of a few
	// (backend.Capabilities.RowInvariant), a training one as well.
	whereAlone
	// everywhere: its results have the same bits.
	everywhere
)

// twins are the kernels of kernels/hopper.cu as far as they are used, and why.
type twins struct {
	products, composing trust
	// fewest is of how many tiles a product must be: a tile is twice as large as one of
	// the twin's, so that few would leave multiprocessors idle that the twin uses.
	fewest int
	facts  []backend.Fact
}

// How far the results of twins may differ, as normalised mean square error: what the
// backends' conformance suite asks of sums in float32, and as much as it makes that some
// in a thousand of them are rounded to the next bfloat16, which is off by 2⁻⁸ or less.
const (
	nearly       = 1e-12
	nearlyInBF16 = 1e-8
)

// measured bounds what opening takes: no larger case is measured when one took so long.
var measured = 2 * time.Millisecond

// probes are what twins are compared by, growing. The first has parts of tiles and of K;
// the last has a tile for each multiprocessor.
var probes = []probe{{rows: 150, out: 100, in: 300}, {rows: 512, out: 512, in: 1100}, {rows: 2048, out: 2048, in: 2048}}

// probe is a product of rows [rows, in] with a weight [out, in], and the composing of
// [out, rows] with rank in.
type probe struct{ rows, out, in int }

// chooseTwins loads the kernels that only this device has, where it has any, and decides
// where they are used. What is wrong with them is a fact and no error; what is wrong with
// the device is one.
func (b *Backend) chooseTwins(c Choice, load loader) error {
	if c == Never || b.info.capability != (kernels.Capability{Major: 9}) {
		return nil
	}
	all := map[string]kernel{}
	err := b.owner.now(func() error { return b.loadUnit(hopperUnit, load, all) })
	if err == nil {
		b.kernels.file(all)
		err = b.compareTwins(c)
	}
	if err == nil || !refused(err) {
		return err
	}
	b.twins = twins{facts: notUsed(err)}
	return nil
}

// notUsed is the fact that something keeps the kernels from being used.
func notUsed(err error) []backend.Fact {
	return []backend.Fact{{Name: "Hopper's kernels", Value: "not used: " + err.Error()}}
}

// twinsError is what went wrong while twins were compared.
type twinsError struct {
	what  string // Was compared.
	stuck bool   // A kernel does not end.
	err   error
}

func (e *twinsError) Error() string {
	return fmt.Sprintf("compare %s by kernels %s with their twins: %v", e.what, hopperUnit, e.err)
}

func (e *twinsError) Unwrap() error { return e.err }

// patience is how long a kernel may take that is compared: some hundred times as long as
// it needs.
var patience = 10 * time.Second

var errStuck = fmt.Errorf("%w: a kernel has not ended", backend.ErrDeviceLost)

// refused reports whether the driver would not take a kernel, and goes on with others.
func refused(err error) bool {
	if errors.Is(err, backend.ErrDeviceUnsupported) {
		return true
	}
	var r *resultError
	if !errors.As(err, &r) {
		return false
	}
	switch r.result {
	case resultInvalidPTX, resultNotFound, resultOutOfResources, resultInvalidValue:
		return true
	}
	return false
}

// comparison is what is known of one kernel and its twin.
type comparison struct {
	what       string
	bound      float64 // Of the error.
	trust      trust
	error      float64 // The largest.
	own, other time.Duration
}

// compareTwins computes growing cases by both kernels of a pair.
func (b *Backend) compareTwins(c Choice) error {
	products, composing := comparison{what: "products", bound: nearly, trust: everywhere}, comparison{what: "composing", bound: nearlyInBF16, trust: everywhere}
	for _, p := range probes {
		for _, one := range []struct {
			*comparison
			run func(probe) (outcomes, error)
		}{{&products, b.probeProduct}, {&composing, b.probeCompose}} {
			both, err := one.run(p)
			if err != nil {
				return &twinsError{what: one.what, stuck: errors.Is(err, errStuck), err: err}
			}
			one.add(both)
		}
		if max(products.own, products.other, composing.own, composing.other) > measured {
			break
		}
	}
	b.twins = twins{products: products.decide(c), composing: composing.decide(c)}
	if c == WhenFaster {
		b.twins.fewest = b.info.processors / 2
	}
	// Products of many rows must have the bits of those of a few.
	if b.twins.products < everywhere {
		b.twins.products = nowhere
	}
	for _, one := range []comparison{products, composing} {
		b.twins.facts = append(b.twins.facts, backend.Fact{Name: "Hopper's " + one.what, Value: one.tell(c)})
	}
	return nil
}

// outcomes are what both kernels computed, and how long they took.
type outcomes struct {
	own, other         []float32
	ownTime, otherTime time.Duration
}

func (k *comparison) add(p outcomes) {
	k.own, k.other = p.ownTime, p.otherTime
	var off, sum float64
	same := true
	for i, v := range p.other {
		d := float64(p.own[i]) - float64(v)
		off, sum = off+d*d, sum+float64(v)*float64(v)
		same = same && math.Float32bits(p.own[i]) == math.Float32bits(v)
	}
	if same {
		return
	}
	k.trust = min(k.trust, whereAlone)
	if e := off / sum; !(e <= k.bound) { // Not a number, too.
		k.trust, k.error = nowhere, max(k.error, e)
	} else {
		k.error = max(k.error, e)
	}
}

func (k *comparison) decide(c Choice) trust {
	if c == WhenFaster && k.own >= k.other {
		return nowhere
	}
	return k.trust
}

// tell says what was decided and why.
func (k *comparison) tell(c Choice) string {
	speed := fmt.Sprintf("%.2f times as fast as the kernels for every device", float64(k.other)/float64(max(k.own, 1)))
	switch {
	case k.trust == nowhere:
		return fmt.Sprintf("not used: their results are not those of the kernels for every device (normalised mean square error %.2g)", k.error)
	case k.decide(c) == nowhere:
		return "not used: " + speed
	case k.trust == whereAlone && k.what == "products":
		return "not used: " + speed + ", but other last bits, and a row's are not to depend on how many there are"
	case k.trust == whereAlone:
		return "used: " + speed + ", with other last bits"
	default:
		return "used: " + speed + ", to the bit"
	}
}

// numbers returns n numbers between -1 and 1 that look like chance, of magnitudes that
// differ by up to 2¹⁵: where sums drop bits shows most then. They are the same for a seed.
func numbers(n int, seed uint64) []float32 {
	out := make([]float32, n)
	for i := range out {
		// Steele, Lea and Flood's SplitMix64.
		seed += 0x9e3779b97f4a7c15
		z := (seed ^ seed>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		out[i] = float32(int32(z>>32)) * 0x1p-31 / float32(int32(1)<<(z&15))
	}
	return out
}

// probeWeight is a bfloat16 weight of such numbers.
func (b *Backend) probeWeight(out, in int, seed uint64) (*matrix, error) {
	w, err := b.NewWeight(backend.BF16, out, in, numbers(out*in, seed))
	if err != nil {
		return nil, err
	}
	return &w.(*weight).matrix, nil
}

func (b *Backend) probeRows(count int, seed uint64) (*buffer, error) {
	x, err := b.alloc(backend.F32, count)
	if err != nil {
		return nil, err
	}
	return x, upload(b, x.start, numbers(count, seed))
}

func (b *Backend) probeProduct(p probe) (both outcomes, err error) {
	w, err := b.probeWeight(p.out, p.in, 1)
	if err != nil {
		return both, err
	}
	defer w.block.giver.give()
	x, err := b.probeRows(p.rows*p.in, 2)
	if err != nil {
		return both, err
	}
	defer b.Free(x)
	y, err := b.alloc(backend.F32, p.rows*p.out)
	if err != nil {
		return both, err
	}
	defer b.Free(y)
	one := multiplication{y: y, x: x, w: w}
	if both.ownTime, err = b.timed(func() error { return b.productsByGroups(p.rows, []multiplication{one}) }); err != nil {
		return both, err
	}
	both.own = make([]float32, y.n)
	if err := download(b, both.own, y.start); err != nil {
		return both, err
	}
	in := input{one.x.start, w.columns, 0, 0}
	if both.otherTime, err = b.timed(func() error { return b.single(p.rows, &one, in) }); err != nil {
		return both, err
	}
	both.other = make([]float32, y.n)
	return both, download(b, both.other, y.start)
}

func (b *Backend) probeCompose(p probe) (both outcomes, err error) {
	var all [3]*matrix
	for i, shape := range [][2]int{{p.out, p.rows}, {p.out, p.in}, {p.in, p.rows}} {
		if all[i], err = b.probeWeight(shape[0], shape[1], uint64(i)); err != nil {
			return both, err
		}
		defer all[i].block.giver.give()
	}
	s, err := b.probeRows(p.in, 3)
	if err != nil {
		return both, err
	}
	defer b.Free(s)
	to, u, vt := all[0], all[1], all[2]
	if both.ownTime, err = b.timed(func() error { return b.composeByGroups(to, u, vt, s.start) }); err != nil {
		return both, err
	}
	if both.own, err = b.matrixData(to); err != nil {
		return both, err
	}
	if both.otherTime, err = b.timed(func() error { return b.composeByWarps(to, u, vt, s.start) }); err != nil {
		return both, err
	}
	both.other, err = b.matrixData(to)
	return both, err
}

// timed runs an operation some times, as long as that is short, and returns the shortest
// time by the device's clock.
func (b *Backend) timed(operation func() error) (best time.Duration, err error) {
	const times = 3
	var events [2]cu.Event
	err = b.owner.now(func() (err error) {
		for i := range events {
			if events[i], err = cu.MakeEvent(cu.DefaultEvent); err != nil {
				return of("cuEventCreate", err)
			}
		}
		return nil
	})
	defer func() {
		if errors.Is(err, errStuck) {
			return // The process is to end.
		}
		ended := b.owner.now(func() (err error) {
			for i := range events {
				if events[i] != (cu.Event{}) {
					err = errors.Join(err, of("cuEventDestroy", cu.DestroyEvent(&events[i])))
				}
			}
			return err
		})
		err = errors.Join(err, ended)
	}()
	if err != nil {
		return 0, err
	}
	mark := func(i int) error {
		return b.owner.later(func() error { return of("cuEventRecord", events[i].Record(b.owner.stream)) })
	}
	best = math.MaxInt64
	for range times {
		if err := errors.Join(mark(0), operation(), mark(1)); err != nil {
			return 0, err
		}
		var took float64 // Milliseconds.
		err := b.owner.now(func() error {
			if err := await(events[1]); err != nil {
				return err
			}
			var err error
			took, err = events[0].Elapsed(events[1])
			return of("cuEventElapsedTime", err)
		})
		if err != nil {
			return 0, err
		}
		best = min(best, time.Duration(took*float64(time.Millisecond)))
		if best > measured {
			break
		}
	}
	return best, nil
}

// await waits for an event, but not for ever: a device cannot be told to end a kernel. It
// runs on the owner.
func await(e cu.Event) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Microsecond) {
		err := of("cuEventQuery", e.Query())
		var r *resultError
		if !errors.As(err, &r) || r.result != resultNotReady {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w after %v", errStuck, patience)
		}
	}
}

// What blocks of kernels/hopper.cu compute.
const (
	groupRows    = 256
	groupOutputs = 128
	turnTile     = 64
)

func groupTiles(rows, outputs int) [3]int {
	return [3]int{(rows + groupRows - 1) / groupRows, (outputs + groupOutputs - 1) / groupOutputs, 1}
}

// arranged holds `rows` rows of k columns as kernels/hopper.cu multiplies them.
func (b *Backend) arranged(rows, k int) (*held, error) {
	const element = 2
	return b.hold(int64(rows) * int64((k+pitchMultiple-1)/pitchMultiple*pitchMultiple) * element)
}

func groupRowsOf(n int) int { return (n + groupRows - 1) / groupRows * groupRows }

// byGroups reports whether a product is one for kernels/hopper.cu.
func (b *Backend) byGroups(n int, w *matrix) bool {
	if b.twins.products != everywhere || n < largeRows || w.kind != backend.BF16 {
		return false
	}
	tiles := groupTiles(n, w.rows)
	return tiles[0]*tiles[1] >= b.twins.fewest
}

// productsByGroups computes products of many rows that all read the same, scaled alike.
// The error wraps backend.ErrDeviceMemory, and nothing is computed, where there is no
// memory to arrange the rows in.
func (b *Backend) productsByGroups(n int, all []multiplication) error {
	p, rows := &all[0], groupRowsOf(n)
	x, err := b.arranged(rows, p.w.columns)
	if err != nil {
		return fmt.Errorf("arrange rows: %w", err)
	}
	defer x.giver.give() // All that reads it is queued before whoever gets it next.
	const perThread = 8
	err = b.launch(b.kernelOf(opArrange, p.x.kind), b.blocksOf(rows*p.w.pitch/perThread, 256), 0,
		x.at(), p.x.start, p.bank, p.index, whole(n), whole(p.w.columns), whole(p.w.columns), whole(rows))
	k := b.kernelFor(opProduct, p.x.kind, backend.BF16, group)
	for i := 0; i < len(all) && err == nil; i++ {
		p := &all[i]
		err = b.launch(k, groupTiles(n, p.w.rows), k.shared,
			p.y.start, x.at(), p.w.at(), 0, 0, 0, whole(n), whole(p.w.rows), whole(p.w.columns), whole(p.w.pitch), whole(rows), whole(p.w.rows), p.flags())
	}
	return err
}

// composeByGroups writes to = U·diag(s)·Vᵀ of bfloat16 factors. The error wraps
// backend.ErrDeviceMemory where there is no memory to turn Vᵀ in.
func (b *Backend) composeByGroups(to, u, vt *matrix, s address) error {
	rows := groupRowsOf(to.pitch)
	turned, err := b.arranged(rows, u.columns)
	if err != nil {
		return fmt.Errorf("turn Vᵀ: %w", err)
	}
	defer turned.giver.give()
	grid := [3]int{(u.columns + turnTile - 1) / turnTile, rows / turnTile, 1}
	if err := b.launch(b.kernelFor(opTurn, backend.F32, backend.BF16, plain), grid, 0,
		turned.at(), vt.at(), whole(u.columns), whole(to.columns), whole(vt.pitch), whole(rows)); err != nil {
		return err
	}
	k := b.kernelFor(opComposeGroup, to.kind, backend.BF16, plain)
	return b.launch(k, groupTiles(to.pitch, to.rows), k.shared,
		to.at(), u.at(), turned.at(), s, whole(to.rows), whole(u.columns), whole(to.columns), whole(to.pitch), whole(u.pitch), whole(rows))
}
