package cpu

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What was measured is kept in the user's cache folder, where there is one: a file for each
// processor, list of paths and kernelsVersion. It appears whole, and the first one stays.
// In a pod without a home, or with a root that is read-only, it is measured at each start.

const (
	// kernelsVersion changes with how fast paths are, beside each other.
	kernelsVersion = "1"

	keptFolder = "t2" // In the user's cache.
	maxKept    = 64 << 10
)

// errNotKept: nothing can be kept here.
var errNotKept = errors.New("no place for what was measured")

// keptKey says of what something was measured.
type keptKey struct {
	Kernels   string   `json:"kernels"`
	Processor string   `json:"processor"`
	Paths     []string `json:"paths"`
}

func newKeptKey(processor string, paths []*kernels) keptKey {
	key := keptKey{Kernels: kernelsVersion, Processor: processor}
	for _, k := range paths {
		key.Paths = append(key.Paths, k.name)
	}
	return key
}

// keptTimes is the file's content.
type keptTimes struct {
	keptKey
	Chosen   string      `json:"chosen"`
	Measured []pathTimes `json:"measured"`
}

// kept is a file of measured times.
type kept struct {
	folder string
	key    keptKey
}

// path is the file's name: another for each key.
func (k kept) path() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", k.key))
	return filepath.Join(k.folder, "cpu-path-"+hex.EncodeToString(sum[:8])+".json")
}

// read returns the times, of the key's paths in their order. A file that says something
// else, or something that does not follow from it, is an error.
func (k kept) read() ([]pathTimes, error) {
	if k.folder == "" || k.key.Processor == "" {
		return nil, errNotKept
	}
	f, err := os.OpenFile(k.path(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	b, err := io.ReadAll(io.LimitReader(f, maxKept))
	if err != nil {
		return nil, err
	}
	var t keptTimes
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, err
	}
	return t.Measured, t.check(k.key)
}

// check refuses what was not measured of the key's paths.
func (t keptTimes) check(key keptKey) error {
	if fmt.Sprintf("%q", t.keptKey) != fmt.Sprintf("%q", key) || len(t.Measured) != len(key.Paths) {
		return errors.New("it is of another processor, or of other paths")
	}
	for i, m := range t.Measured {
		if m.Path != key.Paths[i] {
			return fmt.Errorf("path %d is %q, want %q", i, m.Path, key.Paths[i])
		}
		for _, s := range m.Turns {
			if !(s.Many > 0) || !(s.One > 0) {
				return fmt.Errorf("path %s took no time", m.Path)
			}
		}
	}
	if is := key.Paths[fastest(t.Measured)]; t.Chosen != is {
		return fmt.Errorf("it chooses %q; its times, %s", t.Chosen, is)
	}
	return nil
}

// write keeps times, and returns those that are kept then: another process' where that was
// first. What is damaged is replaced.
func (k kept) write(times []pathTimes, damaged bool) ([]pathTimes, error) {
	if k.folder == "" || k.key.Processor == "" {
		return nil, errNotKept
	}
	b, err := json.MarshalIndent(keptTimes{keptKey: k.key, Chosen: k.key.Paths[fastest(times)], Measured: times}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(k.folder, 0o750); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(k.folder, tempPrefix+"*")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		if damaged {
			err = os.Rename(f.Name(), k.path())
		} else {
			err = os.Link(f.Name(), k.path())
		}
	}
	if removed := os.Remove(f.Name()); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return k.read()
}
