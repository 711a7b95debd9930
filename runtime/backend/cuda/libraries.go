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
// are nil, and where they may be lacking and are, their facts say why.
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
func (b *Backend) openLibraries() error {
	if b.blasUse != backend.LibraryNever {
		blas, err := cumath.OpenBLAS()
		if err == nil {
			err = b.startBLAS(blas)
		}
		if b.blasWhy, err = mayLack(b.blasUse, err, "--cublas never", EnvCuBLAS); err != nil {
			return err
		}
		if b.blasWhy == nil {
			b.blas = blas
		}
	}
	if b.solverUse == backend.LibraryNever {
		return nil
	}
	solver, err := cumath.OpenSolver()
	if err == nil {
		err = b.start(solver.End, func() error { return solver.Start(b.owner.queue) })
	}
	if b.solverWhy, err = mayLack(b.solverUse, err, "--cusolver never", EnvCuSOLVER); err != nil {
		return err
	}
	if b.solverWhy == nil {
		b.solver = solver
	}
	return nil
}

// mayLack decides about a library that could not be opened: why it is not used, or, where
// it was asked for or the device is lost, the error, with what to do.
func mayLack(use backend.LibraryUse, failed error, flag, variable string) (why, err error) {
	status, isStatus := errors.AsType[*cumath.StatusError](failed)
	switch {
	case failed == nil:
		return nil, nil
	case !use.Asked() && (errors.Is(failed, cumath.ErrNotFound) || isStatus && status.Kind != cumath.Lost):
		return failed, nil
	case errors.Is(failed, cumath.ErrNotFound):
		return nil, fmt.Errorf("%w: %w; install it where the dynamic loader looks (LD_LIBRARY_PATH), or do without it (%s, or %s=%s)",
			backend.ErrLibrary, failed, flag, variable, backend.LibraryNever)
	case isStatus:
		return nil, fmt.Errorf("%w; it may need a newer driver; or do without it (%s, or %s=%s)", failed, flag, variable, backend.LibraryNever)
	}
	return nil, failed
}

// start starts a library on the owner, which will end it.
func (b *Backend) start(end, start func() error) error {
	return b.owner.now(func() error {
		b.owner.endings = append(b.owner.endings, end)
		return start()
	})
}

// startBLAS gives cuBLAS as much memory to work in as its documentation advises.
func (b *Backend) startBLAS(blas *cumath.BLAS) error {
	const ampere, hopper, hopperMajor = 4 << 20, 32 << 20, 9
	bytes := int64(ampere)
	if b.info.capability.Major >= hopperMajor {
		bytes = hopper
	}
	workspace, err := b.hold(bytes)
	if err != nil {
		return fmt.Errorf("memory for cuBLAS to work in: %w", err)
	}
	if err := b.start(blas.End, func() error { return blas.Start(b.owner.queue, uint64(workspace.at()), bytes) }); err != nil {
		workspace.giver.give()
		return err
	}
	b.workspace = workspace
	return nil
}

// libraryFacts says what computes besides our kernels.
func (b *Backend) libraryFacts() []backend.Fact {
	products := "not used: all products are our own kernels"
	switch {
	case b.blasWhy != nil:
		products = "not used (" + b.blasWhy.Error() + "): all products are our own kernels"
	case b.blas != nil && b.blasUse == backend.LibraryAlways:
		products = fmt.Sprintf("%s: products of more than %d rows with f32 and bf16 weights, and composing", b.blas, skinnyRows)
	case b.blas != nil:
		products = fmt.Sprintf("%s: backward products of more than %d rows with f32 and bf16 weights, and composing", b.blas, skinnyRows)
	}
	factors := "not used: our own kernels decompose"
	switch {
	case b.solverWhy != nil:
		factors = "not used (" + b.solverWhy.Error() + "): our own kernels decompose"
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
