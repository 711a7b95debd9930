package source

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/peft"
)

// Bounds of archives. Weights hardly compress; what expands a hundredfold is
// made to fill disks.
const (
	maxEntries   = 100_000
	maxExpansion = 100
	freeBytes    = 64 << 20 // expansion below this is never held against an archive
	maxWindow    = 64 << 20 // what a zstd archive may make its reader keep
)

// archiveTree is an unpacked archive; files are moved out of it.
type archiveTree struct {
	staging *artifact.Staging
	dir     string // the folder within that holds the files
	name    string
}

// unpack unpacks an archive of one folder into a staging folder of scratch.
// Only files that a model or an expert can consist of are kept. name's suffix
// says whether it is compressed.
func unpack(ctx context.Context, r io.Reader, name, description, scratch string) (_ tree, err error) {
	staging, err := artifact.Stage(scratch)
	if err != nil {
		return nil, err
	}
	t := &archiveTree{staging: staging, name: description}
	defer func() {
		if err != nil {
			err = errors.Join(err, staging.Discard())
		}
	}()
	if err := extractAll(ctx, r, name, description, staging.Dir()); err != nil {
		return nil, err
	}
	if t.dir, err = findRoot(staging.Dir()); err != nil {
		return nil, badArchive(description, err)
	}
	return t, nil
}

// extractAll writes the wanted entries of an archive below dir. name's suffix says how it
// is compressed.
func extractAll(ctx context.Context, r io.Reader, name, description, dir string) error {
	counted := &countingReader{r: &contextReader{ctx, r}}
	var plain io.Reader = counted
	switch lower := strings.ToLower(name); {
	case strings.HasSuffix(lower, ".tar"):
	case strings.HasSuffix(lower, ".zst"):
		z, err := zstd.NewReader(counted, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return badArchive(description, err)
		}
		defer z.Close()
		plain = z
	default:
		z, err := gzip.NewReader(counted)
		if err != nil {
			return badArchive(description, err)
		}
		plain = z
	}
	if err := extract(plain, counted, dir); err != nil {
		return badArchive(description, err)
	}
	return nil
}

func badArchive(description string, err error) error {
	return fmt.Errorf("archive %s: %w", description, err)
}

type countingReader struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// extract writes the wanted entries of a tar below dir.
func extract(plain io.Reader, raw *countingReader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	defer func() { _ = root.Close() }() // It holds no file.
	budget := &expansion{raw: raw, r: plain}
	archive := tar.NewReader(budget)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return truncated(err)
		}
		if entries == maxEntries {
			return fmt.Errorf("has more than %d entries", maxEntries)
		}
		name, err := entryName(header)
		if err != nil {
			return err
		}
		if name == "" || !wanted(name) {
			continue
		}
		if header.Size > maxWeightFile {
			return fmt.Errorf("entry %q has %d bytes", header.Name, header.Size)
		}
		if err := extractFile(root, name, archive, budget); err != nil {
			return err
		}
	}
}

// truncated says what an unexpected end means.
func truncated(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("is truncated: %w", err)
	}
	return err
}

// entryName checks an entry and returns its cleaned name, "" for a folder.
func entryName(h *tar.Header) (string, error) {
	name := path.Clean(strings.ReplaceAll(h.Name, `\`, "/"))
	if path.IsAbs(name) || !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fmt.Errorf("entry %q leads out of the archive", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return name, nil
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return "", nil
	default:
		return "", fmt.Errorf("entry %q is a link or device: an archive may hold folders and files only", h.Name)
	}
}

// wanted reports whether a model or an expert can consist of a file of this
// name; cards, licences and other formats of the weights stay behind.
func wanted(name string) bool {
	base := path.Base(name)
	if strings.HasPrefix(base, ".") {
		return false
	}
	if slices.Contains(contract.TokenizerFiles, base) {
		return true
	}
	switch path.Ext(base) {
	case ".safetensors", ".json", ".jsonl", ".jinja", ".svg":
		return true
	}
	return false
}

func extractFile(root *os.Root, name string, r io.Reader, budget *expansion) (err error) {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, artifact.DirMode); err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, artifact.FileMode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("has %q twice", name)
	}
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Sparse entries expand after the budget's reader, so count here too.
	if _, err := io.Copy(f, &spender{r: r, budget: budget}); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, truncated(err))
	}
	return nil
}

// expansion refuses archives that grow out of proportion.
type expansion struct {
	raw   *countingReader
	r     io.Reader
	read  int64 // bytes of the tar
	spent int64 // bytes of files
}

// Read implements io.Reader.
func (e *expansion) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.read += int64(n)
	if over := e.check(e.read); over != nil {
		return n, over
	}
	return n, err
}

func (e *expansion) check(n int64) error {
	if n > freeBytes+maxExpansion*e.raw.n {
		return fmt.Errorf("expands to more than %d times its size: it is no archive of a model", maxExpansion)
	}
	return nil
}

// spender counts the bytes of an entry.
type spender struct {
	r      io.Reader
	budget *expansion
}

// Read implements io.Reader.
func (s *spender) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.budget.spent += int64(n)
	if over := s.budget.check(s.budget.spent); over != nil {
		return n, over
	}
	return n, err
}

// findRoot returns the folder of an unpacked archive that holds the files.
func findRoot(dir string) (string, error) {
	names, err := filesBelow(dir)
	if err != nil {
		return "", err
	}
	root, err := rootOf(names)
	return filepath.Join(dir, filepath.FromSlash(root)), err
}

// filesBelow lists the files below a folder, as paths within it.
func filesBelow(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	return names, err
}

// rootOf returns the folder that holds a model or an expert among the names of files: the
// one with a config.json or a manifest or, failing that, an expert's or an adapter's file
// that is nearest to the top.
func rootOf(names []string) (string, error) {
	best, depth := "", -1
	for _, name := range names {
		switch path.Base(name) {
		case checkpoint.ConfigFile, contract.ManifestFile, expert.File, peft.ConfigFile:
		default:
			continue
		}
		d, dir := strings.Count(name, "/"), path.Dir(name)
		if depth >= 0 && d == depth && dir != best {
			return "", fmt.Errorf("holds several models: %s and %s", path.Base(best), path.Base(dir))
		}
		if depth < 0 || d < depth {
			best, depth = dir, d
		}
	}
	if depth < 0 {
		return "", fmt.Errorf("holds neither a model (%s) nor an expert (%s) nor an adapter (%s)", checkpoint.ConfigFile, expert.File, peft.ConfigFile)
	}
	return best, nil
}

func (t *archiveTree) take(_ context.Context, name, dst string, limit int64) error {
	return moveOut(t.dir, name, "archive "+t.name, dst, limit)
}

// moveOut takes a file out of the folder that an archive was unpacked to.
func moveOut(dir, name, description, dst string, limit int64) error {
	from := filepath.Join(dir, filepath.FromSlash(name))
	stat, err := os.Lstat(from)
	if err != nil {
		return fmt.Errorf("%s: %w", description, err)
	}
	if stat.Size() > limit {
		return fmt.Errorf("%s in %s has %d bytes, at most %d are allowed", name, description, stat.Size(), limit)
	}
	if err := os.Rename(from, dst); err != nil {
		return fmt.Errorf("fetching: %w", err)
	}
	return nil
}

func (t *archiveTree) String() string { return t.name }

func (t *archiveTree) revision() string { return "" }

func (t *archiveTree) close() error { return t.staging.Discard() }
