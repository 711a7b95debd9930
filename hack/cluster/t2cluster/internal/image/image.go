// Package image builds container images from files, without Docker and without a base image: one layer that holds what
// was added and the little that programs expect of any system. The same input always gives the same image.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/transformersquared/operator/runtime/artifact"
)

// certificates is where Debian keeps the authorities that it trusts, and one of the places where Go looks for them.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

// epoch is the time of everything in an image, so that it depends on nothing but its content.
var epoch = time.Unix(0, 0).UTC()

// Spec says what goes into an image and how it runs.
type Spec struct {
	// Name is the reference that the image is tagged with, such as transformersquared.dev/t2:dev.
	Name string
	// Add are the files and folders to put in; a folder goes in with everything below it.
	Add []Addition
	// Entrypoint and Cmd are the command line; Cmd is what a pod's args replace.
	Entrypoint, Cmd []string
	// Env are its variables, as NAME=value.
	Env []string
	// WorkingDir is where it starts; empty means /.
	WorkingDir string
	// User is the numeric user and group that it runs as.
	User int
	// Architecture that its programs are for, as Go names it; empty means this machine's.
	Architecture string
	// Certificates also puts this machine's trusted authorities in, if it has any.
	Certificates bool
}

// Addition is one file or folder of the machine and its place in the image.
type Addition struct {
	Source, Target string
}

// ParseAddition reads source:target. The target must be absolute.
func ParseAddition(s string) (Addition, error) {
	at := strings.LastIndexByte(s, ':')
	if at <= 0 || !path.IsAbs(s[at+1:]) {
		return Addition{}, fmt.Errorf("%q: want SOURCE:TARGET with an absolute target, such as ./t2:/t2", s)
	}
	return Addition{Source: s[:at], Target: path.Clean(s[at+1:])}, nil
}

// Write builds the image and writes it to file as a tarball that `docker load`, `ctr images import` and `crane push`
// take. The file appears only when it is complete; a pipe or a device is written to. It returns the digest of the image's
// configuration, which is the ID that Kubernetes shows, and the tarball's size.
func Write(spec Spec, file string) (id string, size int64, err error) {
	tag, err := name.NewTag(spec.Name, name.StrictValidation)
	if err != nil {
		return "", 0, fmt.Errorf("image name %q: want registry/name:tag: %w", spec.Name, err)
	}
	image, err := build(spec)
	if err != nil {
		return "", 0, err
	}
	digest, err := image.ConfigName()
	if err != nil {
		return "", 0, fmt.Errorf("computing the image's ID: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", 0, fmt.Errorf("writing the image: %w", err)
	}
	err = artifact.WriteFileAtomic(file, func(w io.Writer) error {
		out := &counter{w: w}
		err := tarball.Write(tag, image, out)
		size = out.n
		return err
	})
	if err != nil {
		return "", 0, fmt.Errorf("writing the image: %w", err)
	}
	return digest.String(), size, nil
}

// counter counts what goes through.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func build(spec Spec) (v1.Image, error) {
	content, err := layer(spec)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, fmt.Errorf("making the image's layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, fmt.Errorf("making the image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("making the image's configuration: %w", err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = cmp.Or(spec.Architecture, runtime.GOARCH), "linux"
	config.Created = v1.Time{Time: epoch}
	config.Config = v1.Config{
		Entrypoint: spec.Entrypoint,
		Cmd:        spec.Cmd,
		Env:        append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/"}, spec.Env...),
		WorkingDir: spec.WorkingDir,
		User:       fmt.Sprintf("%d:%d", spec.User, spec.User),
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("making the image's configuration: %w", err)
	}
	return image, nil
}

// entry is one member of the layer.
type entry struct {
	header tar.Header
	// content is read from source unless that is empty.
	content []byte
	source  string
}

// layer renders the file system: what every image has, then the additions, each path once (the last one counts), sorted.
func layer(spec Spec) ([]byte, error) {
	entries := map[string]entry{}
	put := func(e entry) {
		for dir := path.Dir(e.header.Name); dir != "/"; dir = path.Dir(dir) {
			if _, known := entries[dir]; !known {
				entries[dir] = directory(dir, 0o755)
			}
		}
		entries[e.header.Name] = e
	}
	put(directory("/tmp", 0o1777))
	put(text("/etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:"+strconv.Itoa(spec.User)+":"+strconv.Itoa(spec.User)+":nonroot:/tmp:/sbin/nologin\n"))
	put(text("/etc/group", "root:x:0:\nnonroot:x:"+strconv.Itoa(spec.User)+":\n"))
	if spec.Certificates {
		authorities, err := os.ReadFile(certificates)
		if err == nil {
			put(text(certificates, string(authorities)))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the trusted authorities: %w", err)
		}
	}
	for _, a := range spec.Add {
		added, err := collect(a)
		if err != nil {
			return nil, err
		}
		for _, e := range added {
			put(e)
		}
	}
	return pack(entries)
}

// collect lists the members that one addition brings. Owners are root's and modes are reduced to 0755 or 0644, so that
// who built the image, and under which umask, leaves no mark.
func collect(a Addition) ([]entry, error) {
	// A link given by name means what it leads to.
	root, err := filepath.EvalSymlinks(a.Source)
	if err != nil {
		return nil, fmt.Errorf("adding %s: %w", a.Source, err)
	}
	var added []entry
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		target := path.Join(a.Target, filepath.ToSlash(relative))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if target != "/" {
				added = append(added, directory(target, 0o755))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(file)
			if err != nil {
				return err
			}
			added = append(added, entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: target, Linkname: to, Mode: 0o777}})
		case info.Mode().IsRegular():
			mode := int64(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			added = append(added, entry{header: tar.Header{Typeflag: tar.TypeReg, Name: target, Mode: mode, Size: info.Size()}, source: file})
		default:
			return fmt.Errorf("%s is neither file, folder nor link", file)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("adding %s: %w", a.Source, err)
	}
	return added, nil
}

func directory(name string, mode int64) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func text(name, content string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content: []byte(content)}
}

func pack(entries map[string]entry) ([]byte, error) {
	names := make([]string, 0, len(entries))
	for n := range entries {
		names = append(names, n)
	}
	slices.Sort(names) // a folder before what is in it
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, n := range names {
		if err := write(w, entries[n]); err != nil {
			return nil, fmt.Errorf("packing %s: %w", n, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing the layer: %w", err)
	}
	return buffer.Bytes(), nil
}

func write(w *tar.Writer, e entry) error {
	header := e.header
	header.Name = strings.TrimPrefix(header.Name, "/")
	if header.Typeflag == tar.TypeDir {
		header.Name += "/"
	}
	header.ModTime = epoch
	header.Format = tar.FormatPAX
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	if e.source == "" {
		_, err := w.Write(e.content)
		return err
	}
	file, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read from
	_, err = io.Copy(w, file)
	return err
}
