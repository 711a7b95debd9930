package checkpoint_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/tensor"
)

// large writes a file of one matrix and returns its path, its bytes and the
// matrix.
func large(tb testing.TB, dtype tensor.DType) (string, []byte, *tensor.Tensor) {
	tb.Helper()
	want := tensor.New(700, 1000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range want.Data {
		want.Data[i] = tensor.BF16ToF32(tensor.F32ToBF16(r.Float32()))
	}
	path := filepath.Join(tb.TempDir(), "model.safetensors")
	if err := checkpoint.WriteSafetensors(path, map[string]*tensor.Tensor{"w": want}, dtype, nil); err != nil {
		tb.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return path, b, want
}

func TestMappedAndReadTensorsAreEqual(t *testing.T) {
	path, b, want := large(t, tensor.BF16)
	mapped, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	read, err := checkpoint.Read(bytes.NewReader(b), int64(len(b)), path)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*checkpoint.File{"mapped": mapped, "read": read} {
		got, err := f.Tensor("w")
		if err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(want.Data, got.Data) {
			t.Errorf("%s: another matrix", name)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := mapped.Tensor("w"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("reading a closed file: %v", err)
	}
	if err := mapped.Close(); err != nil {
		t.Errorf("closing it again: %v", err)
	}
}

func TestAFileThatIsCutWhileItIsReadIsAnError(t *testing.T) {
	path, _, _ := large(t, tensor.F32)
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensor("w"); err == nil || !strings.Contains(err.Error(), `tensor "w"`) || !strings.Contains(err.Error(), "shortened") {
		t.Errorf("got %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkTensor(b *testing.B) {
	for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16} {
		path, content, want := large(b, dtype)
		mapped, err := checkpoint.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		disk, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		read, err := checkpoint.Read(disk, int64(len(content)), path)
		if err != nil {
			b.Fatal(err)
		}
		for name, f := range map[string]*checkpoint.File{"mapped": mapped, "read": read} {
			b.Run(string(dtype)+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(want.Data) * dtype.Size()))
				for b.Loop() {
					if _, err := f.Tensor("w"); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
