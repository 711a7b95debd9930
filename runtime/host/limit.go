// Package host says what the machine lets this process have.
package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// ErrMemory says that the process may have too little memory for what is asked of it.
var ErrMemory = errors.New("too little memory")

// Limit is how much memory the process may have.
type Limit struct {
	// Bytes are 0 where it is not known.
	Bytes int64
	// Source says where that is from, for people.
	Source string
	// Own says that the memory is for this process, by a container's limit or as somebody
	// said, and not shared with whatever else runs on the machine.
	Own bool
}

// MemoryLimit returns the smallest limit of the control groups that the process is in, by
// either version of them, or what the machine has.
func MemoryLimit() Limit { return memoryLimit(os.DirFS("/")) }

func memoryLimit(root fs.FS) Limit {
	machine := physical(root)
	least := Limit{Bytes: machine, Source: "the machine's memory"}
	for _, g := range memoryGroups(root) {
		for dir := g.dir; ; dir = path.Dir(dir) {
			n, limited := readLimit(root, path.Join(dir, g.file))
			if limited && (least.Bytes == 0 || n < least.Bytes) {
				least = Limit{Bytes: n, Source: "the limit in /" + path.Join(dir, g.file), Own: true}
			}
			if dir == g.top || dir == "." {
				break
			}
		}
	}
	if least.Bytes == 0 {
		least.Source = "not known"
	}
	return least
}

// group is a control group's folder, the one where its hierarchy is mounted, and the name of
// the file with its limit.
type group struct {
	dir, top, file string
}

// memoryGroups returns the process' own groups that count memory.
func memoryGroups(root fs.FS) []group {
	var groups []group
	for line := range lines(root, "proc/self/cgroup") {
		// hierarchy:controllers:path
		const parts = 3
		fields := strings.SplitN(line, ":", parts)
		if len(fields) != parts {
			continue
		}
		kind, option, file := "cgroup", "memory", "memory.limit_in_bytes"
		switch {
		case fields[0] == "0" && fields[1] == "":
			kind, option, file = "cgroup2", "", "memory.max"
		case !strings.Contains(","+fields[1]+",", ",memory,"):
			continue
		}
		if top, mounted, ok := mountOf(root, kind, option); ok {
			groups = append(groups, group{dir: path.Join(top, below(fields[2], mounted)), top: top, file: file})
		}
	}
	return groups
}

// below is a group's path seen from where a part of its hierarchy is mounted. In a container
// that part is often the group itself; a group outside of it is as the top of it.
func below(group, mounted string) string {
	rest, inside := strings.CutPrefix(path.Clean(group), strings.TrimSuffix(mounted, "/"))
	if !inside || strings.HasPrefix(path.Clean(group), "/..") || rest != "" && rest[0] != '/' {
		return ""
	}
	return rest
}

// mountOf returns where a hierarchy is mounted, and which of its folders is.
func mountOf(root fs.FS, kind, option string) (top, mounted string, ok bool) {
	for line := range lines(root, "proc/self/mountinfo") {
		// id parent device root mount-point options… - type source super-options
		before, after, found := strings.Cut(line, " - ")
		at, of := strings.Fields(before), strings.Fields(after)
		if !found || len(at) < 5 || len(of) < 3 || of[0] != kind {
			continue
		}
		if option != "" && !strings.Contains(","+of[2]+",", ","+option+",") {
			continue
		}
		return strings.TrimPrefix(unescape(at[4]), "/"), unescape(at[3]), true
	}
	return "", "", false
}

// unescape replaces what mountinfo writes for blanks and the like.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// readLimit reads a limit; that there is none is written as max, or as a number near the
// largest.
func readLimit(root fs.FS, name string) (bytes int64, limited bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil && n > 0 && n < math.MaxInt64/2
}

// physical is what the machine has, 0 where that is not known.
func physical(root fs.FS) int64 {
	for line := range lines(root, "proc/meminfo") {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	return 0
}

// lines yields the lines of a file, none where it cannot be read: other systems have none of
// these files.
func lines(root fs.FS, name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return
		}
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			if !yield(s.Text()) {
				return
			}
		}
	}
}
