package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

var krewVersion = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

func krewCommand(flags *flag.FlagSet) func([]string) error {
	out := flags.String("out", "", "`file` to write")
	version := flags.String("version", "", "`version` of the plugin")
	from := flags.String("from", "", "`URL` of the folder that archives are downloaded from")
	return func(args []string) error {
		all, err := platforms(args)
		if err != nil {
			return err
		}
		if *out == "" || !strings.HasPrefix(*from, "https://") {
			return fmt.Errorf("%w: --out, and --from with https, are needed", errUsage)
		}
		if !krewVersion.MatchString(*version) {
			return fmt.Errorf("%w: --version %q: Krew wants it as v1.2.3", errUsage, *version)
		}
		manifest, err := krew(*version, *from, all)
		if err != nil {
			return err
		}
		return writeFile(*out, func(w *os.File) error {
			_, err := w.Write(manifest)
			return err
		})
	}
}

// krew is the manifest of kubectl t2 (krew.googlecontainertools.github.com/v1alpha2).
func krew(version, from string, all []platform) ([]byte, error) {
	var archives []map[string]any
	for _, p := range all {
		sum, err := fileSum(p.file)
		if err != nil {
			return nil, fmt.Errorf("reading the plugin's archive: %w", err)
		}
		program := "kubectl-t2"
		if p.os == "windows" {
			program += ".exe"
		}
		archives = append(archives, map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"os": p.os, "arch": p.arch}},
			"uri":      strings.TrimSuffix(from, "/") + "/" + filepath.Base(p.file),
			"sha256":   sum,
			"bin":      program,
			"files":    []map[string]any{{"from": program, "to": "."}, {"from": "LICENSE", "to": "."}},
		})
	}
	manifest, err := yaml.Marshal(map[string]any{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
		"kind":       "Plugin",
		"metadata":   map[string]any{"name": "t2"},
		"spec": map[string]any{
			"version":          version,
			"homepage":         repository,
			"shortDescription": "Look at Transformer² models, experts and policies",
			"description": "Shows base models, expert vectors and adaptive policies of the Transformer²\n" +
				"operator: what holds them up, how training goes, and why a request was adapted\nas it was.\n",
			"platforms": archives,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("writing Krew's manifest: %w", err)
	}
	return manifest, nil
}
