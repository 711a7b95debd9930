package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// epoch is the time of everything in an archive, so that it depends on nothing
// but its content.
var epoch = time.Unix(0, 0).UTC()

// member is a file of an archive.
type member struct {
	name    string
	mode    int64
	content []byte
}

func archiveCommand(flags *flag.FlagSet) func([]string) error {
	out := flags.String("out", "", "`file` to write")
	return func(files []string) error {
		if *out == "" || len(files) == 0 {
			return fmt.Errorf("%w: --out and files are needed", errUsage)
		}
		var members []member
		for _, file := range files {
			m, err := readMember(file, filepath.Base(file))
			if err != nil {
				return err
			}
			members = append(members, m)
		}
		return writeFile(*out, func(w *os.File) error { return writeTarGz(w, members) })
	}
}

func repackCommand(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%w: want one archive", errUsage)
		}
		members, err := readTarGz(args[0])
		if err != nil {
			return err
		}
		return writeFile(args[0], func(w *os.File) error { return writeTarGz(w, members) })
	}
}

// readMember reads a file that is to be in an archive under a name.
func readMember(file, name string) (member, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return member{}, fmt.Errorf("reading what goes into the archive: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return member{}, fmt.Errorf("reading what goes into the archive: %w", err)
	}
	mode := int64(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	return member{name: name, mode: mode, content: content}, nil
}

// folderMembers are all files below a folder.
func folderMembers(folder string) ([]member, error) {
	var members []member
	err := filepath.WalkDir(folder, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		m, err := readMember(file, filepath.ToSlash(name))
		members = append(members, m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", folder, err)
	}
	return members, nil
}

// readTarGz reads the files of an archive.
func readTarGz(file string) (members []member, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s is not gzip: %w", file, err)
	}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if header.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("%s has %s, which is not a file", file, header.Name)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("reading %s of %s: %w", header.Name, file, err)
		}
		members = append(members, member{name: header.Name, mode: header.Mode & 0o777, content: content})
	}
}

// writeTar writes members in the order of their names.
func writeTar(w io.Writer, members []member) error {
	sorted := slices.SortedFunc(slices.Values(members), func(a, b member) int { return strings.Compare(a.name, b.name) })
	archive := tar.NewWriter(w)
	for _, m := range sorted {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: m.mode, Size: int64(len(m.content)), ModTime: epoch, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("packing %s: %w", m.name, err)
		}
		if _, err := archive.Write(m.content); err != nil {
			return fmt.Errorf("packing %s: %w", m.name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	return nil
}

func writeTarGz(w io.Writer, members []member) error {
	zipped, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("compressing: %w", err)
	}
	if err := writeTar(zipped, members); err != nil {
		return err
	}
	if err := zipped.Close(); err != nil {
		return fmt.Errorf("compressing: %w", err)
	}
	return nil
}

// writeFile writes a file that appears only when it is complete.
func writeFile(file string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".release-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
