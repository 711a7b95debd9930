// Package artifact writes to a data volume so that a reader, or a pod that
// restarts, never meets half of anything: files and folders come into being
// under a temporary name, are synced, and then renamed.
//
// Several pods may share a volume and run as different users of one group, so
// everything is group-writable, whatever the umask says.
package artifact

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
)

// Modes of what is created on a data volume.
const (
	FileMode fs.FileMode = 0o664
	DirMode  fs.FileMode = 0o775
)

// maxManifest bounds a manifest: a model of some hundred shards needs 50 KiB.
const maxManifest = 16 << 20

// tempPrefix begins the names of files and folders in the making. Readers of a
// volume skip names that begin with a dot.
const tempPrefix = ".tmp-"

// WriteFileAtomic writes a file through write: under a temporary name in the
// same folder, synced, then renamed over path. On an error nothing is left
// and the old file stays. Where path is a link, what it leads to is replaced,
// and the link stays. What is no regular file (a device, a pipe, /dev/stdout)
// is written to and never replaced.
func WriteFileAtomic(path string, write func(io.Writer) error) error {
	final, stream, err := follow(path)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if stream != nil {
		return writeStream(stream, write)
	}
	return replaceFile(final, write)
}

// writeStream writes to what is no regular file, and closes it.
func writeStream(f *os.File, write func(io.Writer) error) error {
	w := bufio.NewWriterSize(f, 1<<20)
	err := write(w)
	if err == nil {
		err = w.Flush()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", f.Name(), err)
	}
	return nil
}

func replaceFile(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()), ignoreMissing(os.Remove(f.Name())))
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Chmod(FileMode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("publishing %s: %w", path, err)
	}
	return syncPath(dir)
}

// WriteJSONAtomic writes v as indented JSON by WriteFileAtomic.
func WriteJSONAtomic(path string, v any) error {
	b, err := indented(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return WriteFileAtomic(path, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// MkdirAll creates dir and its missing parents, group-writable.
func MkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, DirMode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
				return nil // Another pod was faster.
			}
		}
		return fmt.Errorf("creating folder: %w", err)
	}
	// Mkdir obeys the umask; the group must be able to write all the same.
	if err := os.Chmod(dir, DirMode|setgid(dir)); err != nil {
		return fmt.Errorf("creating folder: %w", err)
	}
	return nil
}

// setgid keeps the bit by which a volume hands its group on to new files.
func setgid(dir string) fs.FileMode {
	if info, err := os.Stat(dir); err == nil {
		return info.Mode() & fs.ModeSetgid
	}
	return 0
}

// ReadManifest decodes the manifest of the artifact in dir. A folder without
// one is no artifact: the error then satisfies errors.Is(err, fs.ErrNotExist).
func ReadManifest[M any](dir string) (M, error) {
	var m M
	path := filepath.Join(dir, contract.ManifestFile)
	b, err := ReadSealed(path, maxManifest)
	if errors.Is(err, ErrDamaged) {
		return m, fmt.Errorf("reading manifest: %w; %s", err, Remedy(dir))
	}
	if err != nil {
		return m, fmt.Errorf("reading manifest: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("reading manifest %s: %w; %s", path, err, Remedy(dir))
	}
	return m, nil
}

// Remedy says what to do about an artifact that is damaged.
func Remedy(dir string) string {
	return fmt.Sprintf("remove the folder %s, and bring or make the artifact again", dir)
}

// WriteManifest writes the manifest of the artifact in dir.
func WriteManifest(dir string, manifest any) error {
	return WriteSealed(filepath.Join(dir, contract.ManifestFile), manifest)
}

// ReadBounded reads a whole file of at most limit bytes. A Git LFS pointer in its
// place is an error, see CheckLFSPointer.
func ReadBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes: too big for what it should be", path, limit)
	}
	if err := CheckLFSPointer(path, b); err != nil {
		return nil, err
	}
	return b, nil
}

// HashFile returns the size and digest of dir/name as an entry named name.
func HashFile(dir, name string) (contract.FileEntry, error) {
	return hashFile(context.Background(), dir, name)
}

func hashFile(ctx context.Context, dir, name string) (contract.FileEntry, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return contract.FileEntry{}, err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, f})
	if err != nil {
		return contract.FileEntry{}, fmt.Errorf("hashing %s: %w", f.Name(), err)
	}
	return contract.FileEntry{
		Path: name, SizeBytes: n, SHA256: contract.DigestPrefix + hex.EncodeToString(h.Sum(nil)),
	}, nil
}

// contextReader reads until its context is done.
type contextReader struct {
	ctx context.Context //nolint:containedctx // Of the one call that reads.
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// HashFiles hashes the named files of dir, sorted by name.
func HashFiles(dir string, names []string) ([]contract.FileEntry, error) {
	sorted := slices.Sorted(slices.Values(names))
	entries := make([]contract.FileEntry, 0, len(sorted))
	for _, name := range sorted {
		e, err := HashFile(dir, name)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Verify checks that every file of an artifact is in dir and is what its entry
// says. The error names the first that is not.
func Verify(dir string, files []contract.FileEntry) error {
	return VerifyContext(context.Background(), dir, files)
}

// VerifyContext is Verify, which ends with an error when ctx does.
func VerifyContext(ctx context.Context, dir string, files []contract.FileEntry) error {
	err := Compare(ctx, dir, files)
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("%w; %s", err, Remedy(dir))
	}
	return err
}

// Compare is VerifyContext for a folder that is not ours to remove: its errors do not say so.
func Compare(ctx context.Context, dir string, files []contract.FileEntry) error {
	for _, want := range files {
		if !filepath.IsLocal(filepath.FromSlash(want.Path)) {
			return fmt.Errorf("manifest of %s names %q, which is outside of the folder", dir, want.Path)
		}
		got, err := hashFile(ctx, dir, want.Path)
		if err != nil {
			return fmt.Errorf("verifying %s: %w", dir, err)
		}
		if got.SizeBytes != want.SizeBytes {
			return fmt.Errorf("%s in %s has %d bytes, its manifest says %d: %w", want.Path, dir, got.SizeBytes, want.SizeBytes, ErrDamaged)
		}
		if got.SHA256 != want.SHA256 {
			return fmt.Errorf("%s in %s has digest %s, its manifest says %s: %w", want.Path, dir, got.SHA256, want.SHA256, ErrDamaged)
		}
	}
	return nil
}

// TotalBytes is the sum of the files' sizes.
func TotalBytes(files []contract.FileEntry) int64 {
	var n int64
	for _, f := range files {
		n += f.SizeBytes
	}
	return n
}

// syncPath makes what was written to a file or folder durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", path, err)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
