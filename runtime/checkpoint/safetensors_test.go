package checkpoint_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// file writes a safetensors file with this header and n bytes of data.
func file(t testing.TB, header string, n int) string {
	t.Helper()
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(append(b, header...), make([]byte, n)...)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTensorsSurviveWritingAndReading(t *testing.T) {
	// All of them are exact in each format.
	values := map[string]*tensor.Tensor{
		"b.matrix": {Shape: []int{2, 3}, Data: []float32{1, -2, 0.5, 0, 1024, -0.25}},
		"a.vector": {Shape: []int{2}, Data: []float32{3, -4}},
		"c.empty":  {Shape: []int{0, 5}, Data: []float32{}},
		"d.scalar": {Shape: []int{}, Data: []float32{7}},
	}
	for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := checkpoint.WriteSafetensors(path, values, dtype, map[string]string{"format": "pt"}); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if diff := cmp.Diff([]string{"a.vector", "b.matrix", "c.empty", "d.scalar"}, f.Names()); diff != "" {
			t.Errorf("%s: names -want +got\n%s", dtype, diff)
		}
		if diff := cmp.Diff(map[string]string{"format": "pt"}, f.Metadata()); diff != "" {
			t.Errorf("%s: metadata -want +got\n%s", dtype, diff)
		}
		for name, want := range values {
			got, err := f.Tensor(name)
			if err != nil {
				t.Fatalf("%s: %v", dtype, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s -want +got\n%s", dtype, name, diff)
			}
		}
	}
}

func TestEqualTensorsGiveEqualFiles(t *testing.T) {
	dir := t.TempDir()
	var files [2][]byte
	for i := range files {
		tensors := map[string]*tensor.Tensor{}
		for _, name := range []string{"x", "y", "z", "w"} {
			tensors[name] = tensor.New(3, 4)
		}
		path := filepath.Join(dir, "x.safetensors")
		if err := checkpoint.WriteSafetensors(path, tensors, tensor.F32, map[string]string{"a": "1", "b": "2"}); err != nil {
			t.Fatal(err)
		}
		var err error
		if files[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !cmp.Equal(files[0], files[1]) {
		t.Error("the same tensors gave different bytes")
	}
}

func TestHostileHeadersAreRefused(t *testing.T) {
	const one = `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	for _, c := range []struct {
		name, header string
		data         int
		want         string // part of the error
	}{
		{"no object", `[1]`, 0, "does not begin with '{'"},
		{"broken JSON", `{"a":`, 0, "header"},
		{"text after the object", `{` + one + `} x`, 8, "after the JSON object"},
		{"no UTF-8", "{\"\xff\":1}", 0, "UTF-8"},
		{"one name twice", `{` + one + `,` + one + `}`, 8, "twice"},
		{"one field twice", `{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8, "twice"},
		{"metadata of the wrong type", `{"__metadata__":{"x":1},` + one + `}`, 8, "no string"},
		{"a dtype that is no name", `{"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}}`, 8, "no name of a type"},
		{"an unknown dtype beyond the file", `{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,16]}}`, 8, "truncated"},
		{"an unknown dtype that leaves a hole", `{"a":{"dtype":"Q4","shape":[2],"data_offsets":[2,8]}}`, 8, "unused bytes"},
		{"a shape of an unknown dtype that overflows", `{"a":{"dtype":"Q4","shape":[4611686018427387904,4],"data_offsets":[0,8]}}`, 8, "overflows"},
		{"metadata that is a list", `{"__metadata__":[],` + one + `}`, 8, "where { should be"},
		{"unknown field", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}`, 8, "unknown field"},
		{"no dtype", `{"a":{"shape":[2],"data_offsets":[0,8]}}`, 8, "no dtype"},
		{"no shape", `{"a":{"dtype":"F32","data_offsets":[0,8]}}`, 8, "no shape"},
		{"no offsets", `{"a":{"dtype":"F32","shape":[2]}}`, 8, "data_offsets"},
		{"three offsets", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}`, 8, "data_offsets"},
		{"offsets backwards", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, 8, "end before they begin"},
		{"negative offset", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`, 8, "non-negative"},
		{"negative dimension", `{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, 8, "non-negative"},
		{"fractional dimension", `{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}`, 8, "non-negative integer"},
		{"too many dimensions", `{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}}`, 8, "more than 16"},
		{"shape that overflows to 8 bytes", `{"a":{"dtype":"F32","shape":[4611686018427387906,2],"data_offsets":[0,8]}}`, 8, "overflows"},
		{"size unlike the shape", `{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8, "needs 12 bytes"},
		{"beyond the file", `{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, 8, "truncated"},
		{"overlap", `{` + one + `,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12, "overlaps"},
		{"hole", `{` + one + `,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}`, 16, "unused bytes"},
		{"bytes left over", `{` + one + `}`, 12, "after the last tensor"},
		{"nested too deep to be a shape", `{"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}}`, 8, "no number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := checkpoint.Open(file(t, c.header, c.data))
			if err == nil {
				_ = f.Close()
				t.Fatal("the file was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != contract.ReasonInvalidModel || !permanent {
				t.Errorf("classified as %s, permanent %v", reason, permanent)
			}
		})
	}
}

func TestHugeAndTruncatedHeadersAreRefusedBeforeTheyAreRead(t *testing.T) {
	for name, prefix := range map[string][]byte{
		"empty":                  {},
		"shorter than a length":  {1, 2, 3},
		"longer than the limit":  binary.LittleEndian.AppendUint64(nil, 101<<20),
		"longer than the file":   binary.LittleEndian.AppendUint64(nil, 1000),
		"longer than any number": binary.LittleEndian.AppendUint64(nil, math.MaxUint64),
	} {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, prefix, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := checkpoint.Open(path); err == nil {
			t.Errorf("%s: accepted", name)
		} else if reason, _ := failure.Of(err); reason != contract.ReasonInvalidModel {
			t.Errorf("%s: reason %s of %v", name, reason, err)
		}
	}
}

func TestValuesThatAreNoNumbersAreRefusedWithTheirPlace(t *testing.T) {
	for name, bad := range map[string]float32{"NaN": float32(math.NaN()), "+Inf": float32(math.Inf(1)), "-Inf": float32(math.Inf(-1))} {
		path := file(t, `{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}`, 16)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint32(b[len(b)-8:], math.Float32bits(bad))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		_, err = f.Tensor("w")
		if err == nil || !strings.Contains(err.Error(), `"w"`) || !strings.Contains(err.Error(), "element 2 is "+name) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := checkpoint.WriteSafetensors(path, map[string]*tensor.Tensor{"w": {Shape: []int{1}, Data: []float32{bad}}}, tensor.F32, nil); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}

func TestWhatIsNotUsedDoesNotMatter(t *testing.T) {
	path := file(t, `{"__metadata__":null,"norm":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},`+
		`"extra":{"dtype":"F4","shape":[3],"data_offsets":[16,18]},"w":{"dtype":"F32","shape":[1],"data_offsets":[18,22]}}`, 22)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data := b[len(b)-22:]
	binary.LittleEndian.PutUint64(data, math.Float64bits(1.5))
	binary.LittleEndian.PutUint64(data[8:], math.Float64bits(-1.0/3))
	binary.LittleEndian.PutUint32(data[18:], math.Float32bits(7))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for name, want := range map[string][]float32{"norm": {1.5, -1.0 / 3}, "w": {7}} {
		got, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Data); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
	if _, err := f.Tensor("extra"); err == nil || !strings.Contains(err.Error(), "dtype F4") {
		t.Errorf("a type that is not known was read: %v", err)
	}
	if f.Metadata() != nil {
		t.Errorf("metadata %v", f.Metadata())
	}
}

func TestOnlyFloatsAreLoaded(t *testing.T) {
	f, err := checkpoint.Open(file(t, `{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}`, 8))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Tensor("ids"); err == nil || !strings.Contains(err.Error(), "I64") {
		t.Errorf("got %v, want an error that names I64", err)
	}
	if _, err := f.Tensor("nothing"); err == nil {
		t.Error("a tensor that is not there was read")
	}
}

func TestAFileThatIsNotThereIsNoInvalidModel(t *testing.T) {
	_, err := checkpoint.Open(filepath.Join(t.TempDir(), "x"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, permanent := failure.Of(err); permanent {
		t.Error("a missing file is permanent")
	}
}

// FuzzSafetensors: whatever a file holds, opening it gives an error or tensors
// that can be read within the file.
func FuzzSafetensors(f *testing.F) {
	for _, header := range []string{
		`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`,
		`{"__metadata__":{"x":"y"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}  `,
		`{"__metadata__":null,"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F4","shape":[16],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}`,
	} {
		f.Add(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header+"12345678"...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := checkpoint.Read(bytes.NewReader(b), int64(len(b)), "fuzz")
		if err != nil {
			return
		}
		total := int64(0)
		for _, name := range file.Names() {
			info, _ := file.Info(name)
			if info.Offset < 8 || info.Offset+info.Size > int64(len(b)) {
				t.Fatalf("tensor %q lies at %d+%d of %d bytes", name, info.Offset, info.Size, len(b))
			}
			total += info.Size
			if x, err := file.Tensor(name); err == nil && int64(len(x.Data)) != info.Elements() {
				t.Fatalf("tensor %q of shape %v has %d elements", name, info.Shape, len(x.Data))
			}
		}
		if total > int64(len(b)) {
			t.Fatalf("tensors of %d bytes in a file of %d", total, len(b))
		}
	})
}
