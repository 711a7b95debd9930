package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sumsFile names the checksums within a release.
const sumsFile = "SHA256SUMS"

// provenanceFile names the provenance; it is about the checksums, and not of them.
const provenanceFile = "provenance.intoto.json"

func sumsCommand(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%w: want one folder", errUsage)
		}
		return sums(args[0])
	}
}

// sums writes the SHA-256 of every file of a release, as sha256sum -c reads it.
func sums(folder string) error {
	var text strings.Builder
	err := filepath.WalkDir(folder, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		if name == sumsFile || name == provenanceFile || strings.HasSuffix(name, ".sigstore.json") {
			return nil
		}
		sum, err := fileSum(file)
		fmt.Fprintf(&text, "%s  %s\n", sum, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		return fmt.Errorf("summing up %s: %w", folder, err)
	}
	if text.Len() == 0 {
		return fmt.Errorf("summing up %s: there is no file", folder)
	}
	return writeFile(filepath.Join(folder, sumsFile), func(w *os.File) error {
		_, err := w.WriteString(text.String())
		return err
	})
}

// fileSum is the SHA-256 of a file, in hexadecimal.
func fileSum(file string) (sum string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// entry is a line of the checksums.
type entry struct{ sum, name string }

func readSums(folder string) (entries []entry, err error) {
	f, err := os.Open(filepath.Join(folder, sumsFile))
	if err != nil {
		return nil, fmt.Errorf("reading the checksums: %w", err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%s: %q is not a SHA-256 and a name", f.Name(), lines.Text())
		}
		entries = append(entries, entry{sum, name})
	}
	return entries, nil
}
