package checkpoint_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// plain is a config.json that is accepted; with replaces fields of it.
func plain(t testing.TB, with map[string]any) []byte {
	t.Helper()
	c := map[string]any{
		"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8,
		"num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 5e5,
		"hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": true,
	}
	maps.Copy(c, with)
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConfigsOfTheFamiliesAreRead(t *testing.T) {
	base := checkpoint.Config{
		Family: "llama", HiddenSize: 64, IntermediateSize: 160, Layers: 3, Heads: 8, KVHeads: 2, HeadDim: 8, VocabSize: 100,
		MaxPositions: 256, RMSNormEps: 1e-6, RopeTheta: 5e5, TieEmbeddings: true, BOS: 1, EOS: []int{2},
	}
	llama3 := map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
	for _, c := range []struct {
		name string
		with map[string]any
		want func(*checkpoint.Config)
	}{
		{"plain Llama", nil, func(*checkpoint.Config) {}},
		{"Mistral without a window", map[string]any{"model_type": "mistral", "sliding_window": nil}, func(c *checkpoint.Config) { c.Family = "mistral" }},
		{"Qwen 2.5, its window switched off", map[string]any{"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": false},
			func(c *checkpoint.Config) { c.Family, c.AttentionBias = "qwen2", true }},
		{"Qwen 3", map[string]any{"model_type": "qwen3", "head_dim": 16, "attention_bias": false, "layer_types": []string{"full_attention"}},
			func(c *checkpoint.Config) { c.Family, c.QKNorm, c.HeadDim = "qwen3", true, 16 }},
		{"Qwen 3's heads are 128 wide unless it says otherwise", map[string]any{"model_type": "qwen3"},
			func(c *checkpoint.Config) { c.Family, c.QKNorm, c.HeadDim = "qwen3", true, 128 }},
		{"a window longer than the model", map[string]any{"sliding_window": 4096}, func(*checkpoint.Config) {}},
		{"no key-value heads means as many as heads", map[string]any{"num_key_value_heads": nil}, func(c *checkpoint.Config) { c.KVHeads = 8 }},
		{"heads of a width of their own", map[string]any{"head_dim": 16}, func(c *checkpoint.Config) { c.HeadDim = 16 }},
		{"several tokens that end", map[string]any{"eos_token_id": []int{2, 7}}, func(c *checkpoint.Config) { c.EOS = []int{2, 7} }},
		{"no special tokens", map[string]any{"eos_token_id": nil, "bos_token_id": nil}, func(c *checkpoint.Config) { c.EOS, c.BOS = nil, -1 }},
		{"Llama 3.1's frequencies", map[string]any{"rope_scaling": llama3}, func(c *checkpoint.Config) {
			c.RopeScaling = &checkpoint.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositions: 8192}
		}},
		{"the newer spelling of rotary parameters", map[string]any{"rope_theta": nil, "rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 1e6}},
			func(c *checkpoint.Config) { c.RopeTheta = 1e6 }},
		{"fields that do not matter", map[string]any{"torch_dtype": "bfloat16", "pretraining_tp": 2, "use_cache": false}, func(*checkpoint.Config) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := base
			c.want(&want)
			got, err := checkpoint.ParseConfig(plain(t, c.with))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestWhatCannotBeComputedIsRefusedByName(t *testing.T) {
	for _, c := range []struct {
		name   string
		with   map[string]any
		reason string
		want   string
	}{
		{"another family", map[string]any{"model_type": "gpt2"}, contract.ReasonUnsupported, `model_type "gpt2"`},
		{"no family", map[string]any{"model_type": nil}, contract.ReasonUnsupported, "model_type"},
		{"another activation", map[string]any{"hidden_act": "gelu"}, contract.ReasonUnsupported, `hidden_act "gelu"`},
		{"biases", map[string]any{"attention_bias": true}, contract.ReasonUnsupported, "attention_bias"},
		{"biases of the MLP", map[string]any{"mlp_bias": true}, contract.ReasonUnsupported, "mlp_bias"},
		{"a sliding window", map[string]any{"sliding_window": 128}, contract.ReasonUnsupported, "sliding_window 128"},
		{"a sliding window of Qwen", map[string]any{"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": true}, contract.ReasonUnsupported, "sliding_window 128"},
		{"a switch that Mistral does not have", map[string]any{"model_type": "mistral", "sliding_window": 128, "use_sliding_window": false}, contract.ReasonUnsupported, "sliding_window 128"},
		{"some layers with a window", map[string]any{"layer_types": []string{"full_attention", "sliding_attention"}}, contract.ReasonUnsupported, `layer_types "sliding_attention"`},
		{"quantised weights", map[string]any{"quantization_config": map[string]any{"bits": 4}}, contract.ReasonUnsupported, "quantization_config"},
		{"other frequencies", map[string]any{"rope_scaling": map[string]any{"type": "yarn", "factor": 2}}, contract.ReasonUnsupported, `rope scaling "yarn"`},
		{"partly rotated heads", map[string]any{"partial_rotary_factor": 0.5}, contract.ReasonUnsupported, "partial_rotary_factor"},
		{"no layers", map[string]any{"num_hidden_layers": 0}, contract.ReasonInvalidModel, "num_hidden_layers is 0"},
		{"absurd layers", map[string]any{"num_hidden_layers": 1000000000}, contract.ReasonInvalidModel, "num_hidden_layers"},
		{"absurd width", map[string]any{"hidden_size": 1 << 40}, contract.ReasonInvalidModel, "hidden_size"},
		{"no heads", map[string]any{"num_attention_heads": 0}, contract.ReasonInvalidModel, "num_attention_heads"},
		{"heads that do not divide", map[string]any{"num_attention_heads": 7, "num_key_value_heads": 7}, contract.ReasonInvalidModel, "no multiple of num_attention_heads"},
		{"groups that do not divide", map[string]any{"num_key_value_heads": 3}, contract.ReasonInvalidModel, "num_key_value_heads 3"},
		{"odd heads", map[string]any{"head_dim": 7}, contract.ReasonInvalidModel, "odd"},
		{"an end outside of the vocabulary", map[string]any{"eos_token_id": 100}, contract.ReasonInvalidModel, "eos_token_id is 100"},
		{"a beginning outside of it", map[string]any{"bos_token_id": 100}, contract.ReasonInvalidModel, "bos_token_id"},
		{"an end that is no number", map[string]any{"eos_token_id": "x"}, contract.ReasonInvalidModel, "eos_token_id"},
		{"no epsilon", map[string]any{"rms_norm_eps": 0}, contract.ReasonInvalidModel, "rms_norm_eps"},
		{"negative theta", map[string]any{"rope_theta": -1}, contract.ReasonInvalidModel, "rope_theta"},
		{"half of Llama 3.1's frequencies", map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8}}, contract.ReasonInvalidModel, "low_freq_factor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := checkpoint.ParseConfig(plain(t, c.with))
			if err == nil {
				t.Fatalf("accepted as %+v", got)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if reason, permanent := failure.Of(err); reason != c.reason || !permanent {
				t.Errorf("classified as %s, permanent %v", reason, permanent)
			}
		})
	}
}

// FuzzConfig: a config is refused or has a geometry in which every size is
// positive and divides as it must.
func FuzzConfig(f *testing.F) {
	f.Add(plain(f, nil))
	f.Add(plain(f, map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}))
	f.Add(plain(f, map[string]any{"model_type": "qwen3", "hidden_size": 63}))
	f.Add([]byte(`{"model_type":"llama","num_attention_heads":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := checkpoint.ParseConfig(b)
		if err != nil {
			return
		}
		if c.Layers < 1 || c.HiddenSize < 1 || c.IntermediateSize < 1 || c.VocabSize < 1 || c.HeadDim < 2 || c.HeadDim%2 != 0 ||
			c.KVHeads < 1 || c.Heads%c.KVHeads != 0 || c.MaxPositions < 1 || !(c.RMSNormEps > 0) || !(c.RopeTheta > 0) {
			t.Fatalf("accepted %+v", c)
		}
	})
}
