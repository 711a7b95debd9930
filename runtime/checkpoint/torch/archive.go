package torch

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/transformersquared/operator/runtime/tensor"
)

// Names of the entries below an archive's one folder.
const (
	pickleEntry    = "data.pkl"
	orderEntry     = "byteorder"
	constantsEntry = "constants.pkl" // Of TorchScript programs only.
	dataFolder     = "data/"
)

// Bounds of an archive. The pickle of Llama-3.1-405B's matrices has 200 KB, and an
// entry for each.
const (
	maxEntries = 1 << 16
	maxPickle  = 8 << 20
)

// archive is an open zip archive of torch.save.
type archive struct {
	entries  map[string]*zip.File // without their folder
	storages map[string]*storage
	// budget is how many bytes of data may yet be read. Entries of a hostile archive
	// can lie over each other, so that their sum is larger than the file.
	budget int64
}

// storage is the raw data that tensors are views of.
type storage struct {
	dtype tensor.DType
	numel int64
	entry *zip.File
	data  []byte // nil until it is read
}

// f64 is read, but rounded to float32.
const f64 tensor.DType = "F64"

// storageTypes has the types of data that become float32.
var storageTypes = map[string]tensor.DType{
	"FloatStorage": tensor.F32, "BFloat16Storage": tensor.BF16, "HalfStorage": tensor.F16, "DoubleStorage": f64,
}

func elementSize(t tensor.DType) int64 {
	if t == f64 {
		return 8
	}
	return int64(t.Size())
}

func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("is a damaged zip archive: %w", err)
	}
	if len(z.File) > maxEntries {
		return nil, fmt.Errorf("is an archive of %d entries, at most %d are read", len(z.File), maxEntries)
	}
	a := &archive{entries: map[string]*zip.File{}, storages: map[string]*storage{}, budget: MaxBytes}
	// Programs have entries that are compressed; better say what they are.
	for _, f := range z.File {
		if path.Base(f.Name) == constantsEntry {
			return nil, errors.New("is a TorchScript program (torch.jit.save): save the module's state_dict with torch.save")
		}
	}
	folder := ""
	for i, f := range z.File {
		first, name, ok := strings.Cut(f.Name, "/")
		if !ok || i > 0 && first != folder {
			return nil, fmt.Errorf("is an archive with the entry %q: torch.save puts everything into one folder", f.Name)
		}
		folder = first
		if a.entries[name] != nil {
			return nil, fmt.Errorf("is an archive that has %q twice", f.Name)
		}
		// torch.save never compresses. What is stored as it is cannot be larger
		// than the file.
		if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.UncompressedSize64 > uint64(size) {
			return nil, fmt.Errorf("is an archive whose entry %q is compressed: torch.save compresses nothing; save it again with PyTorch", f.Name)
		}
		a.entries[name] = f
	}
	if a.entries[pickleEntry] == nil {
		return nil, fmt.Errorf("is an archive without %s: torch.save did not write it", pickleEntry)
	}
	return a, a.checkOrder()
}

// checkOrder refuses data of big-endian machines. Before PyTorch 2.1 files did not
// say; those that exist are little-endian.
func (a *archive) checkOrder() error {
	f := a.entries[orderEntry]
	if f == nil {
		return nil
	}
	order, err := readEntry(f, 16)
	if err != nil {
		return err
	}
	if string(order) != "little" {
		return fmt.Errorf("has byte order %q; little-endian files are read", order)
	}
	return nil
}

func (a *archive) program() ([]byte, error) { return readEntry(a.entries[pickleEntry], maxPickle) }

// readEntry reads a whole entry of at most limit bytes and checks its checksum.
func readEntry(f *zip.File, limit int64) (_ []byte, err error) {
	if f.UncompressedSize64 > uint64(limit) {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", f.Name, f.UncompressedSize64, limit)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	b := make([]byte, f.UncompressedSize64)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	// The checksum is compared at the end, which reading b alone does not reach.
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("is longer than it says")
		}
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return b, nil
}

// storage resolves the persistent id ("storage", type, key, device, elements) by which
// a pickle refers to data outside of it. On which device it was does not matter.
func (a *archive) storage(id any) (*storage, error) {
	parts, ok := id.(tuple)
	if !ok || len(parts) != 5 || parts[0] != "storage" {
		return nil, fmt.Errorf("refers to %s outside of it; torch.save refers to the storages of tensors alone", kind(id))
	}
	class, isClass := parts[1].(global)
	key, isKey := parts[2].(string)
	numel, isCount := parts[4].(int64)
	if !isClass || !isKey || !isCount {
		return nil, errors.New("refers to a storage without a type, a key or a number of elements")
	}
	dtype, ok := storageTypes[class.name]
	if !ok || class.module != "torch" {
		return nil, fmt.Errorf("storage %s is a %s; of float32, bfloat16, float16 and float64 data are read", key, class)
	}
	if s := a.storages[key]; s != nil {
		if s.dtype != dtype || s.numel != numel {
			return nil, fmt.Errorf("storage %s is referred to as %d of %s and as %d of %s", key, s.numel, s.dtype, numel, dtype)
		}
		return s, nil
	}
	entry := a.entries[dataFolder+key]
	if entry == nil {
		return nil, fmt.Errorf("storage %s is not in the archive: the file is incomplete", key)
	}
	if numel < 0 || numel > MaxBytes || uint64(numel*elementSize(dtype)) != entry.UncompressedSize64 {
		return nil, fmt.Errorf("storage %s should have %d elements of %s, but has %d bytes", key, numel, dtype, entry.UncompressedSize64)
	}
	s := &storage{dtype: dtype, numel: numel, entry: entry}
	a.storages[key] = s
	return s, nil
}
