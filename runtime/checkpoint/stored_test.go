package checkpoint_test

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/tensor"
)

func entry(name string, dtype tensor.DType, elements int) checkpoint.Stored {
	t := tensor.New(elements)
	for i := range t.Data {
		t.Data[i] = float32(i + 1)
	}
	return checkpoint.Entry{Name: name, DType: dtype, Tensor: t}.Stored()
}

// TestStoredTensorsLieAsTheReferenceLaysThem spells the bytes out that the safetensors
// library writes: metadata first, wide types before narrow ones, then names.
func TestStoredTensorsLieAsTheReferenceLaysThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	bytes := checkpoint.Stored{Name: "a", DType: "U8", Shape: []int{3}, Size: 3, Write: func(w io.Writer) error {
		_, err := io.WriteString(w, "abc")
		return err
	}}
	tensors := []checkpoint.Stored{bytes, entry("Z<", tensor.F16, 1), entry("b", tensor.F32, 1), entry("y", tensor.BF16, 2), entry("B", tensor.F32, 1)}
	if err := checkpoint.WriteStored(path, tensors, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	header := `{"__metadata__":{"format":"pt"},"B":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},` +
		`"y":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},"Z<":{"dtype":"F16","shape":[1],"data_offsets":[12,14]},"a":{"dtype":"U8","shape":[3],"data_offsets":[14,17]}}`
	header += strings.Repeat(" ", (8-len(header)%8)%8)
	want := string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header +
		"\x00\x00\x80\x3f" + "\x00\x00\x80\x3f" + "\x80\x3f\x00\x40" + "\x00\x3c" + "abc"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestTensorsThatDoNotAddUpAreNotWritten(t *testing.T) {
	short := entry("x", tensor.F32, 2)
	short.Write = func(io.Writer) error { return nil }
	long := entry("x", tensor.F32, 2)
	long.Size = 9
	for name, c := range map[string]struct {
		tensors []checkpoint.Stored
		want    string
	}{
		"fewer bytes":    {[]checkpoint.Stored{short}, "0 bytes were written, not 8"},
		"another size":   {[]checkpoint.Stored{long}, "needs 8 bytes"},
		"a name twice":   {[]checkpoint.Stored{entry("x", tensor.F32, 1), entry("x", tensor.F32, 1)}, "is taken"},
		"the metadata's": {[]checkpoint.Stored{entry("__metadata__", tensor.F32, 1)}, "is taken"},
	} {
		dir := t.TempDir()
		err := checkpoint.WriteStored(filepath.Join(dir, "x.safetensors"), c.tensors, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v (%v)", name, left, err)
		}
	}
	if err := checkpoint.WriteShards(t.TempDir(), nil, nil, 1); err == nil {
		t.Error("no tensors were written")
	}
}

func TestShardsAreFilledInOrder(t *testing.T) {
	dir := t.TempDir()
	tensors := []checkpoint.Stored{
		entry("b", tensor.F32, 2), entry("a", tensor.F32, 1), entry("large", tensor.F32, 9), entry("c", tensor.F32, 3), entry("d", tensor.BF16, 0), entry("e", tensor.F32, 1),
	}
	if err := checkpoint.WriteShards(dir, tensors, map[string]string{"format": "pt"}, 12); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, checkpoint.IndexFile))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Metadata  map[string]int64  `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	in := func(i string) string { return "model-0000" + i + "-of-00004.safetensors" }
	want := map[string]string{"b": in("1"), "a": in("1"), "large": in("2"), "c": in("3"), "d": in("3"), "e": in("4")}
	if diff := cmp.Diff(want, index.WeightMap); diff != "" || index.Metadata["total_size"] != 64 {
		t.Errorf("total %d, -want +got\n%s", index.Metadata["total_size"], diff)
	}
	for _, file := range checkpoint.IndexShards(index.WeightMap) {
		f, err := checkpoint.Open(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range f.Names() {
			if index.WeightMap[name] != file || f.Metadata()["format"] != "pt" {
				t.Errorf("%s is in %s, with %v", name, file, f.Metadata())
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
