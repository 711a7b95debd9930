//go:build !linux

package judge

import (
	"errors"
	"syscall"
)

// order is what a worker is told; there are none but on Linux.
type order struct {
	Python     Python
	Limits     Limits
	Namespaces bool
	Landlock   int
	Forbidden  string
}

var namespaceNames []string

func inNamespaces(*syscall.SysProcAttr) {}

func landlockVersion() int { return 0 }

// Confine refuses: programs are confined by what only Linux has.
func Confine([]string) error {
	return errors.New("programs can be run on Linux only")
}
