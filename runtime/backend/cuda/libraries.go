//go:build cuda

package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda/cumath"
)

// What cuBLAS and cuSOLVER are used for where Options do not say: a backend.LibraryUse.
const (
	EnvCuBLAS   = "T2_CUBLAS"
	EnvCuSOLVER = "T2_CUSOLVER"
)

// libraries are those of NVIDIA's that compute in place of our kernels. Without a use they
// are nil, and where they may be absent and are, their facts say why.
type libraries struct {
	blasUse, solverUse backend.LibraryUse
	blas               *cumath.BLAS
	solver             *cumath.Solver
	blasWhy, solverWhy error
	workspace          *held // cuBLAS's.
}

// readUses says what each library is for.
func (o Options) readUses() (l libraries, err error) {
	for _, library := range []struct {
		title, variable string
		asked           backend.LibraryUse
		allowed         []backend.LibraryUse
		use             *backend.LibraryUse
	}{
		{"cuBLAS", EnvCuBLAS, o.CuBLAS, backend.LibraryUses(), &l.blasUse},
		{"cuSOLVER", EnvCuSOLVER, o.CuSOLVER, []backend.LibraryUse{backend.LibraryNever, backend.LibraryAlways, backend.LibraryAuto}, &l.solverUse},
	} {
		fromEnv, err := backend.ParseLibraryUse(os.Getenv(library.variable))
		if err != nil && library.asked == "" {
			return l, fmt.Errorf("%s: %w", library.variable, err)
		}
		*library.use = cmp.Or(library.asked, fromEnv, backend.LibraryNever)
		if !slices.Contains(library.allowed, *library.use) {
			return l, fmt.Errorf("%w: %s is used for %v, not for %q", backend.ErrLibrary, library.title, library.allowed, *library.use)
		}
	}
	return l, nil
}

// openLibraries finds and starts what is to be used.
func (b *Backend) openLibraries() (err error) {
	if b.blasUse != backend.LibraryNever {
		if b.blas, err = cumath.OpenBLAS(); err != nil {
			if b.blasUse.Asked() {
				return absent(err, "--cublas never", EnvCuBLAS)
			}
			b.blasWhy = err
		} else if err := b.startBLAS(); err != nil {
			return err
		}
	}
	if b.solverUse == backend.LibraryNever {
		return nil
	}
	if b.solver, err = cumath.OpenSolver(); err != nil {
		if b.solverUse.Asked() {
			return absent(err, "--cusolver never", EnvCuSOLVER)
		}
		b.solverWhy = err
		return nil
	}
	return b.owner.now(func() error {
		b.owner.endings = append(b.owner.endings, b.solver.End)
		return b.solver.Start(b.owner.queue)
	})
}

// absent says what to do about a library that is not there.
func absent(err error, flag, variable string) error {
	return fmt.Errorf("%w: %w; install it where the dynamic loader looks (LD_LIBRARY_PATH), or do without it (%s, or %s=%s)",
		backend.ErrLibrary, err, flag, variable, backend.LibraryNever)
}

// startBLAS gives cuBLAS as much memory to work in as its documentation advises.
func (b *Backend) startBLAS() (err error) {
	const ampere, hopper, hopperMajor = 4 << 20, 32 << 20, 9
	bytes := int64(ampere)
	if b.info.capability.Major >= hopperMajor {
		bytes = hopper
	}
	if b.workspace, err = b.memory.hold(bytes); err != nil {
		return fmt.Errorf("memory for cuBLAS to work in: %w", err)
	}
	return b.owner.now(func() error {
		b.owner.endings = append(b.owner.endings, b.blas.End)
		return b.blas.Start(b.owner.queue, uint64(b.workspace.at()), bytes)
	})
}

// libraryFacts says what computes besides our kernels.
func (b *Backend) libraryFacts() []backend.Fact {
	products := "not used: all products are our own kernels"
	switch {
	case b.blasWhy != nil:
		products = "not used, as it is not there (" + b.blasWhy.Error() + "): all products are our own kernels"
	case b.blas != nil && b.blasUse == backend.LibraryAlways:
		products = fmt.Sprintf("%s: products of more than %d rows with f32 and bf16 weights, and composing", b.blas, skinnyRows)
	case b.blas != nil:
		products = fmt.Sprintf("%s: backward products of more than %d rows with f32 and bf16 weights, and composing", b.blas, skinnyRows)
	}
	factors := "not used: our own kernels decompose"
	switch {
	case b.solverWhy != nil:
		factors = "not used, as it is not there (" + b.solverWhy.Error() + "): our own kernels decompose"
	case b.solver != nil:
		factors = b.solver.String() + ": decomposing, checked, with our own kernels where it is not precise enough"
	}
	return []backend.Fact{{Name: "cuBLAS", Value: products}, {Name: "cuSOLVER", Value: factors}}
}

func (b *Backend) log() *slog.Logger { return cmp.Or(b.logger, slog.Default()) }

// libraryError says of a status what kind it is, where somebody can do something.
func libraryError(err error) error {
	s, ok := errors.AsType[*cumath.StatusError](err)
	if !ok {
		return err
	}
	switch s.Kind {
	case cumath.Memory:
		return fmt.Errorf("%w: %w", backend.ErrDeviceMemory, err)
	case cumath.Lost:
		return fmt.Errorf("%w: %w", backend.ErrDeviceLost, err)
	case cumath.Unsupported:
		return fmt.Errorf("%w: %w", backend.ErrDeviceUnsupported, err)
	}
	return err
}
