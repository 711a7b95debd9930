package kernels

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// Flags are what nvcc is given for a target, beside paths. Nothing that puts a path
// into the PTX is among them, so that it is the same wherever it is made.
func Flags(t Target) []string {
	return []string{"-ptx", "-std=c++17", "-O3", "-arch=" + strings.Replace(t.Arch(), "sm_", "compute_", 1), "--expt-relaxed-constexpr"}
}

var (
	includeLine = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include[ \t]+"([^"]+)"`)
	targetsLine = regexp.MustCompile(`(?m)^// Targets: ([a-z0-9, ]+)\.$`)
)

// SourceTargets returns the targets that a unit's .cu says it is for, in the line
// "// Targets: sm80, sm90a." of its header comment.
func SourceTargets(fsys fs.FS, unit string) ([]Target, error) {
	text, err := fs.ReadFile(fsys, unit+".cu")
	if err != nil {
		return nil, fmt.Errorf("the targets of kernels %s: %w", unit, err)
	}
	line := targetsLine.FindSubmatch(text)
	if line == nil {
		return nil, fmt.Errorf(`%s.cu: no line "// Targets: sm80." in its header comment`, unit)
	}
	var targets []Target
	for name := range strings.SplitSeq(string(line[1]), ", ") {
		t := Target(name)
		if t != SM80 && t != SM90a {
			return nil, fmt.Errorf("%s.cu: the target %q is none of %s, %s", unit, name, SM80, SM90a)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// Sources lists the files that a unit is compiled from: its .cu and what that
// includes of this folder, directly or not, each once, in the order of their
// first mention.
func Sources(fsys fs.FS, unit string) ([]string, error) {
	files := []string{unit + ".cu"}
	for i := 0; i < len(files); i++ {
		text, err := fs.ReadFile(fsys, files[i])
		if err != nil {
			return nil, fmt.Errorf("the sources of kernels %s: %w", unit, err)
		}
		for _, m := range includeLine.FindAllSubmatch(text, -1) {
			if name := string(m[1]); !slices.Contains(files, name) {
				files = append(files, name)
			}
		}
	}
	return files, nil
}

// Digest returns the SHA-256 digest of what determines a unit's PTX for a target:
// the flags, and the names and contents of its sources.
func Digest(fsys fs.FS, unit string, t Target) (string, error) {
	files, err := Sources(fsys, unit)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "nvcc %s\n", strings.Join(Flags(t), " "))
	for _, name := range files {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return "", fmt.Errorf("the digest of kernels %s: %w", unit, err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(text))
		h.Write(text)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
