// Command release makes the parts of a release that the go command, Helm and
// t2cluster do not: images of several platforms, archives that are the same
// whenever they are made, bills of materials, provenance, Krew's manifest,
// checksums. hack/release.sh calls it; nothing it writes depends on the time or
// on where the tree lies.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// errUsage wraps what is wrong with a command line.
var errUsage = errors.New("wrong usage")

// command is one part of a release. It adds its flags and returns what runs with
// the arguments that are left.
type command struct {
	name, args, summary string
	prepare             func(*flag.FlagSet) func([]string) error
}

func commands() []command {
	return []command{
		{"index", " PLATFORM=TARBALL...", "Join images of one platform each into an OCI layout, as a tarball, and print its digest.", indexCommand},
		{"archive", " FILE...", "Pack files into a .tar.gz that is the same whenever it is made.", archiveCommand},
		{"repack", " ARCHIVE", "Pack a .tgz anew without its times and owners.", repackCommand},
		{"sbom", " BINARY", "Write a CycloneDX bill of a Go program's modules, as they are in it.", sbomCommand},
		{"krew", " PLATFORM=ARCHIVE...", "Write the manifest by which Krew installs kubectl t2.", krewCommand},
		{"sums", " FOLDER", "Write FOLDER/SHA256SUMS.", sumsCommand},
		{"provenance", " FOLDER", "Write FOLDER/provenance.intoto.json, about what FOLDER/SHA256SUMS names.", provenanceCommand},
		{"predicate", " FOLDER", "Write what FOLDER/provenance.intoto.json says, without of what.", predicateCommand},
	}
}

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	all := commands()
	if len(args) == 0 {
		for _, c := range all {
			fmt.Fprintf(os.Stderr, "release %s [FLAG...]%s\n\t%s\n", c.name, c.args, c.summary)
		}
		return fmt.Errorf("%w: name one of these", errUsage)
	}
	at := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	if at < 0 {
		return fmt.Errorf("%w: there is no %q", errUsage, args[0])
	}
	flags := flag.NewFlagSet("release "+args[0], flag.ContinueOnError)
	do := all[at].prepare(flags)
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return do(flags.Args())
}

// platform is where a program runs, such as linux/arm64, and its file.
type platform struct{ os, arch, file string }

// platforms reads OS/ARCH=FILE.
func platforms(args []string) ([]platform, error) {
	var all []platform
	for _, arg := range args {
		name, file, ok := strings.Cut(arg, "=")
		system, arch, two := strings.Cut(name, "/")
		if !ok || !two || system == "" || arch == "" || file == "" {
			return nil, fmt.Errorf("%w: %q: want OS/ARCH=FILE, such as linux/arm64=t2.tar", errUsage, arg)
		}
		all = append(all, platform{os: system, arch: arch, file: file})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no OS/ARCH=FILE is given", errUsage)
	}
	return all, nil
}
