// Package failure classifies errors by what happens next: which reason the
// operator shows, and whether trying again can help.
//
// Runtime code wraps an error once, where its cause is known, with Permanent
// or Transient; the edge (a subcommand) asks Of. Errors that nobody classified
// are judged by what the operating system or the network said.
package failure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/host"
)

// Error is an error with a contract reason.
type Error struct {
	// Reason is one of contract's Reason constants.
	Reason string
	// Permanent says that the same attempt would fail again until somebody
	// changes the object or its inputs.
	Permanent bool
	// Err is the cause; its text names the thing, the place and the remedy.
	Err error
}

// Error returns the text of the cause; the reason travels beside it.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent classifies err as one that trying again cannot cure. A nil err
// stays nil.
func Permanent(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Reason: reason, Permanent: true, Err: err}
}

// Permanentf is Permanent of fmt.Errorf(format, args...).
func Permanentf(reason, format string, args ...any) error {
	return Permanent(reason, fmt.Errorf(format, args...))
}

// Transient classifies err as one that may pass by itself. A nil err stays nil.
func Transient(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Reason: reason, Err: err}
}

// Transientf is Transient of fmt.Errorf(format, args...).
func Transientf(reason, format string, args ...any) error {
	return Transient(reason, fmt.Errorf(format, args...))
}

// Of returns the reason of err and whether it is permanent. A disk that is full or
// read-only, an interruption and what a device lacks are recognised wherever they hide, because
// code that reports "this file is invalid" may only have seen its tail missing for
// that reason.
func Of(err error) (reason string, permanent bool) {
	if err == nil {
		return "", false
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return contract.ReasonDiskFull, false
	}
	if errors.Is(err, syscall.EROFS) {
		return contract.ReasonDiskReadOnly, false
	}
	if errors.Is(err, context.Canceled) {
		return contract.ReasonInterrupted, false
	}
	classified, isClassified := errors.AsType[*Error](err)
	if reason, permanent = device(err); reason != "" {
		// Who knows that the device is shared, say, may know better.
		if isClassified && classified.Reason == reason {
			permanent = classified.Permanent
		}
		return reason, permanent
	}
	if isClassified {
		return classified.Reason, classified.Permanent
	}
	// The system's own numbers have the methods of an error of the network: one that is of no
	// connection is of a disk.
	if network, ok := errors.AsType[net.Error](err); ok {
		if _, number := network.(syscall.Errno); !number {
			return contract.ReasonSourceUnreachable, false
		}
	}
	return contract.ReasonInternal, false
}

// device is the reason of an error about what computes, and whether it is
// permanent: another node may have a device, while what does not fit into one, or is
// too new for it, stays so until somebody chooses another. Empty for other errors.
func device(err error) (reason string, permanent bool) {
	switch {
	case errors.Is(err, backend.ErrUnknown), errors.Is(err, backend.ErrLibrary):
		return contract.ReasonUsage, true
	case errors.Is(err, backend.ErrNoDevice):
		return contract.ReasonNoDevice, false
	case errors.Is(err, backend.ErrDeviceMemory):
		return contract.ReasonDeviceMemory, true
	case errors.Is(err, host.ErrMemory):
		return contract.ReasonHostMemory, true
	case errors.Is(err, backend.ErrDeviceUnsupported):
		return contract.ReasonDeviceUnsupported, true
	}
	return "", false
}

// System reports whether err is the machine's fault (I/O, memory, rights, a
// device, a missing file, cancellation) and says nothing about the content that was
// being read. Parsers use it to classify as invalid only what is invalid.
func System(err error) bool {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return false
	}
	_, isErrno := errors.AsType[syscall.Errno](err)
	reason, _ := device(err)
	return isErrno || reason != "" || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// Content classifies err as permanent with this reason, unless it is already
// classified or is the machine's fault (see System), which it returns as it is.
func Content(reason string, err error) error {
	if _, classified := errors.AsType[*Error](err); err == nil || classified || System(err) {
		return err
	}
	return Permanent(reason, err)
}

// Remedy says what to do about an error of the disk, of which code that only wanted to write
// says the path and no more; empty for others.
func Remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "enlarge the volume, or remove from it what nothing needs (t2 collect); what has been done is kept, and goes on then"
	case errors.Is(err, syscall.EROFS):
		return "mount the volume writable; a node mounts one read-only whose disk has failed"
	}
	return ""
}
