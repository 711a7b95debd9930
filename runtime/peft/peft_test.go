package peft_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Adapters as PEFT writes them, and the weights that it merges them to, are made by
// hack/golden/peft.py of these models.
func base(name string) string {
	if strings.HasSuffix(name, "-bias") {
		return "../model/testdata/qwen2"
	}
	return "../model/testdata/llama"
}

var cases = []string{"lora", "patterns", "dora", "ia3", "ia3-bias"}

func read(t testing.TB, name string) *peft.Adapter {
	t.Helper()
	a, err := peft.Read(t.Context(), filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAdaptersMergeAsPEFTMergesThem(t *testing.T) {
	for _, name := range append([]string{"pickle"}, cases...) {
		t.Run(name, func(t *testing.T) {
			weights, err := checkpoint.Open(filepath.Join(base(name), checkpoint.WeightsFile))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = weights.Close() }()
			shape := func(name string) (out, in int, ok bool) {
				info, ok := weights.Info(name + ".weight")
				if !ok {
					return 0, 0, false
				}
				return info.Shape[0], info.Shape[1], true
			}
			a := read(t, name)
			if err := a.Fits(shape); err != nil {
				t.Error(err)
			}
			merged, err := checkpoint.Open(filepath.Join("testdata", name, "merged.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = merged.Close() }()
			matrices := 0
			for _, tensorName := range merged.Names() {
				w, err := weights.Tensor(tensorName)
				if err != nil {
					t.Fatal(err)
				}
				want, err := merged.Tensor(tensorName)
				if err != nil {
					t.Fatal(err)
				}
				matrix, isBias := strings.CutSuffix(tensorName, ".bias")
				if isBias {
					err = a.Matrices[matrix].MergeBias(w.Data)
				} else {
					matrices++
					err = a.Matrices[strings.TrimSuffix(tensorName, ".weight")].Merge(w)
				}
				if err != nil {
					t.Fatal(err)
				}
				for i := range w.Data {
					// Both are float64 rounded once.
					if d := math.Abs(float64(w.Data[i] - want.Data[i])); d > 2e-7*max(1, math.Abs(float64(want.Data[i]))) {
						t.Fatalf("%s: element %d is %v, want %v", tensorName, i, w.Data[i], want.Data[i])
					}
				}
			}
			if matrices != len(a.Matrices) {
				t.Errorf("%d matrices, PEFT changes %d", len(a.Matrices), matrices)
			}
		})
	}
}

func TestWhatPEFTWroteIsWrittenByteForByte(t *testing.T) {
	for _, name := range cases {
		dir := t.TempDir()
		if err := peft.Write(dir, read(t, name)); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{peft.ConfigFile, peft.WeightsFile} {
			want, err := os.ReadFile(filepath.Join("testdata", name, file))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s/%s differs: %s", name, file, cmp.Diff(string(want), string(got)))
			}
		}
	}
}

func TestPickledWeightsAreWrittenAsSafetensors(t *testing.T) {
	dir := t.TempDir()
	want := read(t, "pickle")
	if err := peft.Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := peft.Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Matrices, got.Matrices); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestConfigurationsSayWhatIsComputed(t *testing.T) {
	config := func(with string) *peft.Config {
		c, err := peft.ParseConfig([]byte(`{"peft_type": "LORA", "lora_alpha": 16, "r": 4, ` + with + `"target_modules": ["q_proj"]}`))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const q, k = "model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.k_proj"
	for name, c := range map[string]struct {
		with  string
		rank  int
		scale float64
	}{
		"plain":                       {``, 4, 4},
		"rank-stabilised":             {`"use_rslora": true, `, 4, 8},
		"another rank":                {`"rank_pattern": {"q_proj": 2}, `, 2, 8},
		"another alpha":               {`"alpha_pattern": {"3.self_attn.q_proj": 2}, `, 4, 0.5},
		"the first that matches":      {`"alpha_pattern": {"k_proj": 1, ".*_proj": 8, "q_proj": 2}, `, 4, 2},
		"patterns match whole parts":  {`"alpha_pattern": {"_proj": 1, "attn.q_proj": 2}, `, 4, 4},
		"a pattern is an expression":  {`"rank_pattern": {"layers\\.[0-3]\\..*(q|v)_proj": 1}, `, 1, 16},
		"new fields are of no matter": {`"invented_later": {"x": true}, `, 4, 4},
	} {
		got := config(c.with)
		if got.Rank(q) != c.rank || got.Scale(q) != c.scale {
			t.Errorf("%s: rank %d and scale %v, want %d and %v", name, got.Rank(q), got.Scale(q), c.rank, c.scale)
		}
		if name != "the first that matches" && got.Rank(k) != 4 {
			t.Errorf("%s: rank of k_proj is %d", name, got.Rank(k))
		}
	}
	if c := config(`"base_model_name_or_path": "a/b", `); c.Base() != "a/b" || c.Type() != peft.LoRA || c.DoRA() {
		t.Errorf("got %+v", c)
	}
}

func TestWhatCannotBeComputedIsRefusedByName(t *testing.T) {
	for name, c := range map[string]struct{ config, want string }{
		"no JSON":                     {`{`, "unexpected end"},
		"no object":                   {`[]`, "cannot unmarshal"},
		"no type":                     {`{"r": 8}`, "no peft_type"},
		"another method":              {`{"peft_type": "VERA"}`, `peft_type is "VERA"`},
		"a classifier":                {`{"peft_type": "LORA", "task_type": "SEQ_CLS"}`, `task_type is "SEQ_CLS"`},
		"biases":                      {`{"peft_type": "LORA", "bias": "lora_only"}`, `bias is "lora_only"`},
		"saved modules":               {`{"peft_type": "LORA", "modules_to_save": ["lm_head"]}`, `modules_to_save is ["lm_head"]`},
		"transposed":                  {`{"peft_type": "IA3", "fan_in_fan_out": true}`, "fan_in_fan_out"},
		"Megatron":                    {`{"peft_type": "LORA", "megatron_config": {"x": 1}}`, "megatron_config"},
		"PiSSA":                       {`{"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}`, "path_initial_model_for_weight_conversion"},
		"activated LoRA":              {`{"peft_type": "LORA", "alora_invocation_tokens": [1]}`, "activated LoRA"},
		"several reasons":             {`{"peft_type": "LORA", "bias": "all", "lora_bias": true}`, "; lora_bias is true"},
		"no rank":                     {`{"peft_type": "LORA", "r": 0}`, "r is 0"},
		"a rank that is no number":    {`{"peft_type": "LORA", "r": "8"}`, "cannot unmarshal"},
		"a fractional rank":           {`{"peft_type": "LORA", "rank_pattern": {"q": 1.5}}`, "rank_pattern"},
		"a pattern that is unknown":   {`{"peft_type": "LORA", "alpha_pattern": {"(?<!x)q": 1}}`, "alpha_pattern"},
		"targets that are no names":   {`{"peft_type": "LORA", "target_modules": 3}`, "target_modules"},
		"layers that are no numbers":  {`{"peft_type": "LORA", "layers_to_transform": "one"}`, "layers_to_transform"},
		"a pattern of unknown layers": {`{"peft_type": "LORA", "layers_pattern": "(?!x)"}`, "layers_pattern"},
	} {
		_, err := peft.ParseConfig([]byte(c.config))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), peft.ConfigFile) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
	}
}

const (
	target = "base_model.model.model.layers.0.self_attn.q_proj"
	lora   = `{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]`
	ia3    = `{"peft_type": "IA3", "target_modules": ["q_proj"]`
)

// folder writes an adapter with these tensors, by name and shape.
func folder(t testing.TB, config string, shapes map[string][]int) string {
	t.Helper()
	dir := t.TempDir()
	tensors := map[string]*tensor.Tensor{}
	for name, shape := range shapes {
		tensors[name] = tensor.New(shape...)
	}
	if err := checkpoint.WriteSafetensors(filepath.Join(dir, peft.WeightsFile), tensors, tensor.F32, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, peft.ConfigFile), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTensorsThatDoNotBelongAreRefusedByName(t *testing.T) {
	a, b := target+".lora_A.weight", target+".lora_B.weight"
	for name, c := range map[string]struct {
		config string
		shapes map[string][]int
		want   string
	}{
		"nothing":                   {lora + `}`, map[string][]int{}, "changes no matrix"},
		"half":                      {lora + `}`, map[string][]int{a: {2, 4}}, "both lora_A and lora_B"},
		"another rank":              {lora + `}`, map[string][]int{a: {3, 4}, b: {4, 3}}, "its rank is 2"},
		"a convolution":             {lora + `}`, map[string][]int{a: {2, 4, 1, 1}, b: {4, 2, 1, 1}}, "convolutions"},
		"no columns":                {lora + `}`, map[string][]int{a: {2, 0}, b: {4, 2}}, "its rank is 2"},
		"a module left out":         {lora + `, "exclude_modules": ["layers.0.self_attn.q_proj"]}`, map[string][]int{a: {2, 4}}, "exclude_modules"},
		"a layer left out":          {lora + `, "layers_to_transform": [1, 2]}`, map[string][]int{a: {2, 4}}, "layers_to_transform"},
		"a module not targeted":     {`{"peft_type": "LORA", "target_modules": ["proj"]}`, map[string][]int{a: {2, 4}}, "target_modules"},
		"a regular expression":      {`{"peft_type": "LORA", "target_modules": "q_proj"}`, map[string][]int{a: {2, 4}}, "target_modules"},
		"no prefix":                 {lora + `}`, map[string][]int{a[len("base_model.model."):]: {2, 4}}, "base_model.model."},
		"an adapter's name":         {lora + `}`, map[string][]int{target + ".lora_A.default.weight": {2, 4}}, "adapter's name"},
		"an embedding":              {lora + `}`, map[string][]int{"base_model.model.model.embed_tokens.lora_embedding_A": {2, 4}}, "embedding"},
		"a bias":                    {lora + `}`, map[string][]int{target + ".lora_B.bias": {4}}, "is a bias"},
		"a whole module":            {lora + `}`, map[string][]int{"base_model.model.lm_head.weight": {4, 4}}, "modules_to_save"},
		"no magnitude":              {lora + `, "use_dora": true}`, map[string][]int{a: {2, 4}, b: {4, 2}}, "use_dora is true"},
		"a magnitude":               {lora + `}`, map[string][]int{a: {2, 4}, b: {4, 2}, target + ".lora_magnitude_vector": {4}}, "use_dora is false"},
		"a short magnitude":         {lora + `, "use_dora": true}`, map[string][]int{a: {2, 4}, b: {4, 2}, target + ".lora_magnitude_vector": {3}}, "4 outputs"},
		"two magnitudes":            {lora + `, "use_dora": true}`, map[string][]int{target + ".lora_magnitude_vector": {3}, target + ".lora_magnitude_vector.weight": {3}}, "twice"},
		"LoRA of IA3":               {ia3 + `}`, map[string][]int{a: {2, 4}}, "peft_type IA3"},
		"IA3 of LoRA":               {lora + `}`, map[string][]int{target + ".ia3_l": {4, 1}}, "peft_type LORA"},
		"a matrix of IA3":           {ia3 + `}`, map[string][]int{target + ".ia3_l": {4, 2}}, "[4 2]"},
		"a vector of IA3":           {ia3 + `}`, map[string][]int{target + ".ia3_l": {4}}, "[4]"},
		"outputs instead of inputs": {ia3 + `, "feedforward_modules": ["proj"]}`, map[string][]int{target + ".ia3_l": {4, 1}}, "scales inputs"},
		"inputs instead of outputs": {ia3 + `, "feedforward_modules": "proj"}`, map[string][]int{target + ".ia3_l": {1, 4}}, "scales outputs"},
	} {
		dir := folder(t, c.config, c.shapes)
		_, err := peft.Read(t.Context(), dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.want)
		}
		if reason, permanent := failure.Of(err); reason != contract.ReasonInvalidExpert || !permanent {
			t.Errorf("%s: reason %s, permanent %v", name, reason, permanent)
		}
	}
}

func TestWhatPEFTReadsIsRead(t *testing.T) {
	a, b := target+".lora_A.weight", target+".lora_B.weight"
	both := map[string][]int{a: {2, 4}, b: {6, 2}}
	for name, c := range map[string]struct {
		config string
		shapes map[string][]int
	}{
		"all linear":                    {`{"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}`, both},
		"a full name":                   {`{"peft_type": "LORA", "r": 2, "target_modules": ["model.layers.0.self_attn.q_proj"], "layers_to_transform": [7]}`, both},
		"a layer":                       {lora + `, "layers_to_transform": 0}`, both},
		"a layer of a pattern":          {lora + `, "layers_to_transform": [0], "layers_pattern": "layers"}`, both},
		"an expression only Python has": {`{"peft_type": "LORA", "r": 2, "target_modules": "(?!x).*q_proj", "exclude_modules": "(?<=x)q"}`, both},
		"no targets":                    {`{"peft_type": "LORA", "r": 2, "target_modules": null}`, both},
		"the base was not changed":      {lora + `, "init_lora_weights": "gaussian", "eva_config": {"rho": 2.0}}`, both},
		"a magnitude called weight":     {lora + `, "use_dora": true}`, map[string][]int{a: {2, 4}, b: {6, 2}, target + ".lora_magnitude_vector.weight": {6}}},
		"IA3 by its shape":              {ia3 + `, "feedforward_modules": []}`, map[string][]int{target + ".ia3_l": {1, 4}}},
		"IA3 of one input":              {ia3 + `, "feedforward_modules": ["q_proj"]}`, map[string][]int{target + ".ia3_l": {1, 1}}},
	} {
		dir := folder(t, c.config, c.shapes)
		adapter, err := peft.Read(t.Context(), dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "IA3 of one input" && !adapter.Matrices[adapter.Names()[0]].Feedforward {
			t.Error("a vector of one element scales inputs, as feedforward_modules say")
		}
		out := t.TempDir()
		if err := peft.Write(out, adapter); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f, err := checkpoint.Open(filepath.Join(out, peft.WeightsFile))
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Names()) != len(c.shapes) {
			t.Errorf("%s: wrote %v", name, f.Names())
		}
		for n := range c.shapes {
			if _, ok := f.Info(n); !ok {
				t.Errorf("%s: %s was not written", name, n)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestFoldersWithoutAnAdapterAreNoFaultOfTheAdapter(t *testing.T) {
	dir := folder(t, lora+`}`, nil)
	if err := os.Remove(filepath.Join(dir, peft.WeightsFile)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{t.TempDir(), dir} {
		_, err := peft.Read(t.Context(), dir)
		if _, permanent := failure.Of(err); !errors.Is(err, fs.ErrNotExist) || permanent {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := peft.Read(ctx, "testdata/lora"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAdaptersOfOtherModelsDoNotFit(t *testing.T) {
	for _, name := range cases {
		a := read(t, name)
		for what, shape := range map[string]func(string) (int, int, bool){
			"none of the model's projections": func(string) (int, int, bool) { return 0, 0, false },
			"of another model":                func(string) (int, int, bool) { return 5, 7, true },
		} {
			if err := a.Fits(shape); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), a.Names()[0]) {
				t.Errorf("%s: got %v, want an error that says %q", name, err, what)
			}
		}
	}
}

func TestIA3ScalesTheBiasOfOutputs(t *testing.T) {
	w := &tensor.Tensor{Shape: []int{2, 2}, Data: []float32{1, 2, 3, 4}}
	bias := []float32{10, 20}
	for _, c := range []struct {
		m          peft.Matrix
		want, then []float32
	}{
		{peft.Matrix{Vector: []float32{2, 3}}, []float32{2, 4, 9, 12}, []float32{20, 60}},
		{peft.Matrix{Vector: []float32{2, 3}, Feedforward: true}, []float32{4, 12, 18, 36}, []float32{20, 60}},
	} {
		if err := errors.Join(c.m.Merge(w), c.m.MergeBias(bias)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.Data, c.want) || !slices.Equal(bias, c.then) {
			t.Errorf("%v: %v, %v", c.m, w.Data, bias)
		}
	}
	if err := (peft.Matrix{Vector: []float32{2, 3}}).MergeBias([]float32{1}); err == nil {
		t.Error("a bias of another length was scaled")
	}
	zero := tensor.New(2, 2)
	m := peft.Matrix{A: tensor.New(1, 2), B: tensor.New(2, 1), Scale: 1, Magnitude: []float32{1, 1}}
	if err := m.Merge(zero); err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("DoRA of a row of zeros: %v", err)
	}
}

// TestNewAdaptersAreWrittenAsPEFTWritesThem makes the adapters of two cases anew and
// wants the files of those.
func TestNewAdaptersAreWrittenAsPEFTWritesThem(t *testing.T) {
	layers, err := peft.NewLoRAConfig(peft.LoRAOptions{Base: "models/llama", Rank: 2, Alpha: 8, DoRA: true, Modules: []string{"k_proj", "gate_proj"}, Layers: []int{1}})
	if err != nil {
		t.Fatal(err)
	}
	vectors, err := peft.NewIA3Config("models/llama", []string{"v_proj", "k_proj", "down_proj"}, []string{"down_proj"})
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*peft.Config{"dora": layers, "ia3": vectors} {
		from := read(t, name)
		dir := t.TempDir()
		if err := peft.Write(dir, &peft.Adapter{Config: config, Matrices: from.Matrices}); err != nil {
			t.Fatal(err)
		}
		again, err := peft.Read(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(from.Matrices, again.Matrices); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if diff := cmp.Diff(fields(t, filepath.Join("testdata", name)), fields(t, dir)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
	if _, err := peft.NewLoRAConfig(peft.LoRAOptions{Rank: 2, Alpha: 8}); err == nil {
		t.Error("an adapter of no modules was configured")
	}
	if _, err := peft.NewLoRAConfig(peft.LoRAOptions{Rank: 0, Modules: []string{"q_proj"}}); err == nil {
		t.Error("an adapter of rank 0 was configured")
	}
	wrong := read(t, "lora")
	for name, m := range wrong.Matrices {
		m.Scale *= 2
		wrong.Matrices[name] = m
	}
	if err := peft.Write(t.TempDir(), wrong); err == nil || !strings.Contains(err.Error(), "scale 8") {
		t.Errorf("a scale that the configuration does not say: %v", err)
	}
}

// fields reads a configuration; the order of targets does not matter, nor does what
// inference leaves aside.
func fields(t *testing.T, dir string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, peft.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	var f map[string]any
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	if targets, ok := f["target_modules"].([]any); ok {
		slices.SortFunc(targets, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	}
	delete(f, "lora_dropout")
	return f
}
