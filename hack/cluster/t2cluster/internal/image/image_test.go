package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func put(t *testing.T, mode os.FileMode, text string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

// members reads the layer of the image in file: for each path its type, mode and content.
func members(t *testing.T, file, reference string) map[string]string {
	t.Helper()
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %d, %v, want 1", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	got := map[string]string{}
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := got[header.Name]; twice {
			t.Errorf("%s is in the layer twice", header.Name)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d and time %s tell about who built it", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(header.Typeflag) + " " + os.FileMode(header.Mode).Perm().String() + " " + header.Linkname + string(text)
		if header.Name == "tmp/" && header.Mode != 0o1777 {
			t.Errorf("tmp: mode %o, want 1777", header.Mode)
		}
	}
}

func TestWriteHoldsWhatWasAdded(t *testing.T) {
	dir := t.TempDir()
	program := put(t, 0o700, "program", dir, "t2")
	put(t, 0o600, "config", dir, "model", "config.json")
	put(t, 0o664, "weights", dir, "model", "deep", "weights")
	if err := os.Symlink("deep/weights", filepath.Join(dir, "model", "link")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out", "image.tar")
	spec := Spec{
		Name:       "transformersquared.dev/t2:dev",
		Add:        []Addition{{Source: program, Target: "/bin/t2"}, {Source: filepath.Join(dir, "model"), Target: "/assets/model"}},
		Entrypoint: []string{"/bin/t2"}, Cmd: []string{"serve"}, Env: []string{"A=b"}, WorkingDir: "/assets", User: 65532,
	}
	if _, _, err := Write(spec, out); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"assets/":                   "5 -rwxr-xr-x ",
		"assets/model/":             "5 -rwxr-xr-x ",
		"assets/model/config.json":  "0 -rw-r--r-- config",
		"assets/model/deep/":        "5 -rwxr-xr-x ",
		"assets/model/deep/weights": "0 -rw-r--r-- weights",
		"assets/model/link":         "2 -rwxrwxrwx deep/weights",
		"bin/":                      "5 -rwxr-xr-x ",
		"bin/t2":                    "0 -rwxr-xr-x program",
		"etc/":                      "5 -rwxr-xr-x ",
		"etc/group":                 "0 -rw-r--r-- root:x:0:\nnonroot:x:65532:\n",
		"etc/passwd":                "0 -rw-r--r-- root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n",
		"tmp/":                      "5 -rwxrwxrwx ",
	}
	if diff := cmp.Diff(want, members(t, out, spec.Name)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
	tag, err := name.NewTag(spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(out, &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Config.User != "65532:65532" || config.Config.WorkingDir != "/assets" {
		t.Errorf("configuration: got %+v", config)
	}
	if diff := cmp.Diff([]string{"/bin/t2", "serve"}, append(config.Config.Entrypoint, config.Config.Cmd...)); diff != "" {
		t.Errorf("command line (-want +got):\n%s", diff)
	}
}

func TestTheSameFilesGiveTheSameImage(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	put(t, 0o755, "program", one, "t2")
	put(t, 0o711, "program", two, "t2")
	var ids, files []string
	for _, dir := range []string{one, two} {
		out := filepath.Join(dir, "image.tar")
		id, _, err := Write(Spec{Name: "example.dev/x:1", Add: []Addition{{Source: filepath.Join(dir, "t2"), Target: "/t2"}}, Entrypoint: []string{"/t2"}}, out)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		ids, files = append(ids, id), append(files, string(content))
	}
	if ids[0] != ids[1] || files[0] != files[1] {
		t.Errorf("two builds of the same content differ: %s and %s", ids[0], ids[1])
	}
}

func TestWriteLeavesNothingBehindWhenItFails(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "image.tar")
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		spec Spec
		want string
	}{
		{name: "a missing file", spec: Spec{Name: "example.dev/x:1", Add: []Addition{{Source: filepath.Join(dir, "none"), Target: "/x"}}}, want: "none"},
		{name: "a name without a tag", spec: Spec{Name: "example.dev/x"}, want: "registry/name:tag"},
		{name: "a socket or device", spec: Spec{Name: "example.dev/x:1", Add: []Addition{{Source: pipe, Target: "/x"}}}, want: "neither file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := Write(tt.spec, out); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Write() = %v, want an error with %q", err, tt.want)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

func TestWriteReplacesAnEarlierImage(t *testing.T) {
	out := put(t, 0o644, "earlier", t.TempDir(), "image.tar")
	if _, _, err := Write(Spec{Name: "example.dev/x:1", Entrypoint: []string{"/x"}}, out); err != nil {
		t.Fatal(err)
	}
	if got := members(t, out, "example.dev/x:1"); len(got) == 0 {
		t.Error("the new image is empty")
	}
	if entries, err := os.ReadDir(filepath.Dir(out)); err != nil || len(entries) != 1 {
		t.Errorf("beside the image are left: %v, %v", entries, err)
	}
}

func TestAPipeGetsTheImageAndStays(t *testing.T) {
	spec := Spec{Name: "example.dev/x:1", Entrypoint: []string{"/x"}}
	file, pipe := filepath.Join(t.TempDir(), "image.tar"), filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() { // ends when the pipe has no writer any more
		content, err := os.ReadFile(pipe)
		if err != nil {
			t.Error(err)
		}
		got <- content
	}()
	_, size, err := Write(spec, pipe)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Write(spec, file); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if content := <-got; !bytes.Equal(content, want) || size != int64(len(want)) {
		t.Errorf("through the pipe came %d bytes, said to be %d, want the %d of the file", len(content), size, len(want))
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("the pipe is now %v (%v)", info, err)
	}
}

func TestParseAddition(t *testing.T) {
	tests := []struct {
		text      string
		want      Addition
		wantError bool
	}{
		{text: "./t2:/t2", want: Addition{Source: "./t2", Target: "/t2"}},
		{text: "a:b:/c/", want: Addition{Source: "a:b", Target: "/c"}},
		{text: "x:/../../etc/passwd", want: Addition{Source: "x", Target: "/etc/passwd"}},
		{text: "t2", wantError: true},
		{text: ":/t2", wantError: true},
		{text: "t2:", wantError: true},
		{text: "t2:relative", wantError: true},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := ParseAddition(tt.text)
			if (err != nil) != tt.wantError || got != tt.want {
				t.Errorf("ParseAddition() = %+v, %v, want %+v, an error: %t", got, err, tt.want, tt.wantError)
			}
		})
	}
}

func TestAnImageIsForTheArchitectureOfItsPrograms(t *testing.T) {
	program := put(t, 0o755, "program", t.TempDir(), "t2")
	for arch, want := range map[string]string{"": runtime.GOARCH, "arm64": "arm64", "amd64": "amd64"} {
		file := filepath.Join(t.TempDir(), "image.tar")
		spec := Spec{Name: "example.com/t2:v1", Add: []Addition{{program, "/t2"}}, Entrypoint: []string{"/t2"}, Architecture: arch}
		if _, _, err := Write(spec, file); err != nil {
			t.Fatal(err)
		}
		image, err := tarball.ImageFromPath(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != want || config.OS != "linux" {
			t.Errorf("for %q it is %s/%s, want linux/%s", arch, config.OS, config.Architecture, want)
		}
	}
}
