package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"
)

func write(t *testing.T, file, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// imageFor writes an image of one layer for an architecture.
func imageFor(t *testing.T, arch string) string {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte("files for "+arch), types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), arch+".tar")
	if err := tarball.WriteToFile(file, name.MustParseReference("example.com/t2:v1"), image); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestOneImageForSeveralPlatforms(t *testing.T) {
	amd64, arm64 := imageFor(t, "amd64"), imageFor(t, "arm64")
	once, again := filepath.Join(t.TempDir(), "t2.oci.tar"), filepath.Join(t.TempDir(), "t2.oci.tar")
	for _, out := range []string{once, again} {
		if err := run([]string{"index", "--out", out, "--name", "example.com/t2:v1", "linux/amd64=" + amd64, "linux/arm64=" + arm64}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, once), read(t, again)) {
		t.Error("the same images give another layout")
	}

	folder := t.TempDir()
	for archive := tar.NewReader(bytes.NewReader(read(t, once))); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, header.Name), string(content), 0o644)
	}
	outer, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations[referenceAnnotation] != "example.com/t2:v1" {
		t.Fatalf("the layout has %+v: %v", manifest, err)
	}
	inner, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = inner.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range manifest.Manifests {
		got = append(got, m.Platform.String())
		image, err := inner.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if config, err := image.ConfigFile(); err != nil || config.Architecture != m.Platform.Architecture {
			t.Errorf("what is named %s is for %s: %v", m.Platform, config.Architecture, err)
		}
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(got, want) {
		t.Errorf("it is for %v, want %v", got, want)
	}
}

func TestAnImageForAnotherPlatformIsRefused(t *testing.T) {
	_, err := index(filepath.Join(t.TempDir(), "out"), "example.com/t2:v1", []platform{{"linux", "arm64", imageFor(t, "amd64")}})
	if err == nil || !strings.Contains(err.Error(), "is an image for linux/amd64, not linux/arm64") {
		t.Errorf("got %v", err)
	}
}

func TestArchivesAreTheSameWhenever(t *testing.T) {
	pack := func(when time.Time) []byte {
		file := filepath.Join(t.TempDir(), "chart.tgz")
		var text bytes.Buffer
		zipped := gzip.NewWriter(&text)
		zipped.ModTime = when
		archive := tar.NewWriter(zipped)
		for _, name := range []string{"chart/values.yaml", "chart/Chart.yaml"} {
			if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 2, ModTime: when, Uname: "somebody"}); err != nil {
				t.Fatal(err)
			}
			if _, err := archive.Write([]byte("a\n")); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
			t.Fatal(err)
		}
		write(t, file, text.String(), 0o644)
		if err := run([]string{"repack", file}); err != nil {
			t.Fatal(err)
		}
		return read(t, file)
	}
	if !bytes.Equal(pack(time.Unix(1, 0)), pack(time.Unix(1e9, 0))) {
		t.Error("a chart that is packed at another time is another")
	}

	folder := t.TempDir()
	program := write(t, filepath.Join(folder, "kubectl-t2"), "program", 0o755)
	licence := write(t, filepath.Join(folder, "LICENSE"), "text", 0o600)
	out := filepath.Join(folder, "out.tar.gz")
	if err := run([]string{"archive", "--out", out, program, licence}); err != nil {
		t.Fatal(err)
	}
	members, err := readTarGz(out)
	if err != nil {
		t.Fatal(err)
	}
	want := []member{{"LICENSE", 0o644, []byte("text")}, {"kubectl-t2", 0o755, []byte("program")}}
	if diff := cmp.Diff(want, members, cmp.AllowUnexported(member{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBillOfMaterials(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	packages := write(t, filepath.Join(t.TempDir(), "packages"), "libc6 2.41-12 sha256:"+strings.Repeat("ab", 32)+"\n", 0o644)
	out := filepath.Join(t.TempDir(), "bill.json")
	if err := run([]string{"sbom", "--out", out, "--version", "v1.2.3", "--debian", packages, program}); err != nil {
		t.Fatal(err)
	}
	var bill bom
	if err := json.Unmarshal(read(t, out), &bill); err != nil {
		t.Fatal(err)
	}
	if bill.Format != "CycloneDX" || bill.SpecVersion != "1.6" || bill.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("the bill begins with %+v", bill)
	}
	refs := map[string]bool{bill.Metadata.Component.Ref: true}
	for _, c := range bill.Components {
		if refs[c.Ref] {
			t.Errorf("%s is there twice", c.Ref)
		}
		refs[c.Ref] = true
	}
	for _, wanted := range []string{"pkg:golang/stdlib@", "pkg:golang/github.com/google/go-containerregistry@v", "pkg:deb/debian/libc6@2.41-12"} {
		if !slices.ContainsFunc(bill.Components, func(c component) bool { return strings.HasPrefix(c.PURL, wanted) }) {
			t.Errorf("the bill lacks %s", wanted)
		}
	}
	for _, d := range bill.Dependencies {
		for _, ref := range append(d.DependsOn, d.Ref) {
			if !refs[ref] {
				t.Errorf("a dependency names %s, which is no component", ref)
			}
		}
	}
}

func TestChecksumsAndProvenance(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "images", "t2.oci.tar"), "image", 0o644)
	write(t, filepath.Join(folder, "chart.tgz"), "chart", 0o644)
	commit, image := strings.Repeat("c", 40), "example.com/t2@sha256:"+strings.Repeat("d", 64)
	for range 2 { // What a second run finds of the first is no part of it.
		if err := run([]string{"sums", folder}); err != nil {
			t.Fatal(err)
		}
		if err := run([]string{
			"provenance", "--commit", commit, "--version", "v1.2.3", "--images", "example.com", "--go", "go1.26.8", "--image", image, "--changed", folder,
		}); err != nil {
			t.Fatal(err)
		}
	}
	// printf chart | sha256sum; printf image | sha256sum
	want := "" +
		sum(t, filepath.Join(folder, "chart.tgz")) + "  chart.tgz\n" +
		sum(t, filepath.Join(folder, "images", "t2.oci.tar")) + "  images/t2.oci.tar\n"
	if got := string(read(t, filepath.Join(folder, sumsFile))); got != want {
		t.Errorf("the checksums are\n%swant\n%s", got, want)
	}
	var s statement
	if err := json.Unmarshal(read(t, filepath.Join(folder, provenanceFile)), &s); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, subject := range s.Subject {
		names = append(names, subject.Name)
	}
	if want := []string{"chart.tgz", "images/t2.oci.tar", "example.com/t2"}; !slices.Equal(names, want) {
		t.Errorf("it is about %v, want %v", names, want)
	}
	build := s.Predicate.BuildDefinition
	if build.ResolvedDependencies[0].Digest["gitCommit"] != commit || build.InternalParameters["tree"] != "changed" {
		t.Errorf("it says of the build %+v", build)
	}
	out := filepath.Join(t.TempDir(), "predicate.json")
	if err := run([]string{"predicate", "--out", out, folder}); err != nil {
		t.Fatal(err)
	}
	var alone predicate
	if err := json.Unmarshal(read(t, out), &alone); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.Predicate, alone); diff != "" {
		t.Errorf("the predicate by itself is another (-want +got):\n%s", diff)
	}
	write(t, filepath.Join(folder, provenanceFile), `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/v1"}`, 0o644)
	if err := run([]string{"predicate", "--out", out, folder}); err == nil || !strings.Contains(err.Error(), "https://example.com/v1") {
		t.Errorf("what is no provenance is answered with %v", err)
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	s, err := fileSum(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKrew(t *testing.T) {
	archive := write(t, filepath.Join(t.TempDir(), "kubectl-t2-v1.2.3-windows-amd64.tar.gz"), "archive", 0o644)
	out := filepath.Join(t.TempDir(), "t2.yaml")
	if err := run([]string{"krew", "--out", out, "--version", "v1.2.3", "--from", "https://example.com/v1.2.3", "windows/amd64=" + archive}); err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Spec struct {
			Version   string `json:"version"`
			Platforms []struct {
				URI    string `json:"uri"`
				SHA256 string `json:"sha256"`
				Bin    string `json:"bin"`
			} `json:"platforms"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(read(t, out), &manifest); err != nil {
		t.Fatal(err)
	}
	p := manifest.Spec.Platforms[0]
	if manifest.Spec.Version != "v1.2.3" || p.URI != "https://example.com/v1.2.3/"+filepath.Base(archive) || p.SHA256 != sum(t, archive) || p.Bin != "kubectl-t2.exe" {
		t.Errorf("the manifest says %+v", manifest)
	}
}

func TestWrongUsage(t *testing.T) {
	folder := t.TempDir()
	for _, tc := range []struct {
		name, says string
		args       []string
		usage      bool
	}{
		{"no command", "name one of these", nil, true},
		{"one that is none", `no "publish"`, []string{"publish"}, true},
		{"a platform without its file", "want OS/ARCH=FILE", []string{"index", "--out", "o", "--name", "n", "linux/amd64"}, true},
		{"a commit that is none", "want 40 hexadecimal digits", []string{"provenance", "--version", "v1", "--images", "i", "--go", "g", "--commit", "main", folder}, true},
		{"a version that Krew refuses", "as v1.2.3", []string{"krew", "--out", "o", "--version", "1.2", "--from", "https://e", "linux/amd64=f"}, true},
		{"nothing to sum up", "there is no file", []string{"sums", folder}, false},
		{"no checksums", "reading the checksums", []string{"provenance", "--version", "v1", "--images", "i", "--go", "g", "--commit", strings.Repeat("a", 40), folder}, false},
		{"a program that is none", "what", []string{"sbom", "--out", "o", "--version", "v1", write(t, filepath.Join(t.TempDir(), "text"), "text", 0o644)}, false},
		{"an archive that is none", "is not gzip", []string{"repack", write(t, filepath.Join(t.TempDir(), "text"), "text of some length", 0o644)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := run(tc.args)
			if err == nil || errors.Is(err, errUsage) != tc.usage || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want one that says %q, of usage %v", err, tc.says, tc.usage)
			}
		})
	}
}
