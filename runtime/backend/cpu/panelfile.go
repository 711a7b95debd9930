package cpu

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"
)

// A file of panels is 4 KiB of header and the panels' words, as they are in memory:
//
//	"t2-panels/1" and zeros, 16 bytes
//	SHA-256 of which matrix it is, and in which layout
//	the number of words, 8 bytes
//	CRC-32C of the words, and of all of the header before it, 4 bytes each
//	zeros
//
// The words' sum is checked whenever the file is mapped: each process reads all of them
// from one end to the other then, which takes a tenth of the time to convert and pack
// them, and in which their pages come to memory.
const (
	panelHeader = 4 << 10
	panelMagic  = 16
	panelFields = panelMagic + sha256.Size + 8 + 4 + 4
	tempPrefix  = ".tmp-"
)

// errDamaged: a file is none of the matrix that its name says.
var errDamaged = errors.New("no file of this matrix")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func panelFileHeader(signature [sha256.Size]byte, words int, sum uint32) []byte {
	h := make([]byte, panelMagic, panelHeader)
	copy(h, layoutVersion)
	h = append(h, signature[:]...)
	h = binary.LittleEndian.AppendUint64(h, uint64(words))
	h = binary.LittleEndian.AppendUint32(h, sum)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
	return h[:panelHeader]
}

// mapPanels maps a file of so many words, once it was read and its sum is right. A file
// that is something else is errDamaged.
func mapPanels(path string, signature [sha256.Size]byte, words int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := panelHeader + 4*int64(words)
	if !info.Mode().IsRegular() || info.Size() != size {
		return nil, fmt.Errorf("%w: %s of %d bytes, want %d", errDamaged, info.Mode(), info.Size(), size)
	}
	header := make([]byte, panelHeader)
	if _, err := io.ReadFull(f, header); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	sum := binary.LittleEndian.Uint32(header[panelMagic+sha256.Size+8:])
	if !bytes.Equal(header, panelFileHeader(signature, words, sum)) {
		return nil, fmt.Errorf("%w: the header is another's", errDamaged)
	}
	// By reading, and not in the mapping: a disk that fails is an error so.
	got := crc32.New(castagnoli)
	if n, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	} else if n != size-panelHeader || got.Sum32() != sum {
		return nil, fmt.Errorf("%w: its checksum is wrong", errDamaged)
	}
	mapped, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	return mapped, os.NewSyscallError("mmap", err)
}

// over makes the layout's panels those of a mapped file, which is unmapped when nobody
// refers to them any more.
func (p *packed) over(memory *memory, mapped []byte) *packed {
	memory.adopt(mapped)
	runtime.AddCleanup(p, memory.drop, &mapped[0])
	words := p.words()
	p.panels = unsafe.Slice((*float32)(unsafe.Pointer(&mapped[panelHeader])), words)[:words:words] //nolint:gosec // Behind the header, and as many as the file has.
	return p
}

// writePanels writes a file that appears whole or not at all. Where there is one by then,
// it stays: others have mapped it.
func writePanels(path string, signature [sha256.Size]byte, p *packed) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); !errors.Is(closed, os.ErrClosed) {
			err = errors.Join(err, closed)
		}
		if removed := os.Remove(f.Name()); !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}()
	words := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(p.panels))), 4*len(p.panels)) //nolint:gosec // The same memory.
	for _, part := range [][]byte{panelFileHeader(signature, p.words(), crc32.Checksum(words, castagnoli)), words} {
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	runtime.KeepAlive(p)
	if err := f.Chmod(sharedFileMode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
