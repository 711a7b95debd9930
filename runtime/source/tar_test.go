package source_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/source"
)

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// pack makes a compressed tar of these headers; a file's content is zeros.
func pack(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	a := tar.NewWriter(z)
	for i := range headers {
		if err := a.WriteHeader(&headers[i]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(a, zeros{}, headers[i].Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(a.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileArchivesAreRefused(t *testing.T) {
	config := tar.Header{Name: "config.json", Size: 10}
	for _, c := range []struct {
		name    string
		headers []tar.Header
		want    string
	}{
		{"a path upwards", []tar.Header{{Name: "../config.json", Size: 1}}, "leads out"},
		{"a path upwards from within", []tar.Header{{Name: "a/../../config.json", Size: 1}}, "leads out"},
		{"an absolute path", []tar.Header{{Name: "/etc/config.json", Size: 1}}, "leads out"},
		{"a path in the manner of Windows", []tar.Header{{Name: `..\config.json`, Size: 1}}, "leads out"},
		{"a symbolic link", []tar.Header{{Name: "config.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}, "link or device"},
		{"a hard link", []tar.Header{config, {Name: "b.json", Typeflag: tar.TypeLink, Linkname: "config.json"}}, "link or device"},
		{"a device", []tar.Header{{Name: "config.json", Typeflag: tar.TypeChar}}, "link or device"},
		{"a pipe", []tar.Header{{Name: "config.json", Typeflag: tar.TypeFifo}}, "link or device"},
		{"one file twice", []tar.Header{config, config}, "twice"},
		{"a file below a file", []tar.Header{config, {Name: "config.json/x.json", Size: 1}}, "unpacking"},
		{"a bomb", []tar.Header{{Name: "model.safetensors", Size: 80 << 20}}, "expands"},
		{"a bomb among what is not wanted", []tar.Header{{Name: "README.md", Size: 80 << 20}, config}, "expands"},
		{"nothing of a model", []tar.Header{{Name: "README.md", Size: 5}}, "neither a model"},
		{"two models", []tar.Header{{Name: "a/config.json", Size: 5}, {Name: "b/config.json", Size: 5}}, "several models"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "m.tgz")
			if err := os.WriteFile(path, pack(t, c.headers...), 0o600); err != nil {
				t.Fatal(err)
			}
			root := filepath.Join(dir, "data")
			_, err := source.FetchModel(t.Context(), contract.FetchSpec{Source: contract.Source{Path: path}, DataDir: root}, source.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); c.name != "a file below a file" && (reason != contract.ReasonInvalidModel || !permanent) {
				t.Errorf("classified as %s, permanent %v", reason, permanent)
			}
			nothingVisible(t, root)
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 2 {
				t.Errorf("beside the archive and the data there is %v (%v)", entries, err)
			}
		})
	}
}

// FuzzArchive: whatever an archive holds, nothing appears outside of the data
// folder and nothing is left in it.
func FuzzArchive(f *testing.F) {
	f.Add(pack(f, tar.Header{Name: "a/config.json", Size: 3}))
	f.Add(pack(f, tar.Header{Name: "../x.json", Size: 3}))
	f.Add(pack(f, tar.Header{Name: "x.json", Typeflag: tar.TypeSymlink, Linkname: ".."}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "m.tar")
		if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			// Mutations of the tar itself go deeper than those of its compression.
			if plain, err := io.ReadAll(io.LimitReader(z, 1<<20)); err == nil {
				b = plain
			}
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(dir, "data")
		if _, err := source.FetchModel(t.Context(), contract.FetchSpec{Source: contract.Source{Path: path}, DataDir: root}, source.Options{}); err == nil {
			return
		}
		nothingVisible(t, root)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 2 {
			t.Fatalf("beside the archive and the data there is %v (%v)", entries, err)
		}
	})
}
