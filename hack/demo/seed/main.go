// Command seed copies the files of the demo's image onto a volume: it stands in
// for whatever already puts models on a user's PersistentVolumeClaims.
//
// Usage: seed SOURCE DESTINATION. It does nothing when DESTINATION is there,
// and DESTINATION appears whole or not at all.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: seed SOURCE DESTINATION, for example: seed /assets/model /volume/model")
		os.Exit(2)
	}
	if err := seed(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "seed:", err)
		os.Exit(1)
	}
}

func seed(source, destination string) error {
	switch _, err := os.Stat(destination); {
	case err == nil:
		fmt.Println(destination, "is there already")
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking for %s: %w", destination, err)
	}
	staging := destination + ".partial"
	if err := os.RemoveAll(staging); err != nil {
		return fmt.Errorf("removing what an earlier run left: %w", err)
	}
	if err := os.CopyFS(staging, os.DirFS(source)); err != nil {
		return fmt.Errorf("copying %s: %w", source, err)
	}
	if err := os.Rename(staging, destination); err != nil {
		return fmt.Errorf("publishing %s: %w", destination, err)
	}
	fmt.Println("copied", source, "to", destination)
	return nil
}
