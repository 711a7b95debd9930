package torch_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint/torch"
	"github.com/transformersquared/operator/runtime/tensor"
)

// The files of testdata are written by PyTorch: hack/golden/reference.py.

// golden is a tensor as values.json has it.
type golden struct {
	Shape  []int    `json:"shape"`
	DType  string   `json:"dtype"`
	Values []string `json:"values"`
}

var dtypes = map[string]tensor.DType{
	"torch.float32": tensor.F32, "torch.bfloat16": tensor.BF16, "torch.float16": tensor.F16, "torch.float64": tensor.F32,
}

func goldens(t *testing.T) map[string]map[string]golden {
	t.Helper()
	b, err := os.ReadFile("testdata/values.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]golden
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFilesOfPyTorchHaveTheirValues(t *testing.T) {
	want := goldens(t)
	for file, key := range map[string]string{"tensors.pt": "tensors", "protocol4.pt": "tensors", "module.pt": "module"} {
		got, err := torch.Open(filepath.Join("testdata", file))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if len(got) != len(want[key]) {
			t.Errorf("%s: %d tensors, want %d", file, len(got), len(want[key]))
		}
		for _, n := range got {
			g := want[key][n.Name]
			text := make([]string, len(n.Tensor.Data))
			for i, v := range n.Tensor.Data {
				text[i] = spell(v)
			}
			for i, v := range g.Values {
				f, err := strconv.ParseFloat(v, 64)
				if err != nil {
					t.Fatal(err)
				}
				g.Values[i] = spell(float32(f))
			}
			if n.DType != dtypes[g.DType] || !slices.Equal(n.Tensor.Shape, g.Shape) || !slices.Equal(text, g.Values) {
				t.Errorf("%s: %q is %s %v %v, want %+v", file, n.Name, n.DType, n.Tensor.Shape, text, g)
			}
		}
	}
}

func spell(v float32) string { return strconv.FormatFloat(float64(v), 'g', -1, 32) }

func TestTensorsComeInTheOrderOfTheDict(t *testing.T) {
	got, err := torch.Open("testdata/module.pt")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range got {
		names = append(names, n.Name)
	}
	if diff := cmp.Diff([]string{"buffer", "linear.weight", "linear.bias"}, names); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestWhatPyTorchWritesButNobodyNeedsIsRefusedByName(t *testing.T) {
	for file, want := range map[string]string{
		"whole.pt":    `"__main__.Small"`,
		"device.pt":   `"torch.device"`,
		"integers.pt": "torch.LongStorage",
		"list.pt":     "holds a list",
		"nested.pt":   `"a" is a dict`,
		"expanded.pt": "expanded",
		"legacy.pt":   "format before 1.6",
		"script.pt":   "TorchScript",
		"values.json": "torch.save did not write it",
	} {
		path := filepath.Join("testdata", file)
		_, err := torch.Open(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that says %q", file, err, want)
		}
	}
}

func TestFilesOfTorchSaveAreTold(t *testing.T) {
	for file, want := range map[string]bool{"tensors.pt": true, "legacy.pt": true, "values.json": false} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if got := torch.Saved(b[:min(len(b), 512)]); got != want {
			t.Errorf("%s: %v", file, got)
		}
	}
	ustar := make([]byte, 512)
	copy(ustar[257:], "ustar")
	if !torch.Saved(ustar) || torch.Saved(nil) {
		t.Error("a tar archive is not told, or nothing is")
	}
}

// pack makes an archive of these entries.
func pack(tb testing.TB, method uint16, entries map[string]string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err == nil {
			_, err = io.WriteString(f, entries[name])
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte) ([]torch.Named, error) {
	return torch.Read(bytes.NewReader(b), int64(len(b)), "file")
}

// text is a pickled string, and one is a pickled dict {"x": tensor} of storage 0,
// float32, with these sizes and strides (pickled, too).
func text(s string) string { return "X" + string([]byte{byte(len(s)), 0, 0, 0}) + s }

func one(class, numel, offset, size, stride string) string {
	return "\x80\x02}" + text("x") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + class + text("0") + text("cpu") + numel +
		"tQ" + offset + size + stride + "\x89ccollections\nOrderedDict\n)RtRs."
}

const (
	float32s = "ctorch\nFloatStorage\n"
	two      = "K\x02"
	none     = "K\x00"
)

func TestNewerFilesSayMoreAboutThemselves(t *testing.T) {
	// As PyTorch 2.x: where the other entries are, and in which byte order.
	entries := map[string]string{
		"x/data.pkl": one(float32s, two, none, "K\x02\x85", "K\x01\x85"), "x/data/0": "\x00\x00\x80\x3f\x00\x00\x00\x40",
		"x/version": "3\n", "x/byteorder": "little", "x/.format_version": "1", "x/.storage_alignment": "64",
	}
	got, err := read(pack(t, zip.Store, entries))
	if err != nil {
		t.Fatal(err)
	}
	want := []torch.Named{{Name: "x", DType: tensor.F32, Tensor: &tensor.Tensor{Shape: []int{2}, Data: []float32{1, 2}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	entries["x/byteorder"] = "big"
	if _, err := read(pack(t, zip.Store, entries)); err == nil || !strings.Contains(err.Error(), "byte order") {
		t.Errorf("big-endian: %v", err)
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	good := map[string]string{"x/data.pkl": one(float32s, two, none, "K\x02\x85", "K\x01\x85"), "x/data/0": "12345678"}
	with := func(name, content string) map[string]string {
		m := maps.Clone(good)
		if content == "" {
			delete(m, name)
		} else {
			m[name] = content
		}
		return m
	}
	damaged := pack(t, zip.Store, good)
	damaged[bytes.Index(damaged, []byte("12345678"))]++
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"compressed":          {pack(t, zip.Deflate, map[string]string{"x/data.pkl": strings.Repeat("0", 1<<20)}), "compressed"},
		"no pickle":           {pack(t, zip.Store, with("x/data.pkl", "")), "without data.pkl"},
		"no storage":          {pack(t, zip.Store, with("x/data/0", "")), "not in the archive"},
		"two folders":         {pack(t, zip.Store, with("y/data/1", "1")), "one folder"},
		"no folder":           {pack(t, zip.Store, map[string]string{"data.pkl": "."}), "one folder"},
		"another length":      {pack(t, zip.Store, with("x/data/0", "123")), "has 3 bytes"},
		"a damaged byte":      {damaged, "checksum"},
		"no end":              {damaged[:len(damaged)-30], "damaged zip"},
		"nothing":             {nil, "torch.save did not write it"},
		"a pickle of 9 MB":    {pack(t, zip.Store, with("x/data.pkl", strings.Repeat("N", 9<<20))), "at most"},
		"instructions":        {pack(t, zip.Store, with("x/data.pkl", strings.Repeat("N", 2<<20))), "instructions"},
		"overlapping storage": {pack(t, zip.Store, with("x/data.pkl", one(float32s, two, none, "K\x02K\x02\x86", "K\x00K\x00\x86"))), "expanded"},
	} {
		if _, err := read(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
	}
}

func TestHostilePicklesAreRefused(t *testing.T) {
	const huge = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f" // 2⁶³−1
	for name, c := range map[string]struct{ pickle, want string }{
		"a call of the system":        {"\x80\x02cos\nsystem\n" + text("true") + "\x85R.", `"os.system"`},
		"the same by protocol 4":      {"\x80\x04\x8c\x02os\x8c\x06system\x93.", `"os.system"`},
		"an import":                   {"\x80\x02c__builtin__\neval\n.", `"__builtin__.eval"`},
		"an object":                   {"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction 0x81"},
		"an extension":                {"\x80\x02\x82\x01.", "instruction 0x82"},
		"text protocol":               {"\x80\x00I1\n.", "protocol 0"},
		"calls a string":              {"\x80\x02" + text("a") + ")R.", "calls a string"},
		"calls a type of storage":     {"\x80\x02" + float32s + ")R.", "calls torch.FloatStorage"},
		"an OrderedDict of something": {"\x80\x02ccollections\nOrderedDict\n]\x85R.", "made of something"},
		"attributes of a list":        {"\x80\x02]}b.", "attributes of a list"},
		"no end":                      {"\x80\x02}", "truncated"},
		"no value":                    {"\x80\x02.", "0 values"},
		"two values":                  {"\x80\x02}}.", "2 values"},
		"an open mark":                {"\x80\x02}(.", "ends with"},
		"no mark":                     {"\x80\x02}u.", "mark that was not set"},
		"takes too much":              {"\x80\x02\x86.", "empty stack"},
		"takes below a mark":          {"\x80\x02}(\x85.", "empty stack"},
		"recalls the unknown":         {"\x80\x02h\x07.", "not stored"},
		"half a pair":                 {"\x80\x02}(Nu.", "sets 1 keys"},
		"an unhashable key":           {"\x80\x02}}Ns.", "a dict as a key"},
		"appends to a dict":           {"\x80\x02}Na.", "appends to a dict"},
		"a long string":               {"\x80\x02X\xff\xff\xff\xff.", "truncated"},
		"a long number":               {"\x80\x02\x8a\x09123456789.", "9 bytes"},
		"refers to a file":            {"\x80\x02" + text("/etc/passwd") + "Q.", "refers to a string"},
		"no storage type":             {one(text("FloatStorage"), two, none, ")", ")"), "without a type"},
		"a storage not of torch":      {one("ccollections\nOrderedDict\n", two, none, ")", ")"), "collections.OrderedDict"},
		"a storage of integers":       {one("ctorch\nLongStorage\n", two, none, ")", ")"), "torch.LongStorage"},
		"fewer elements":              {one(float32s, "K\x01", none, ")", ")"), "has 8 bytes"},
		"negative elements":           {one(float32s, "J\xff\xff\xff\xff", none, ")", ")"), "has 8 bytes"},
		"very many elements":          {one(float32s, huge, none, ")", ")"), "has 8 bytes"},
		"behind the storage":          {one(float32s, two, two, ")", ")"), "leaves its storage"},
		"before the storage":          {one(float32s, two, "J\xff\xff\xff\xff", ")", ")"), "begins at"},
		"far behind the storage":      {one(float32s, two, huge, ")", ")"), "begins at"},
		"over the end":                {one(float32s, two, "K\x01", "K\x02\x85", "K\x01\x85"), "leaves its storage"},
		"a long stride":               {one(float32s, two, none, "K\x02\x85", huge+"\x85"), "leaves its storage"},
		"a negative stride":           {one(float32s, two, none, "K\x02\x85", "J\xff\xff\xff\xff\x85"), "stride of a tensor has"},
		"a huge size":                 {one(float32s, two, none, huge+"\x85", "K\x01\x85"), "expanded"},
		"sizes without strides":       {one(float32s, two, none, "K\x02\x85", ")"), "strides for 0"},
		"a size that is no tuple":     {one(float32s, two, none, two, ")"), "where a tuple should be"},
		"nine dimensions":             {one(float32s, two, none, "("+strings.Repeat("K\x01", 9)+"t", ")"), "9 dimensions"},
		"a key that is no string":     {"\x80\x02}NNs.", "is no string"},
		"a value that is no tensor":   {"\x80\x02}" + text("a") + "Ns.", `"a" is None`},
	} {
		_, err := read(pack(t, zip.Store, map[string]string{"x/data.pkl": c.pickle, "x/data/0": "12345678"}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
	}
}

// FuzzRead: whatever a file holds, reading it gives an error or tensors of no more
// elements than the file can hold.
func FuzzRead(f *testing.F) {
	for _, file := range []string{"tensors.pt", "protocol4.pt", "module.pt", "script.pt"} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := read(b)
		check(t, tensors, err, len(b))
	})
}

// FuzzPickle is FuzzRead of the pickle alone, which a checksum would protect.
func FuzzPickle(f *testing.F) {
	f.Add([]byte(one(float32s, two, none, "K\x02\x85", "K\x01\x85")))
	f.Add([]byte(one(float32s, two, "K\x01", ")", ")")))
	f.Add([]byte("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94G?\xf0\x00\x00\x00\x00\x00\x00u."))
	for _, file := range []string{"tensors.pt", "protocol4.pt", "module.pt"} {
		z, err := zip.OpenReader(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		for _, entry := range z.File {
			if !strings.HasSuffix(entry.Name, "data.pkl") {
				continue
			}
			r, err := entry.Open()
			if err != nil {
				f.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
		if err := z.Close(); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, pickle []byte) {
		data := map[string]string{"x/data.pkl": string(pickle), "x/data/0": "12345678", "x/data/1": "abcdefghijklmnop"}
		tensors, err := read(pack(t, zip.Store, data))
		check(t, tensors, err, len(pickle))
	})
}

func check(t *testing.T, tensors []torch.Named, err error, bytes int) {
	t.Helper()
	if err != nil {
		return
	}
	for _, n := range tensors {
		elements := 1
		for _, d := range n.Tensor.Shape {
			elements *= d
		}
		if len(n.Tensor.Data) != elements || elements > bytes {
			t.Fatalf("%q of shape %v has %d elements, of %d bytes", n.Name, n.Tensor.Shape, len(n.Tensor.Data), bytes)
		}
	}
}
