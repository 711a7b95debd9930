// Command kubectl-t2 is a plugin of kubectl: `kubectl t2 status` and so on. It shows what
// the operator does, asks policies, and finds what would fail before it fails. It has the
// rights of whoever runs it, and none of its own.
package main

import (
	"os"

	"github.com/transformersquared/operator/controllers/kubectl-t2/plugin"
)

func main() {
	os.Exit(plugin.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
