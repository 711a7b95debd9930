// Package mounts reads the table of mounts.
package mounts

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Mount is one line of the table.
type Mount struct {
	// Point is where it is mounted.
	Point string
	// Type is the file system: ext4, cgroup2, …
	Type string
	// Super are the options of the file system, such as the controllers of a cgroup hierarchy.
	Super []string
}

// Table reads the mounts that this process sees, in the order they were made.
func Table() ([]Mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the table of mounts: %w", err)
	}
	return Parse(string(text))
}

// Parse reads the text of a mountinfo file.
func Parse(text string) ([]Mount, error) {
	var table []Mount
	for line := range strings.Lines(text) {
		// 36 35 98:0 /root /point options optional… - type source super-options
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 3 {
			return nil, fmt.Errorf("mountinfo line %q: not in the kernel's format", line)
		}
		table = append(table, Mount{Point: unescape(left[4]), Type: right[0], Super: strings.Split(right[2], ",")})
	}
	return table, nil
}

// Below returns the mount points at or below dir, so ordered that each can be unmounted when its turn comes.
func Below(table []Mount, dir string) []string {
	var points []string
	for _, m := range table {
		if m.Point == dir || strings.HasPrefix(m.Point, dir+"/") {
			points = append(points, m.Point)
		}
	}
	slices.Reverse(points) // what was mounted last lies on top
	return points
}

// unescape undoes the kernel's octal writing of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
