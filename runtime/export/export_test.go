package export_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/export"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// tiny writes a random model whose weights have this dtype, with more files beside it.
func tiny(t *testing.T, dtype tensor.DType, tied bool) string {
	t.Helper()
	dir := t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Tied = tied
	checkpointtest.Write(t, dir, shape)
	if err := checkpoint.WriteSafetensors(filepath.Join(dir, checkpoint.WeightsFile), checkpointtest.Weights(shape), dtype, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "LICENSE", "tokenizer.model", "generation_config.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAnExportKeepsEverythingButWhatIsReplaced(t *testing.T) {
	be := registrytest.Open(t, 1)
	for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, tied := range []bool{true, false} {
			from := tiny(t, dtype, tied)
			base, d := enginetest.Decomposed(t, from)
			z := map[string][]float32{}
			for _, name := range []string{"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"} {
				z[name] = make([]float32, d.Rank(name))
				for i := range z[name] {
					z[name][i] = 1 + float32(i%5)/8
				}
			}
			replace := composed(be, d, z)
			dir := filepath.Join(t.TempDir(), "made", "out")
			last := int64(0)
			o := export.Options{Note: map[string]string{"t2.experts": "some"}, Progress: func(done, total int64) {
				if done <= last || done > total {
					t.Errorf("%d after %d, of %d bytes", done, last, total)
				}
				last = done
			}}
			if err := export.Write(t.Context(), base, dir, replace, o); err != nil {
				t.Fatal(err)
			}
			want := []string{"LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
			if diff := cmp.Diff(want, names(t, dir)); diff != "" {
				t.Errorf("%s: -want +got\n%s", dtype, diff)
			}
			out := open(t, dir)
			if out.Has("lm_head.weight") == tied {
				t.Errorf("tied %v: the head is %v", tied, out.Has("lm_head.weight"))
			}
			if diff := cmp.Diff(base.Names(), out.Names()); diff != "" {
				t.Errorf("%s: -want +got\n%s", dtype, diff)
			}
			for _, name := range base.Names() {
				before, _ := base.Info(name)
				after, _ := out.Info(name)
				if before.DType != after.DType || !slices.Equal(before.Shape, after.Shape) {
					t.Errorf("%s became %s %v", name, after.DType, after.Shape)
				}
				x, err := base.Tensor(name)
				if compute := replace[name]; compute != nil {
					x, err = compute(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				y, err := out.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(rounded(t, dtype, x.Data), y.Data) {
					t.Errorf("%s in %s is not what it should be, rounded once", name, dtype)
				}
			}
			f, err := checkpoint.Open(filepath.Join(dir, checkpoint.WeightsFile))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{"format": "pt", "t2.experts": "some"}, f.Metadata()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func rounded(t *testing.T, dtype tensor.DType, data []float32) []float32 {
	t.Helper()
	b, out := make([]byte, len(data)*dtype.Size()), make([]float32, len(data))
	if err := errors.Join(tensor.Encode(b, data, dtype), tensor.Decode(out, b, dtype)); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWhatIsServedMergedIsExported compares logits of every kind of base.
func TestWhatIsServedMergedIsExported(t *testing.T) {
	be := registrytest.Open(t, 2)
	for _, family := range []string{"mistral", "qwen2", "qwen3"} { // Tied; tied with biases; norms of heads.
		from := "../model/testdata/" + family
		base, d := enginetest.Decomposed(t, from)
		z := map[string][]float32{}
		for i, name := range d.Matrices() {
			z[name] = make([]float32, d.Rank(name))
			for j := range z[name] {
				z[name][j] = 0.5 + float32((i+j)%7)/6
			}
		}
		dir := filepath.Join(t.TempDir(), "out")
		if err := export.Write(t.Context(), base, dir, composed(be, d, z), export.Options{}); err != nil {
			t.Fatal(err)
		}
		m := load(t, be, from)
		served, err := expert.Compose(t.Context(), m, d, scaled(z))
		if err != nil {
			t.Fatal(err)
		}
		tokens := []int32{3, 14, 15, 9, 2, 6}
		want := logits(t, served, tokens)
		if slices.Equal(want.Data, logits(t, m, tokens).Data) {
			t.Errorf("%s: the experts change nothing", family)
		}
		if !slices.Equal(want.Data, logits(t, load(t, be, dir), tokens).Data) {
			t.Errorf("%s: the exported checkpoint has other logits than the served model", family)
		}
	}
}

func TestWhatCannotBeExportedLeavesNothing(t *testing.T) {
	is := func(data ...float32) export.Compute {
		return func(context.Context) (*tensor.Tensor, error) {
			out := tensor.New(16)
			for i := range out.Data {
				out.Data[i] = data[i%len(data)]
			}
			return out, nil
		}
	}
	const norm = "model.norm.weight"
	f16, f32 := tiny(t, tensor.F16, true), tiny(t, tensor.F32, true)
	double := tiny(t, tensor.F32, true)
	weights := open(t, double)
	var all []checkpoint.Stored
	for _, name := range weights.Names() {
		s, err := weights.Stored(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == norm {
			s.DType, s.Shape = "F64", []int{8}
		}
		all = append(all, s)
	}
	wide := t.TempDir()
	if err := errors.Join(os.CopyFS(wide, os.DirFS(double)), checkpoint.WriteStored(filepath.Join(wide, checkpoint.WeightsFile), all, nil)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		from    string
		replace map[string]export.Compute
		want    string
	}{
		"a tensor that is not there":     {f32, map[string]export.Compute{"nothing": is(1)}, `no tensor "nothing"`},
		"a number that F16 cannot hold":  {f16, map[string]export.Compute{norm: is(1, 65520)}, "element 1 becomes 65520, which F16 cannot hold"},
		"a number that is none":          {f32, map[string]export.Compute{norm: is(float32(math.NaN()))}, "element 0 becomes NaN"},
		"a dtype that is not written":    {wide, map[string]export.Compute{norm: is(1)}, "stored as F64"},
		"another shape":                  {f32, map[string]export.Compute{"model.layers.0.mlp.up_proj.weight": is(1)}, "becomes [16]"},
		"a matrix that is not computed":  {f32, map[string]export.Compute{norm: func(context.Context) (*tensor.Tensor, error) { return nil, broken }}, "broken"},
		"shards that can hold no tensor": {f32, nil, "holds nothing"},
	} {
		parent := t.TempDir()
		o := export.Options{}
		if strings.HasPrefix(name, "shards") {
			o.ShardBytes = -1
		}
		err := export.Write(t.Context(), open(t, c.from), filepath.Join(parent, "out"), c.replace, o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
		if left := names(t, parent); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	parent := t.TempDir()
	err := export.Write(ctx, open(t, f32), filepath.Join(parent, "out"), nil, export.Options{Progress: func(int64, int64) { cancel() }})
	if left := names(t, parent); !errors.Is(err, context.Canceled) || len(left) > 0 {
		t.Errorf("cancelled: %v, left %v", err, left)
	}
}

func TestWhatIsThereAlreadyStays(t *testing.T) {
	base := open(t, tiny(t, tensor.F32, true))
	dir := t.TempDir()
	if err := export.Write(t.Context(), base, dir, nil, export.Options{}); err != nil {
		t.Errorf("into an empty folder: %v", err)
	}
	before := names(t, dir)
	file := filepath.Join(dir, checkpoint.ConfigFile)
	for _, to := range []string{dir, file} {
		err := export.Write(t.Context(), base, to, nil, export.Options{})
		if reason, _ := failure.Of(err); reason != contract.ReasonUsage || !strings.Contains(err.Error(), "there already") {
			t.Errorf("%s: got %v", to, err)
		}
	}
	if diff := cmp.Diff(before, names(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// scaled are matrices whose singular values are multiplied by z.
func scaled(z map[string][]float32) map[string]expert.Mixed {
	all := map[string]expert.Mixed{}
	for name, values := range z {
		all[name] = expert.Mixed{Z: values}
	}
	return all
}
