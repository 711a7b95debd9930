package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const pidSuffix = ".pid"

// Remember writes the pid file of process p under name. Its start time goes with it, because the kernel reuses PIDs.
func Remember(dir, name string, p Info) error {
	path := filepath.Join(dir, name+pidSuffix)
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d %d\n", p.PID, p.Started), 0o600); err != nil {
		return fmt.Errorf("writing the pid file of %s: %w", name, err)
	}
	return nil
}

// Remembered is what a pid file says.
type Remembered struct {
	Name    string
	PID     int
	Started uint64
}

// Running returns the process if it is still the one that was remembered.
func (r Remembered) Running() (Info, bool) {
	info, err := Read(r.PID)
	if err != nil || info.Started != r.Started || info.Zombie {
		return Info{}, false
	}
	return info, true
}

// Recall reads the pid files of dir, by name. A file that was cut short by a crash is left out: the process is then
// found by what it runs. A missing folder means no pid files.
func Recall(dir string) ([]Remembered, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading pid files: %w", err)
	}
	var all []Remembered
	for _, entry := range entries {
		name, isPID := strings.CutSuffix(entry.Name(), pidSuffix)
		if !isPID {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading a pid file: %w", err)
		}
		r := Remembered{Name: name}
		if n, err := fmt.Sscanf(string(text), "%d %d\n", &r.PID, &r.Started); err != nil || n != 2 || r.PID < 2 {
			continue
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Remembered) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
