package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// bom is a bill of materials as CycloneDX 1.6 has it, as far as it is used here.
type bom struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

func sbomCommand(flags *flag.FlagSet) func([]string) error {
	out := flags.String("out", "", "`file` to write")
	version := flags.String("version", "", "`version` of the program")
	packages := flags.String("debian", "", "`file` with a Debian package's name, version and sha256:DIGEST a line, which the image has beside the program")
	return func(args []string) error {
		if len(args) != 1 || *out == "" || *version == "" {
			return fmt.Errorf("%w: --out, --version and one program are needed", errUsage)
		}
		bill, err := sbom(args[0], *version)
		if err != nil {
			return err
		}
		if *packages != "" {
			if err := bill.addDebian(*packages); err != nil {
				return err
			}
		}
		return writeJSON(*out, bill)
	}
}

// sbom reads from a program which modules it is linked from; Go has written it
// there itself.
func sbom(program, version string) (*bom, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("reading what %s is built from: %w", program, err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", program, err)
	}
	sum := sha256.Sum256(content)
	main := component{
		Ref: "pkg:golang/" + info.Main.Path + "@" + version + "#" + filepath.Base(program), Type: "application",
		Name: filepath.Base(program), Version: version, PURL: "pkg:golang/" + info.Main.Path + "@" + version,
		Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
	}
	for _, s := range info.Settings {
		if slices.Contains([]string{"GOOS", "GOARCH", "CGO_ENABLED", "-tags", "-trimpath"}, s.Key) {
			main.Properties = append(main.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	bill := &bom{Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Metadata: metadata{main}}
	bill.add(component{
		Ref: "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go"), Type: "library", Name: "stdlib",
		Version: info.GoVersion, PURL: "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go"),
	})
	for _, m := range info.Deps {
		c, err := moduleComponent(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		bill.add(c)
	}
	return bill, nil
}

// moduleComponent is a module as CycloneDX has it. A replacement is what is
// linked.
func moduleComponent(m *debug.Module) (component, error) {
	if m.Replace != nil {
		m = m.Replace
	}
	c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + m.Version}
	c.Ref = c.PURL
	if m.Sum != "" {
		// h1: is the SHA-256 of the list of the module's files with their own.
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
		if err != nil || len(sum) != sha256.Size {
			return component{}, fmt.Errorf("module %s has the sum %q, want h1: and a SHA-256 in base64", m.Path, m.Sum)
		}
		c.Properties = []property{{"go:sum", m.Sum}}
	}
	return c, nil
}

func (b *bom) add(c component) {
	b.Components = append(b.Components, c)
	if len(b.Dependencies) == 0 {
		b.Dependencies = []dependency{{Ref: b.Metadata.Component.Ref}}
	}
	b.Dependencies[0].DependsOn = append(b.Dependencies[0].DependsOn, c.Ref)
}

// addDebian adds the packages that hack/judge-image.sh has listed.
func (b *bom) addDebian(list string) error {
	content, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("reading the Debian packages: %w", err)
	}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		fields := strings.Fields(line)
		if len(fields) != 3 || !strings.HasPrefix(fields[2], "sha256:") {
			return fmt.Errorf("%s:%d: want a package's name, version and sha256:DIGEST, not %q", list, number, strings.TrimSpace(line))
		}
		purl := "pkg:deb/debian/" + fields[0] + "@" + fields[1]
		b.add(component{
			Ref: purl, Type: "library", Name: fields[0], Version: fields[1], PURL: purl,
			Hashes: []hash{{"SHA-256", strings.TrimPrefix(fields[2], "sha256:")}},
		})
	}
	return nil
}

// writeJSON writes a value with lines that people can read.
func writeJSON(file string, value any) error {
	return writeFile(file, func(w *os.File) error {
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("writing %s: %w", file, err)
		}
		return nil
	})
}
