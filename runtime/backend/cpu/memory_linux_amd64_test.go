package cpu

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestBuffersLieInHugePages checks that all of a large buffer's memory is advised to be
// in huge pages, and not only those pages that it fills. The code is the same for all
// processors, but an emulated one's system takes advice and shows nothing of it.
func TestBuffersLieInHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skipf("this kernel has no transparent huge pages: %v", err)
	}
	b := newTest(t, 1, "plain")
	for _, n := range []int{hugePage / 4, 600_000, 5 << 20} {
		buf, err := b.Alloc(backend.F32, n)
		if err != nil {
			t.Fatal(err)
		}
		data := buf.(*buffer).wide
		start := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
		for at := start; at < start+uintptr(4*n); {
			end, advised := mapping(t, at)
			if !advised {
				t.Fatalf("%d floats: byte %d of %d is not advised", n, at-start, 4*n)
			}
			at = end
		}
	}
}

// TestWeightsLieInHugePages checks that weights' memory begins at a huge page, and was
// advised to be in such.
func TestWeightsLieInHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skipf("this kernel has no transparent huge pages: %v", err)
	}
	b := newTest(t, 1, "plain")
	for _, out := range []int{8, 1024} {
		w, err := b.NewWeight(backend.F32, out, 1024, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := uintptr(unsafe.Pointer(unsafe.SliceData(w.(*weight).forward.panels)))
		if _, advised := mapping(t, start); !advised {
			t.Errorf("[%d, 1024] is not advised", out)
		}
	}
	for _, c := range b.weights.chunks {
		if start := uintptr(unsafe.Pointer(unsafe.SliceData(c.pages))); start%hugePage != 0 || len(c.pages)%hugePage != 0 {
			t.Errorf("a chunk of %d bytes begins at %#x", len(c.pages), start)
		}
	}
}

// mapping returns where the mapping of an address ends, and whether huge pages were
// asked for in it.
func mapping(t *testing.T, at uintptr) (end uintptr, advised bool) {
	t.Helper()
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			found, end = from <= at && at < to, to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && found {
			return end, slices.Contains(strings.Fields(flags), "hg")
		}
	}
	t.Fatalf("no mapping has the address %#x", at)
	return 0, false
}
