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
		{"rotary parameters by type of layer", map[string]any{"rope_theta": nil, "rope_parameters": map[string]any{"full_attention": map[string]any{"rope_theta": 5e5}}},
			func(*checkpoint.Config) {}},
		{"those of a type of layer that is not there do not matter", map[string]any{"rope_theta": 1, "rope_parameters": map[string]any{
			"full_attention": map[string]any{"rope_type": "default", "rope_theta": 5e5}, "sliding_attention": map[string]any{"rope_theta": 1e4}}},
			func(*checkpoint.Config) {}},
		{"rope_scaling goes before rope_parameters", map[string]any{"rope_scaling": map[string]any{"rope_type": "default", "rope_theta": 7}, "rope_parameters": map[string]any{"rope_theta": 8}},
			func(c *checkpoint.Config) { c.RopeTheta = 7 }},
		{"an empty rope_scaling does not", map[string]any{"rope_scaling": map[string]any{}, "rope_parameters": map[string]any{"rope_theta": 8}},
			func(c *checkpoint.Config) { c.RopeTheta = 8 }},
		{"the length that was trained, beside the parameters", map[string]any{"original_max_position_embeddings": 128, "rope_scaling": llama3}, func(c *checkpoint.Config) {
			c.RopeScaling = &checkpoint.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositions: 128}
		}},
		{"Qwen's window from a layer on that it has not", map[string]any{"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": true, "max_window_layers": 3},
			func(c *checkpoint.Config) { c.Family, c.AttentionBias = "qwen2", true }},
		{"Qwen 2 has its biases, whatever the file says", map[string]any{"model_type": "qwen2", "attention_bias": true},
			func(c *checkpoint.Config) { c.Family, c.AttentionBias = "qwen2", true }},
		{"ends outside of the vocabulary end nothing", map[string]any{"eos_token_id": []int{100, 7, -1}}, func(c *checkpoint.Config) { c.EOS = []int{7} }},
		{"a beginning outside of it is none", map[string]any{"bos_token_id": 100}, func(c *checkpoint.Config) { c.BOS = -1 }},
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

// TestDefaultsAreThoseOfTheReference has what the configuration classes of the
// reference say where config.json says nothing: LlamaConfig, Qwen2Config and
// Qwen3Config of transformers 5.0 (commit 008e5743) and MistralConfig of commit
// 001f85b3, the same values as in 4.57, where rope_theta was an argument of each.
// Mistral's default window of 4096 is shorter than its default length, which is why
// it is switched off here.
func TestDefaultsAreThoseOfTheReference(t *testing.T) {
	llama := checkpoint.Config{
		Family: "llama", HiddenSize: 4096, IntermediateSize: 11008, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128,
		VocabSize: 32000, MaxPositions: 2048, RMSNormEps: 1e-6, RopeTheta: 10000, BOS: 1, EOS: []int{2},
	}
	qwen2 := llama
	qwen2.Family, qwen2.IntermediateSize, qwen2.VocabSize, qwen2.MaxPositions = "qwen2", 22016, 151936, 32768
	qwen2.BOS, qwen2.EOS, qwen2.AttentionBias = -1, nil, true
	qwen3 := qwen2
	qwen3.Family, qwen3.AttentionBias, qwen3.QKNorm = "qwen3", false, true
	mistral := llama
	mistral.Family, mistral.IntermediateSize, mistral.KVHeads, mistral.MaxPositions = "mistral", 14336, 8, 131072
	with := func(c checkpoint.Config, change func(*checkpoint.Config)) checkpoint.Config {
		change(&c)
		return c
	}
	for _, c := range []struct {
		source string
		file   string
		want   checkpoint.Config
	}{
		{"LlamaConfig", `{"model_type":"llama"}`, llama},
		{"MistralConfig", `{"model_type":"mistral","sliding_window":null}`, mistral},
		{"Qwen2Config", `{"model_type":"qwen2"}`, qwen2},
		{"Qwen3Config", `{"model_type":"qwen3"}`, qwen3},
		{"num_key_value_heads of LlamaConfig: as many as heads", `{"model_type":"llama","num_attention_heads":16}`,
			with(llama, func(c *checkpoint.Config) { c.Heads, c.KVHeads, c.HeadDim = 16, 16, 256 })},
		{"num_key_value_heads of MistralConfig: null is as many as heads", `{"model_type":"mistral","sliding_window":null,"num_key_value_heads":null}`,
			with(mistral, func(c *checkpoint.Config) { c.KVHeads = 32 })},
		{"num_key_value_heads of Qwen2Config: null is as many as heads", `{"model_type":"qwen2","num_attention_heads":64,"num_key_value_heads":null}`,
			with(qwen2, func(c *checkpoint.Config) { c.Heads, c.KVHeads, c.HeadDim = 64, 64, 64 })},
		{"head_dim of Qwen3Config: 128, whatever the width", `{"model_type":"qwen3","hidden_size":1024}`,
			with(qwen3, func(c *checkpoint.Config) { c.HiddenSize = 1024 })},
		{"bos_token_id and eos_token_id: null is none", `{"model_type":"llama","bos_token_id":null,"eos_token_id":null}`,
			with(llama, func(c *checkpoint.Config) { c.BOS, c.EOS = -1, nil })},
		{"hidden_act: null is not given", `{"model_type":"llama","hidden_act":null,"rms_norm_eps":null,"tie_word_embeddings":null}`, llama},
	} {
		got, err := checkpoint.ParseConfig([]byte(c.file))
		if err != nil {
			t.Errorf("%s: %v", c.source, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.source, diff)
		}
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
		{"a sliding window of Qwen", map[string]any{"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": true, "max_window_layers": 0}, contract.ReasonUnsupported, "sliding_window 128"},
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
		{"another activation of Qwen", map[string]any{"model_type": "qwen3", "hidden_act": "gelu_pytorch_tanh"}, contract.ReasonUnsupported, `hidden_act "gelu_pytorch_tanh"`},
		{"biases of Qwen 3", map[string]any{"model_type": "qwen3", "attention_bias": true}, contract.ReasonUnsupported, "attention_bias"},
		{"a window of Qwen's last layers", map[string]any{"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": true, "max_window_layers": 2},
			contract.ReasonUnsupported, "sliding_window 128"},
		{"the window that Mistral has by default", map[string]any{"model_type": "mistral", "max_position_embeddings": 32768}, contract.ReasonUnsupported, "sliding_window 4096"},
		{"compressed weights", map[string]any{"compression_config": map[string]any{"format": "x"}}, contract.ReasonUnsupported, "compression_config"},
		{"partly rotated heads, as transformers 5 says it", map[string]any{"rope_parameters": map[string]any{"partial_rotary_factor": 0.5}}, contract.ReasonUnsupported, "partial_rotary_factor"},
		{"frequencies of other layers only", map[string]any{"rope_parameters": map[string]any{"sliding_attention": map[string]any{"rope_theta": 5e5}}},
			contract.ReasonUnsupported, `["sliding_attention"]`},
		{"frequencies both of all layers and of some", map[string]any{"rope_parameters": map[string]any{"rope_theta": 1, "full_attention": map[string]any{"rope_theta": 5e5}}},
			contract.ReasonUnsupported, `rope_parameters has the members ["full_attention" "rope_theta"]`},
		{"other frequencies of full attention", map[string]any{"rope_parameters": map[string]any{"full_attention": map[string]any{"rope_type": "yarn"}}},
			contract.ReasonUnsupported, `rope scaling "yarn"`},
		{"frequencies that are no object", map[string]any{"rope_parameters": 5}, contract.ReasonInvalidModel, "rope_parameters"},
		{"a model that classifies", map[string]any{"architectures": []string{"LlamaForSequenceClassification"}}, contract.ReasonUnsupported, "LlamaForSequenceClassification"},
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
	f.Add([]byte(`{"model_type":"qwen2","rope_parameters":{"full_attention":{"rope_type":"llama3","factor":2}},"eos_token_id":[1,-1]}`))
	f.Add([]byte(`{"model_type":"mistral","rope_scaling":{"type":"default","rope_theta":0}}`))
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
