// Package torch reads files that PyTorch's torch.save wrote: a zip archive of a
// pickle and of the raw data of tensors.
//
// A pickle is a program. Python runs it, and it may call anything that can be
// imported; this package runs none. It follows the few instructions that dicts of
// tensors are made of, knows the handful of names that such a pickle refers to, and
// refuses every other instruction or name. Nothing is called, imported or looked up;
// what is allocated is bounded by the size of the file.
package torch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/transformersquared/operator/runtime/tensor"
)

// MaxBytes bounds a file, and the numbers in it once they are float32. The expert
// vectors and adapters that people exchange have some megabytes.
const MaxBytes = 1 << 30

// Named is a tensor of a dict that was saved, under its key.
type Named struct {
	Name string
	// DType is how the file stores it; F32 where the file has binary64, which is
	// rounded.
	DType tensor.DType
	// Tensor holds its values as float32. They may be NaN or infinite.
	Tensor *tensor.Tensor
}

// Open reads a file that holds one dict of tensors, such as a module's state_dict,
// and returns them in the dict's order.
func Open(path string) (tensors []Named, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening PyTorch file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening PyTorch file: %w", err)
	}
	if !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return Read(f, stat.Size(), path)
}

// Read is Open for size bytes that are somewhere else; name is what errors call them.
func Read(r io.ReaderAt, size int64, name string) ([]Named, error) {
	tensors, err := read(r, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return tensors, nil
}

func read(r io.ReaderAt, size int64) ([]Named, error) {
	if size > MaxBytes {
		return nil, fmt.Errorf("has %d bytes, at most %d are read", size, int64(MaxBytes))
	}
	if err := checkForm(r, size); err != nil {
		return nil, err
	}
	a, err := openArchive(r, size)
	if err != nil {
		return nil, err
	}
	program, err := a.program()
	if err != nil {
		return nil, err
	}
	root, err := unpickle(program, a.storage)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pickleEntry, err)
	}
	d, ok := root.(*dict)
	if !ok {
		return nil, fmt.Errorf("holds %s, where a dict of tensors should be", kind(root))
	}
	return a.tensors(d)
}

// tensors reads the data of a dict of tensors.
func (a *archive) tensors(d *dict) ([]Named, error) {
	named := make([]Named, 0, len(d.keys))
	budget := int64(MaxBytes)
	for i, key := range d.keys {
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("key %v of the dict is no string: it is no dict of named tensors", key)
		}
		v, ok := d.values[i].(*view)
		if !ok {
			return nil, fmt.Errorf("%q is %s, where a tensor should be", name, kind(d.values[i]))
		}
		if budget -= v.elements * 4; budget < 0 {
			return nil, fmt.Errorf("its tensors have more than %d bytes as float32", int64(MaxBytes))
		}
		t, err := a.load(v)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		dtype := v.storage.dtype
		if dtype == f64 {
			dtype = tensor.F32
		}
		named = append(named, Named{Name: name, DType: dtype, Tensor: t})
	}
	return named, nil
}

var (
	zipMagic = []byte("PK\x03\x04")
	// legacyMagic begins what torch.save wrote before version 1.6, and still does if
	// it is asked to: a pickle of the number 0x1950a86a20f9469cfc6c.
	legacyMagic = []byte("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
	tarMagic    = []byte("ustar")
	tarMagicAt  = 257
)

// HeadBytes is how much of a file Saved looks at.
const HeadBytes = 512

// Saved reports whether a file that begins with head was written by some version of
// torch.save, though it may be one that Read refuses with a reason. head should have
// HeadBytes, if the file has so many.
func Saved(head []byte) bool {
	return bytes.HasPrefix(head, zipMagic) || legacy(head) != ""
}

// legacy names the older format that a file has, or is empty.
func legacy(head []byte) string {
	switch {
	case bytes.HasPrefix(head, legacyMagic):
		return "PyTorch's format before 1.6"
	case len(head) > tarMagicAt && bytes.HasPrefix(head[tarMagicAt:], tarMagic):
		return "a tar archive, PyTorch's format before 0.1.10"
	default:
		return ""
	}
}

func checkForm(r io.ReaderAt, size int64) error {
	head := make([]byte, min(size, HeadBytes))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading: %w", err)
	}
	switch old := legacy(head); {
	case old != "":
		return fmt.Errorf("is %s, which is not read: load it with a newer PyTorch and torch.save it again", old)
	case !bytes.HasPrefix(head, zipMagic):
		return errors.New("does not begin as a zip archive does: torch.save did not write it")
	}
	return nil
}
