// Package faults damages files, one bit at a time, and judges what a reader makes of them: what
// was written, or an error that names the file and says what to do. Never a panic, and never
// another value, unless nothing knows what the file should be.
package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Reader reads a file that is damaged.
type Reader struct {
	// Path of the file.
	Path string
	// Read reads it, and returns all that it found.
	Read func() (any, error)
	// Remedies are phrases of which each error must have one: what to do.
	Remedies []string
	// Blind says that nothing knows what the file should be: another value is no surprise.
	Blind bool
}

// Found counts what came of the damages.
type Found struct {
	// Errors are those that were found, Same those that change nothing that is read, and Other
	// those by which something else was read, without anybody noticing.
	Errors, Same, Other int
}

// Damage flips n bits of the file, one after the other at places that seed decides, and cuts it
// short at a quarter as many. The file is put back.
func (r Reader) Damage(t *testing.T, n int, seed uint64) Found {
	t.Helper()
	whole, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole) == 0 {
		t.Fatalf("%s is empty: damaging it would show nothing", r.Path)
	}
	want, err := r.read(t, "nothing")
	if err != nil {
		t.Fatalf("as it was written: %v", err)
	}
	defer func() { write(t, r.Path, whole) }()
	var found Found
	rng := rand.New(rand.NewPCG(seed, uint64(len(whole)))) //nolint:gosec // The same places each time.
	try := func(what string, damaged []byte) {
		write(t, r.Path, damaged)
		found.add(r.judge(t, what, want))
	}
	for range n {
		bit := rng.IntN(8 * len(whole))
		flipped := bytes.Clone(whole)
		flipped[bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of byte %d", bit%8, bit/8), flipped)
	}
	short := []int{0, 1, len(whole) - 1}
	for range n / 4 {
		short = append(short, rng.IntN(len(whole)))
	}
	for _, length := range short {
		try(fmt.Sprintf("cut to %d of %d bytes", length, len(whole)), whole[:length])
	}
	if found.Errors == 0 {
		t.Errorf("none of %d damages of %s was found", n+len(short), r.Path)
	}
	return found
}

type verdict int

const (
	isError verdict = iota
	isSame
	isOther
)

func (f *Found) add(v verdict) {
	switch v {
	case isError:
		f.Errors++
	case isSame:
		f.Same++
	case isOther:
		f.Other++
	}
}

// judge reads the file, and fails the test where that is not as it should be.
func (r Reader) judge(t *testing.T, what string, want any) verdict {
	t.Helper()
	got, err := r.read(t, what)
	switch {
	case err != nil:
		text := err.Error()
		if !strings.Contains(text, filepath.Base(r.Path)) && !strings.Contains(text, filepath.Dir(r.Path)) {
			t.Errorf("%s of %s: the error does not name it: %s", what, filepath.Base(r.Path), text)
		}
		if !slices.ContainsFunc(r.Remedies, func(phrase string) bool { return strings.Contains(text, phrase) }) {
			t.Errorf("%s of %s: the error does not say what to do: %s", what, filepath.Base(r.Path), text)
		}
		return isError
	case reflect.DeepEqual(got, want):
		return isSame
	case !r.Blind:
		t.Errorf("%s of %s: another value was read, and nobody noticed", what, filepath.Base(r.Path))
	}
	return isOther
}

// read calls Read; a panic is the test's failure.
func (r Reader) read(t *testing.T, what string) (v any, err error) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			t.Errorf("%s of %s: a panic: %v", what, r.Path, p)
		}
	}()
	return r.Read()
}

// write replaces the file, whose mapping in memory a reader may still have. The folder may have
// been removed by one that found it damaged.
func write(t *testing.T, path string, content []byte) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, content, 0o600); errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the folder of %s was removed by its reader", path)
	} else if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}
