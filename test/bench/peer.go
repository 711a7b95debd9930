package main

import (
	"bytes"
	stdcontext "context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// peer is a program of somebody else that does what the runtime does.
type peer struct {
	Name string
	// Commit that it was built of, and the day of that; empty where nothing tells.
	Commit, Day string `json:",omitempty"`

	program string
}

// parsePeers reads a list of NAME=PATH, or PATH for the name of the best-known one.
func parsePeers(list string) ([]*peer, error) {
	var all []*peer
	for part := range strings.SplitSeq(list, ",") {
		name, path, named := strings.Cut(part, "=")
		if !named {
			name, path = "llama.cpp", part
		}
		switch {
		case list == "":
			return nil, nil
		case name == "" || path == "":
			return nil, fmt.Errorf("%q is neither PATH nor NAME=PATH", part)
		}
		for _, other := range all {
			if other.Name == name {
				return nil, fmt.Errorf("%q: two are called %s: say NAME=PATH", list, name)
			}
		}
		all = append(all, &peer{Name: name, program: path})
	}
	return all, nil
}

// versionLine is what programs of llama.cpp say of themselves: "version: 4840 (8337e4cd)",
// or newer ones "version: 0.2.0-dev (build 10587, commit 3f545becc)".
var versionLine = regexp.MustCompile(`version: \S+ \((?:build \d+, commit )?([0-9a-f]{7,40})\)`)

// identify asks a program for its commit, and the checkout that it lies in, if it does, for
// the day.
func (p *peer) identify(ctx stdcontext.Context) {
	said, _ := exec.CommandContext(ctx, p.program, "--version").CombinedOutput() //nolint:gosec // The caller says which; what does not know the flag says nothing.
	if found := versionLine.FindSubmatch(said); found != nil {
		p.built(ctx, string(found[1]))
	}
}

// built sets the commit.
func (p *peer) built(ctx stdcontext.Context, commit string) {
	if commit == "" || commit == "unknown" || p.Commit != "" {
		return
	}
	p.Commit = commit
	p.Day, _ = git(ctx, filepath.Dir(p.program), "log", "-1", "--format=%cs", commit)
}

// String is the peer with its version.
func (p *peer) String() string {
	switch {
	case p.Commit == "":
		return p.Name + " (of an unknown commit)"
	case p.Day == "":
		return fmt.Sprintf("%s %s", p.Name, p.Commit)
	default:
		return fmt.Sprintf("%s %s of %s", p.Name, p.Commit, p.Day)
	}
}

// git asks the checkout that a folder lies in.
func git(ctx stdcontext.Context, dir string, arguments ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, arguments...)...).Output() //nolint:gosec // To look.
	return string(bytes.TrimSpace(out)), err
}

// ourCommit is the runtime's: of the checkout that the bench runs in.
func ourCommit(ctx stdcontext.Context) string {
	commit, err := git(ctx, ".", "describe", "--always", "--dirty", "--abbrev=9", "--exclude=*")
	if err != nil {
		return "unknown"
	}
	return commit
}
