package backend

import "errors"

// Why a device cannot compute, or not this much. A backend wraps one of these
// where it finds out; package failure makes the reason of it that people see.
var (
	// ErrNoDevice says that there is nothing to compute on: no driver, a driver that
	// does not start, or one that has no device for this process.
	ErrNoDevice = errors.New("no device")
	// ErrDeviceMemory says that what is asked for does not fit into the device's
	// memory.
	ErrDeviceMemory = errors.New("too little device memory")
	// ErrDeviceUnsupported says that the device or its driver is older than what
	// this program was built for.
	ErrDeviceUnsupported = errors.New("unsupported device")
)
