//go:build cuda

package cumath

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "calls.h"

// The loader's reason is this thread's, so that it is fetched in the same call.
static void *open_library(const char *name, char *why, size_t size) {
	void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) snprintf(why, size, "%s", dlerror());
	return library;
}

static int get_property(void *entry, int property, int *value) { return ((t2_cublasGetProperty)entry)(property, value); }
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"
)

// ErrNotFound is in the errors of opening a library that is not there, or lacks what is
// called. They say what was looked for, and why each is none.
var ErrNotFound = errors.New("not found")

// library is one that was opened. It stays in the process: such libraries have threads.
type library struct {
	title, soname, version string
	entries                map[string]unsafe.Pointer
	statuses               map[int]string
}

// wanted is what to look for.
type wanted struct {
	title    string
	sonames  []string // Newest first.
	entries  []string
	property string // The entry that tells the version.
	statuses map[int]string
}

// open opens the first library that is there and has every entry.
func open(w wanted) (*library, error) {
	var reasons []string
	for _, soname := range w.sonames {
		l, why := w.try(soname)
		if why == "" {
			return l, nil
		}
		if !strings.Contains(why, soname) {
			why = soname + ": " + why
		}
		reasons = append(reasons, why)
	}
	return nil, fmt.Errorf("%s: %w: %s", w.title, ErrNotFound, strings.Join(reasons, "; "))
}

// try opens a library, or says why it is none.
func (w wanted) try(soname string) (_ *library, why string) {
	name := C.CString(soname)
	defer C.free(unsafe.Pointer(name))
	var reason [512]C.char
	opened := C.open_library(name, &reason[0], C.size_t(len(reason)))
	if opened == nil {
		return nil, C.GoString(&reason[0])
	}
	l := &library{title: w.title, soname: soname, entries: map[string]unsafe.Pointer{}, statuses: w.statuses}
	for _, entry := range w.entries {
		symbol := C.CString(entry)
		at := C.dlsym(opened, symbol)
		C.free(unsafe.Pointer(symbol))
		if at == nil {
			return nil, "it has no " + entry
		}
		l.entries[entry] = at
	}
	var version [3]C.int
	for i, property := range []C.int{C.t2_major_version, C.t2_minor_version, C.t2_patch_level} {
		if err := l.outcome(w.property, C.get_property(l.entries[w.property], property, &version[i])); err != nil {
			return nil, err.Error()
		}
	}
	l.version = fmt.Sprintf("%d.%d.%d", version[0], version[1], version[2])
	return l, ""
}

// String names the library with its version and file: "cuBLAS 12.4.5 (libcublas.so.12)".
func (l *library) String() string { return fmt.Sprintf("%s %s (%s)", l.title, l.version, l.soname) }

// Kind is what somebody can do about a status.
type Kind int

// Kinds of statuses.
const (
	// Other: nothing but to report it.
	Other Kind = iota
	// Memory: the device has too little.
	Memory
	// Lost: a kernel failed, and the context with it.
	Lost
	// Unsupported: the library does not know the device.
	Unsupported
)

// StatusError is a status of a library that is none of success.
type StatusError struct {
	// Library names it with its version, Call the entry, Status what it gave.
	Library, Call, Status string
	Kind                  Kind
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("%s of %s: %s", e.Call, e.Library, e.Status) }

func (l *library) outcome(call string, status C.int) error {
	if status == 0 {
		return nil
	}
	name, known := l.statuses[int(status)]
	if !known {
		name = fmt.Sprintf("status %d", status)
	}
	e := &StatusError{Library: l.title + " (" + l.soname + ")", Call: call, Status: name}
	switch {
	case strings.HasSuffix(name, "_ALLOC_FAILED"):
		e.Kind = Memory
	case strings.HasSuffix(name, "_EXECUTION_FAILED"):
		e.Kind = Lost
	case strings.HasSuffix(name, "_ARCH_MISMATCH"):
		e.Kind = Unsupported
	}
	return e
}
