package backend

import (
	"fmt"
	"strings"
)

// LibraryUse says what a library of the device's maker computes, in place of a backend's
// own kernels. The zero value leaves it to the backend.
type LibraryUse string

// What a library may be used for.
const (
	// LibraryNever: for nothing.
	LibraryNever LibraryUse = "never"
	// LibraryTraining: of products, for MatMulBackward and Compose. No row of a forward
	// product has other bits for it.
	LibraryTraining LibraryUse = "training"
	// LibraryAlways: for all that it can. Of products that may be what decides an answer:
	// see Capabilities.RowInvariant.
	LibraryAlways LibraryUse = "always"
	// LibraryAuto: where the library is there, for what leaves answers as they are, as
	// LibraryTraining; where it is not, for nothing.
	LibraryAuto LibraryUse = "auto"
)

// LibraryUses lists them.
func LibraryUses() []LibraryUse {
	return []LibraryUse{LibraryNever, LibraryTraining, LibraryAlways, LibraryAuto}
}

// ParseLibraryUse reads one, in any case; an empty text is the zero value. Its error wraps
// ErrLibrary.
func ParseLibraryUse(text string) (LibraryUse, error) {
	if text == "" {
		return "", nil
	}
	var names []string
	for _, u := range LibraryUses() {
		if strings.EqualFold(string(u), text) {
			return u, nil
		}
		names = append(names, string(u))
	}
	return "", fmt.Errorf("%w: %q is none of %s", ErrLibrary, text, strings.Join(names, ", "))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *LibraryUse) UnmarshalText(text []byte) (err error) {
	*u, err = ParseLibraryUse(string(text))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (u LibraryUse) MarshalText() ([]byte, error) { return []byte(u), nil }

// Asked reports whether a library must be there.
func (u LibraryUse) Asked() bool { return u == LibraryTraining || u == LibraryAlways }
