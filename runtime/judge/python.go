package judge

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNoPython wraps that there is no interpreter that could run programs.
var ErrNoPython = errors.New("the reward UnitTests runs Python programs, and there is no python3 of version 3.10 or newer " +
	"with its standard library: apt-get install python3-minimal libpython3-stdlib (or name one by T2_PYTHON)")

// EnvPython names the environment variable with the interpreter to use.
const EnvPython = "T2_PYTHON"

// Python is an interpreter and what of the file system it needs.
type Python struct {
	// Executable is the interpreter itself, not a link or script that leads to it.
	Executable string `json:"executable"`
	// Loader is the dynamic loader that the kernel starts it by; "" is none.
	Loader string `json:"loader"`
	// Folders hold the standard library and the shared libraries.
	Folders []string `json:"folders"`
	Version string   `json:"version"`
}

// inquiry asks an interpreter for what it is and what it needs: where its
// standard library is, and from where its modules load shared libraries. It
// fails where a module is missing that the driver needs.
const inquiry = `
import os, sys, json
if sys.version_info < (3, 10): sys.exit("it is Python " + sys.version.split()[0])
import sysconfig, ctypes, hashlib, zlib, resource, socket, cmath, bisect, heapq, decimal, typing
folders = {os.path.realpath(sysconfig.get_path(p)) for p in ("stdlib", "platstdlib")}
with open("/proc/self/maps") as f:
    for line in f:
        file = line.rstrip().partition("/")
        if ".so" in file[2]: folders.add(os.path.dirname(os.path.realpath("/" + file[2])))
executable = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
print(json.dumps({"executable": executable, "folders": sorted(folders), "version": sys.version.split()[0]}))
`

// inquiryTime bounds the inquiry; a loaded machine may take long to start a
// process.
const inquiryTime = 30 * time.Second

// FindPython finds the interpreter: named (a name or a path), or else python3
// on the path, or else /usr/bin/python3.
func FindPython(ctx context.Context, named string) (Python, error) {
	candidates := []string{named}
	if named == "" {
		candidates = []string{"python3", "/usr/bin/python3", "/usr/local/bin/python3"}
	}
	var errs []error
	for _, candidate := range candidates {
		file, err := exec.LookPath(candidate)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		python, err := inquire(ctx, file)
		if err == nil {
			return python, nil
		}
		errs = append(errs, err)
	}
	return Python{}, fmt.Errorf("%w: %w", ErrNoPython, errors.Join(errs...))
}

// inquire runs the interpreter on a program of our own.
func inquire(ctx context.Context, file string) (Python, error) {
	ctx, cancel := context.WithTimeout(ctx, inquiryTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, "-I", "-S", "-B", "-c", inquiry)
	cmd.Dir = "/"
	said := &head{limit: maxComplaintBytes}
	cmd.Stderr = said
	out, err := cmd.Output()
	if err != nil {
		return Python{}, fmt.Errorf("%s: %w: %s", file, err, lastLine(said.String()))
	}
	var p Python
	if err := json.Unmarshal(out, &p); err != nil {
		return Python{}, fmt.Errorf("%s does not say what it is: %w", file, err)
	}
	if !filepath.IsAbs(p.Executable) || slices.Contains(p.Folders, "/") {
		return Python{}, fmt.Errorf("%s says that it is %q with %q", file, p.Executable, p.Folders)
	}
	if p.Loader, err = loader(p.Executable); err != nil {
		return Python{}, err
	}
	return p, nil
}

// loader returns the dynamic loader that an executable names, links resolved.
func loader(executable string) (string, error) {
	f, err := elf.Open(executable)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", executable, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	for _, program := range f.Progs {
		if program.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(program.Open(), 4096))
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", executable, err)
		}
		return strings.TrimRight(string(name), "\x00"), nil
	}
	return "", nil
}

// loaderCache tells the dynamic loader where libraries are.
const loaderCache = "/etc/ld.so.cache"

// files are the single files that the interpreter needs.
func (p Python) files() []string {
	files := []string{p.Executable}
	if p.Loader != "" {
		files = append(files, p.Loader)
	}
	if _, err := os.Stat(loaderCache); err == nil {
		files = append(files, loaderCache)
	}
	return files
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
