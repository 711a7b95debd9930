// Package kernels carries the project's CUDA kernels as PTX, compiled from the .cu
// files beside it by `make kernels`, and says how each is launched. It imports
// nothing but the standard library and needs no GPU: what loads and launches the
// PTX is runtime/backend/cuda.
package kernels

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed ptx/*.ptx
var files embed.FS

// Folder is where the PTX lies in the package's folder.
const Folder = "ptx"

// Target is what PTX was compiled for, as it stands in its file's name.
type Target string

// The targets.
const (
	// SM80 runs on Ampere and on everything after it.
	SM80 Target = "sm80"
	// SM90a uses what only Hopper has, and runs on nothing else.
	SM90a Target = "sm90a"
)

// Arch returns the target as nvcc and ptxas name it: "sm_80".
func (t Target) Arch() string { return "sm_" + strings.TrimPrefix(string(t), "sm") }

// Capability is a device's compute capability: 9.0 is {9, 0}.
type Capability struct{ Major, Minor int }

// String returns the capability as NVIDIA writes it.
func (c Capability) String() string { return fmt.Sprintf("%d.%d", c.Major, c.Minor) }

// ErrUnsupportedDevice is wrapped where no PTX runs on a device.
var ErrUnsupportedDevice = errors.New("the device is too old")

// Targets returns the targets that run on a device, the best first.
func (c Capability) Targets() []Target {
	switch {
	case c == Capability{9, 0}:
		return []Target{SM90a, SM80}
	case c.Major >= 8:
		return []Target{SM80}
	default:
		return nil
	}
}

// Module is the PTX of one unit: a .cu file and what it includes.
type Module struct {
	// Unit is the .cu file's name without its ending.
	Unit string
	// Target is what the PTX was compiled for.
	Target Target
	// Text is the PTX, without a zero byte at its end.
	Text string
}

// Load returns the PTX of a unit that suits a device best. The error wraps
// ErrUnsupportedDevice where none does, and fs.ErrNotExist where there is no such
// unit; a PTX file that was changed after it was made is an error, too.
func Load(unit string, c Capability) (Module, error) {
	return load(files, unit, c)
}

func load(fsys fs.FS, unit string, c Capability) (Module, error) {
	targets := c.Targets()
	if len(targets) == 0 {
		return Module{}, fmt.Errorf("kernels %s: %w: its compute capability is %s, and the kernels need 8.0 (Ampere) or newer", unit, ErrUnsupportedDevice, c)
	}
	for _, target := range targets {
		file := FileName(unit, target)
		text, err := fs.ReadFile(fsys, path.Join(Folder, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Module{}, fmt.Errorf("kernels %s: %w", unit, err)
		}
		if _, err := ParseHeader(string(text)); err != nil {
			return Module{}, fmt.Errorf("kernels %s: %s: %w", unit, file, err)
		}
		return Module{Unit: unit, Target: target, Text: string(text)}, nil
	}
	return Module{}, fmt.Errorf("kernels %s: no PTX of this name for any of %v: %w", unit, targets, fs.ErrNotExist)
}

// Units lists the units in alphabetical order.
func Units() []string {
	var units []string
	for _, k := range table {
		if !slices.Contains(units, k.Unit) {
			units = append(units, k.Unit)
		}
	}
	slices.Sort(units)
	return units
}

// Units lists the units that have a kernel for a device, in alphabetical order.
func (c Capability) Units() []string {
	targets := c.Targets()
	return slices.DeleteFunc(Units(), func(unit string) bool {
		return !slices.ContainsFunc(table, func(k Kernel) bool { return k.Unit == unit && slices.ContainsFunc(targets, k.In) })
	})
}

// FileName is the name of the PTX of a unit for a target.
func FileName(unit string, target Target) string { return unit + "." + string(target) + ".ptx" }

// Header is what the first lines of a PTX file say of it.
type Header struct {
	// Sources is the digest of the sources and flags that it was made from, as
	// Digest returns it.
	Sources string
	// Text is the digest of all that follows the header.
	Text string
}

const (
	headerNote    = "// Made by `make kernels`; do not edit."
	headerSources = "// sources "
	headerText    = "// text "
)

// WithHeader returns the text of a PTX file: a header, and what nvcc made of
// sources with this digest.
func WithHeader(sources, text string) string {
	return fmt.Sprintf("%s\n%s%s\n%s%s\n%s", headerNote, headerSources, sources, headerText, digest(text), text)
}

// ParseHeader reads the header of a PTX file and checks that the text is the one
// that the header was made for.
func ParseHeader(ptx string) (Header, error) {
	var h Header
	rest := ptx
	for _, part := range []struct {
		prefix string
		value  *string
	}{{headerNote, nil}, {headerSources, &h.Sources}, {headerText, &h.Text}} {
		line, after, found := strings.Cut(rest, "\n")
		value, has := strings.CutPrefix(line, part.prefix)
		if !found || !has {
			return Header{}, fmt.Errorf("the header that make kernels writes is damaged: no line that begins with %q where it should be", strings.TrimSpace(part.prefix))
		}
		if part.value != nil {
			*part.value = value
		}
		rest = after
	}
	if got := digest(rest); got != h.Text {
		return Header{}, fmt.Errorf("the text was changed after make kernels wrote it: its digest is %s, the header says %s", got, h.Text)
	}
	return h, nil
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}
