package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
)

func TestDoctorSaysWhatComputesAndWhatAModelTakes(t *testing.T) {
	v := enginetest.New(t)
	got := t2(t, nil, "", "doctor", "--backend", "cpu", "--model", v.ModelDir, "--dtype", "bf16", "--max-batch", "4", "--json")
	var d struct {
		Backend string
		Facts   []struct{ Name, Value string }
		Model   struct {
			DType                 string
			Activations, KV       string
			CacheTokens, MaxBatch int
			NeedsBytes            struct{ Weights, Cache int64 }
			Fits                  bool
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &d); got.code != 0 || err != nil {
		t.Fatalf("status %d, %v: %s%s", got.code, err, got.stdout, got.stderr)
	}
	if !strings.HasPrefix(d.Backend, "cpu (") || d.Model.DType != "bf16" || d.Model.Activations != "f32" || d.Model.KV != "f32" || d.Model.MaxBatch != 4 || !d.Model.Fits ||
		d.Model.CacheTokens == 0 || d.Model.NeedsBytes.Weights == 0 || d.Model.NeedsBytes.Cache == 0 {
		t.Errorf("%s", got.stdout)
	}
	if len(d.Facts) < 2 || d.Facts[0].Name != "Path" || !strings.HasPrefix(d.Backend, "cpu ("+strings.Fields(d.Facts[0].Value)[0]+",") || d.Facts[1].Name != "Paths" {
		t.Errorf("%s: %v", d.Backend, d.Facts)
	}
	text := t2(t, nil, "", "doctor", "--backend", "cpu", "--model", v.ModelDir)
	for _, phrase := range []string{"Backend", "Path ", "Paths", "It takes", "weights", "Fits"} {
		if !strings.Contains(text.stdout, phrase) {
			t.Errorf("no %q in:\n%s", phrase, text.stdout)
		}
	}
	small := t2(t, nil, "", "doctor", "--backend", "cpu", "--model", v.ModelDir, "--memory", "20Mi")
	if small.code != contract.ExitFailed || !strings.Contains(small.stdout, "what --memory allows is 20.0 MiB") || !strings.Contains(small.stdout, "are missing") {
		t.Errorf("in 20 MiB: status %d: %s", small.code, small.stdout)
	}
	var asked struct {
		Model struct {
			CacheTokens int
			NeedsBytes  struct{ Cache int64 }
			LimitBytes  int64
			ExpertBytes int64
			LimitSource string
		}
	}
	got = t2(t, nil, "", "doctor", "--backend", "cpu", "--model", v.ModelDir, "--kv-cache", "1Mi", "--memory", "512Mi", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &asked); err != nil || asked.Model.NeedsBytes.Cache > 1<<20 || asked.Model.NeedsBytes.Cache < 1<<19 ||
		asked.Model.LimitBytes != 512<<20 || asked.Model.ExpertBytes < 256<<20 || asked.Model.LimitSource == "" {
		t.Errorf("%v: %s", err, got.stdout)
	}
	var narrow struct{ Model struct{ CacheTokens int } }
	got = t2(t, nil, "", "doctor", "--backend", "cpu", "--model", v.ModelDir, "--kv-cache", "1Mi", "--kv", "bf16", "--memory", "512Mi", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &narrow); err != nil || narrow.Model.CacheTokens < 2*asked.Model.CacheTokens {
		t.Errorf("%v: of keys and values as bf16 as much holds %d tokens, and %d as f32", err, narrow.Model.CacheTokens, asked.Model.CacheTokens)
	}
	for name, args := range map[string][]string{
		"no size":                  {"doctor", "--backend", "cpu", "--model", v.ModelDir, "--memory", "much"},
		"a negative batch":         {"doctor", "--backend", "cpu", "--model", v.ModelDir, "--max-batch", "-1"},
		"a stray argument":         {"doctor", "model"},
		"an unknown type":          {"doctor", "--backend", "cpu", "--model", v.ModelDir, "--kv", "f16"},
		"a type that is not there": {"doctor", "--backend", "cpu", "--model", v.ModelDir, "--activations", "bf16"},
		"an unknown device":        {"doctor", "--backend", "abacus"},
	} {
		if got := t2(t, nil, "", args...); got.code != contract.ExitUsage {
			t.Errorf("%s: status %d: %s", name, got.code, got.stderr)
		}
	}
	if got := t2(t, nil, "", "doctor", "--backend", "cpu", "--model", t.TempDir()); got.code == 0 {
		t.Error("a folder without a model: no error")
	}
}
