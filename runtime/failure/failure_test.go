package failure_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/host"
)

func TestErrorsAreClassifiedByTheirCause(t *testing.T) {
	cause := errors.New("the cause")
	for _, c := range []struct {
		name          string
		err           error
		wantReason    string
		wantPermanent bool
	}{
		{"no error", nil, "", false},
		{"permanent, wrapped twice", fmt.Errorf("a: %w", fmt.Errorf("b: %w", failure.Permanent(contract.ReasonInvalidModel, cause))), contract.ReasonInvalidModel, true},
		{"transient", failure.Transientf(contract.ReasonSourceUnreachable, "x: %w", cause), contract.ReasonSourceUnreachable, false},
		{"a disk that is full behind an invalid model", failure.Permanent(contract.ReasonInvalidModel, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), contract.ReasonDiskFull, false},
		{"a quota", &os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, contract.ReasonDiskFull, false},
		{"a cancelled context", fmt.Errorf("x: %w", context.Canceled), contract.ReasonInterrupted, false},
		{"the network", fmt.Errorf("x: %w", &net.DNSError{Err: "no such host"}), contract.ReasonSourceUnreachable, false},
		{"a connection that breaks", fmt.Errorf("x: %w", &net.OpError{Op: "read", Err: syscall.ECONNRESET}), contract.ReasonSourceUnreachable, false},
		{"a disk that is read-only", fmt.Errorf("x: %w", &os.PathError{Op: "mkdir", Path: "x", Err: syscall.EROFS}), contract.ReasonDiskReadOnly, false},
		{"a disk that has failed", &os.PathError{Op: "read", Path: "x", Err: syscall.EIO}, contract.ReasonInternal, false},
		{"a backend that this binary has not", fmt.Errorf("x: %w", backend.ErrUnknown), contract.ReasonUsage, true},
		{"no driver", fmt.Errorf("opening backend cuda: %w", backend.ErrNoDevice), contract.ReasonNoDevice, false},
		{"no device behind a wrong specification", failure.Permanent(contract.ReasonUsage, fmt.Errorf("x: %w", backend.ErrNoDevice)), contract.ReasonNoDevice, false},
		{"a cache that does not fit", failure.Permanent(contract.ReasonUsage, fmt.Errorf("x: %w", backend.ErrDeviceMemory)), contract.ReasonDeviceMemory, true},
		{"a shared device that is full now", failure.Transient(contract.ReasonDeviceMemory, backend.ErrDeviceMemory), contract.ReasonDeviceMemory, false},
		{"a container that is too small", fmt.Errorf("x: %w", host.ErrMemory), contract.ReasonHostMemory, true},
		{"a device of before", fmt.Errorf("x: %w", backend.ErrDeviceUnsupported), contract.ReasonDeviceUnsupported, true},
		{"an interruption that leaves no device", errors.Join(context.Canceled, backend.ErrNoDevice), contract.ReasonInterrupted, false},
		{"anything else", cause, contract.ReasonInternal, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			reason, permanent := failure.Of(c.err)
			if reason != c.wantReason || permanent != c.wantPermanent {
				t.Errorf("got %s, permanent %v; want %s, %v", reason, permanent, c.wantReason, c.wantPermanent)
			}
		})
	}
}

func TestOnlyContentIsCalledInvalid(t *testing.T) {
	for _, c := range []struct {
		name        string
		err         error
		wantInvalid bool
	}{
		{"a parse error", errors.New("bad header"), true},
		{"a file that ends too early", fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true},
		{"an I/O error", &os.PathError{Op: "read", Path: "x", Err: syscall.EIO}, false},
		{"a missing file", fs.ErrNotExist, false},
		{"no rights", fs.ErrPermission, false},
		{"an interruption", context.Canceled, false},
		{"a device that is full", fmt.Errorf("uploading: %w", backend.ErrDeviceMemory), false},
		{"what is classified already", failure.Permanent(contract.ReasonUnauthorized, errors.New("x")), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			reason, _ := failure.Of(failure.Content(contract.ReasonInvalidModel, c.err))
			if got := reason == contract.ReasonInvalidModel; got != c.wantInvalid {
				t.Errorf("reason is %s", reason)
			}
		})
	}
	if failure.Content("x", nil) != nil || failure.Permanent("x", nil) != nil || failure.Transient("x", nil) != nil {
		t.Error("no error became one")
	}
}

func TestErrorsOfTheDiskHaveARemedy(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, "enlarge the volume"},
		{fmt.Errorf("x: %w", syscall.EDQUOT), "t2 collect"},
		{failure.Permanent(contract.ReasonInvalidModel, &os.PathError{Op: "open", Path: "x", Err: syscall.EROFS}), "mount the volume writable"},
	} {
		if got := failure.Remedy(c.err); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q does not say %q", c.err, got, c.want)
		}
	}
	for _, err := range []error{nil, errors.New("x"), fs.ErrPermission} {
		if got := failure.Remedy(err); got != "" {
			t.Errorf("%v: %q", err, got)
		}
	}
}
