package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// What a statement of provenance is: in-toto's v1 with SLSA's predicate v1.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://slsa.dev/provenance/v1"
	repository    = "https://github.com/transformersquared/operator"
	// buildType says how a release is built: `make release` of hack/release.sh.
	buildType = repository + "/blob/main/hack/release.sh"
)

type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string            `json:"buildType"`
	ExternalParameters   map[string]string `json:"externalParameters"`
	InternalParameters   map[string]string `json:"internalParameters"`
	ResolvedDependencies []subject         `json:"resolvedDependencies"`
}

type runDetails struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
}

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

func provenanceCommand(flags *flag.FlagSet) func([]string) error {
	commit := flags.String("commit", "", "Git `commit` that is built")
	version := flags.String("version", "", "`version` that is built")
	images := flags.String("images", "", "`registry` that images are named with")
	goVersion := flags.String("go", "", "`version` of Go that builds")
	builder := flags.String("builder", "", "`URI` of who builds; empty means somebody by hand")
	changed := flags.Bool("changed", false, "files of the tree differ from the commit")
	var digests list
	flags.Var(&digests, "image", "image that is part of the release, as `NAME@sha256:DIGEST`; may be repeated")
	return func(args []string) error {
		if len(args) != 1 || *version == "" || *images == "" || *goVersion == "" {
			return fmt.Errorf("%w: --version, --images, --go and one folder are needed", errUsage)
		}
		if !commitPattern.MatchString(*commit) {
			return fmt.Errorf("%w: --commit %q: want 40 hexadecimal digits", errUsage, *commit)
		}
		entries, err := readSums(args[0])
		if err != nil {
			return err
		}
		s := statement{Type: statementType, PredicateType: predicateType}
		for _, e := range entries {
			s.Subject = append(s.Subject, subject{Name: e.name, Digest: map[string]string{"sha256": e.sum}})
		}
		for _, image := range digests {
			name, sum, ok := strings.Cut(image, "@sha256:")
			if !ok || len(sum) != 64 {
				return fmt.Errorf("%w: --image %q: want NAME@sha256:DIGEST", errUsage, image)
			}
			s.Subject = append(s.Subject, subject{Name: name, Digest: map[string]string{"sha256": sum}})
		}
		s.Predicate.BuildDefinition = buildDefinition{
			BuildType:          buildType,
			ExternalParameters: map[string]string{"version": *version, "images": *images},
			InternalParameters: map[string]string{"go": *goVersion},
			ResolvedDependencies: []subject{
				{URI: "git+" + repository + "@" + *commit, Digest: map[string]string{"gitCommit": *commit}},
			},
		}
		if *changed {
			// What was built is not what the commit says: it must not look as if it were.
			s.Predicate.BuildDefinition.InternalParameters["tree"] = "changed"
		}
		s.Predicate.RunDetails.Builder.ID = *builder
		if *builder == "" {
			s.Predicate.RunDetails.Builder.ID = repository + "/blob/main/SECURITY.md#built-by-hand"
		}
		return writeJSON(filepath.Join(args[0], provenanceFile), s)
	}
}

// predicateCommand is for cosign attest, which writes by itself of what it is.
func predicateCommand(flags *flag.FlagSet) func([]string) error {
	out := flags.String("out", "", "`file` to write")
	return func(args []string) error {
		if len(args) != 1 || *out == "" {
			return fmt.Errorf("%w: --out and one folder are needed", errUsage)
		}
		content, err := os.ReadFile(filepath.Join(args[0], provenanceFile))
		if err != nil {
			return fmt.Errorf("reading the provenance: %w", err)
		}
		var s statement
		if err := json.Unmarshal(content, &s); err != nil {
			return fmt.Errorf("reading %s of %s: %w", provenanceFile, args[0], err)
		}
		if s.Type != statementType || s.PredicateType != predicateType {
			return fmt.Errorf("%s of %s is a %q of type %q, not a %q", provenanceFile, args[0], s.PredicateType, s.Type, predicateType)
		}
		return writeJSON(*out, s.Predicate)
	}
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}
