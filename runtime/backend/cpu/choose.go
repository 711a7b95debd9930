package cpu

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
)

// Which path computes is measured, because what an instruction is worth is no matter of
// whether it is there: VDPBF16PS does twice what a float32 FMA does on Zen 4, and half of
// it on Sapphire Rapids.
//
// It is one path for everything, not one for each type of weights: weights of one type are
// multiplied backward as another, and one name then says which bits all results have: in
// T2_CPU, in the checkpoint of a training, in the key of shared weights.
//
// Results of two paths differ in their last bits, so that a process should not take another
// one than the last did because something else ran beside its measurement. Hence a path
// that is listed later must be clearly faster (margin); what was measured is kept, and not
// measured again, on this machine (kept.go); and who continues something begun takes the
// path that it was begun on (TakePath).

// choice is a path, and how it came to be chosen.
type choice struct {
	*kernels
	how string // For people.
	// forced: by EnvPath.
	forced bool
	// measured are the paths that were compared, if any were.
	measured []pathTimes
}

// PathByFlags is the value of EnvPath that takes the first of Paths without measuring.
const PathByFlags = "flags"

// choosePath returns the path that a value of EnvPath asks for.
func choosePath(asked string) (choice, error) {
	switch asked {
	case "":
		return automatic(), nil
	case PathByFlags:
		k, err := chooseKernels("")
		return choice{kernels: k, how: fmt.Sprintf("%s=%s: the first of %s", EnvPath, asked, strings.Join(Paths(), ", ")), forced: true}, err
	}
	k, err := chooseKernels(asked)
	return choice{kernels: k, how: fmt.Sprintf("%s=%s", EnvPath, asked), forced: true}, err
}

// automatic is the path of all backends of this process that nobody has forced one on.
var automatic = sync.OnceValue(func() choice {
	file := ""
	if dir, err := os.UserCacheDir(); err == nil {
		file = filepath.Join(dir, keptFolder)
	}
	return chooser{paths: ofOneRounding(accelerated()), processor: processorModel(), folder: file, measure: measurePaths}.choose()
})

// ofOneRounding leaves out paths that somebody must ask for: those that take int8 weights for
// others than they are. How they are rounded is not decided by how fast that is.
func ofOneRounding(paths []*kernels) []*kernels {
	return slices.DeleteFunc(slices.Clone(paths), func(k *kernels) bool { return k.widenedInt8 })
}

// chooser chooses among paths.
type chooser struct {
	paths     []*kernels // Beyond plain Go, which is never as fast as one.
	processor string     // "" where it is not known.
	folder    string     // Of what is kept; "" where nothing can be.
	measure   func([]*kernels) ([]pathTimes, error)
}

func (c chooser) choose() choice {
	switch len(c.paths) {
	case 0:
		return choice{kernels: plainKernels(), how: "there is no other"}
	case 1:
		return choice{kernels: c.paths[0], how: "there is no other but plain Go"}
	}
	chosen := func(times []pathTimes, how string) choice {
		i := fastest(times)
		return choice{kernels: c.paths[i], how: how, measured: times}
	}
	k := kept{folder: c.folder, key: newKeptKey(c.processor, c.paths)}
	times, err := k.read()
	if err == nil {
		return chosen(times, "measured before: "+k.path())
	}
	damaged := !errors.Is(err, errNotKept) && !errors.Is(err, fs.ErrNotExist)
	times, err = c.measure(c.paths)
	if err != nil {
		return choice{kernels: c.paths[0], how: "the first of the list: " + err.Error()}
	}
	// Of several processes that measure at the same time one is heard.
	if others, err := k.write(times, damaged); err == nil {
		return chosen(others, "measured: "+k.path())
	}
	return chosen(times, "measured")
}

// turns are the seconds that products with one type of weights take: with many rows, as a
// prompt or a batch has, and with one, as a sequence that is continued.
type turns struct {
	Many float64 `json:"many"`
	One  float64 `json:"one"`
}

// pathTimes is what was measured of a path, for each type of weights in the order of
// backend.DTypes.
type pathTimes struct {
	Path  string              `json:"path"`
	Turns [len(formats)]turns `json:"turns"`
}

// margin is how much faster a path must be to be taken in place of one that is listed
// before it. Medians of the same code differ by some hundredths.
const margin = 1.1

// fastest returns the index of the path to take: the first one, unless one that follows is
// faster by the margin with some type of weights, and slower by the margin with none. Of
// several such it is the first again, unless another beats it in the same way.
func fastest(paths []pathTimes) int {
	best := 0
	for i := 1; i < len(paths); i++ {
		most, least := 0.0, math.Inf(1)
		for t := range formats {
			was, is := paths[best].Turns[t], paths[i].Turns[t]
			// Many rows and one count alike.
			gain := math.Sqrt(was.Many / is.Many * was.One / is.One)
			most, least = max(most, gain), min(least, gain)
		}
		if most >= margin && least > 1/margin {
			best = i
		}
	}
	return best
}

// Path implements backend.Pather.
func (b *Backend) Path() string { return b.kernels.name }

// TakePath implements backend.Pather.
func (b *Backend) TakePath(name string) error {
	k, err := chooseKernels(name)
	if err != nil || name == "" {
		return fmt.Errorf("take path %q: %w: this processor and build offer %s", name, backend.ErrUnsupported, strings.Join(Paths(), ", "))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case b.kernels.name == name:
		return nil
	case b.choice.forced:
		return fmt.Errorf("take path %q: %s forces %s", name, EnvPath, b.kernels.name)
	case b.used != 0 || b.weights.inUse() != 0 || b.lasting.inUse() != 0:
		return fmt.Errorf("take path %q: something lies in memory already as %s has it", name, b.kernels.name)
	}
	b.choice = choice{kernels: k, how: "taken to continue what was begun on it"}
	b.kernels = k
	return nil
}

var _ backend.Pather = (*Backend)(nil)

// Describe implements backend.Describer.
func (b *Backend) Describe() []backend.Fact {
	facts := []backend.Fact{
		{Name: "Path", Value: fmt.Sprintf("%s (%s)", b.kernels.name, b.choice.how)},
		{Name: "Paths", Value: strings.Join(Paths(), ", ")},
	}
	for _, m := range b.choice.measured {
		var each []string
		for t, s := range m.Turns {
			each = append(each, fmt.Sprintf("%s %.0f with %d rows, %.0f with one", backend.DType(t), perSecond(measuredRows, s.Many), measuredRows, perSecond(1, s.One)))
		}
		facts = append(facts, backend.Fact{Name: m.Path, Value: "GFLOP/s on one thread: " + strings.Join(each, "; ")})
	}
	return facts
}

var _ backend.Describer = (*Backend)(nil)
