package checkpointtest

import (
	"cmp"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Script is a model that says what is written down, for cases in which every
// token counts: which one follows depends on the last one alone. Its tokenizer
// spells and decodes as Llama 2's does, without merges.
type Script struct {
	// Tokens are the vocabulary; ids count from 0.
	Tokens []string
	// Follows are the tokens that may follow one, by the factor of their logits,
	// which are zero otherwise. Greedily the largest follows.
	Follows map[string]map[string]float64
	// Template is its chat template, where it has another than the messages' contents and a
	// colon.
	Template string
	// Context is how many tokens a conversation may have; 256 if it is 0.
	Context int
	// Special are tokens that are special, beside ScriptEnd.
	Special []string
}

// ScriptEnd ends an answer of a Script. It is special.
const ScriptEnd = "</s>"

// Says returns a script in which each of the tokens is followed by the next, and the
// last by the end; prompts end in the first. more are in the vocabulary, too.
func Says(tb testing.TB, tokens []string, more ...string) Script {
	tb.Helper()
	s := Script{Follows: map[string]map[string]float64{}}
	add := func(token string) {
		if !slices.Contains(s.Tokens, token) {
			s.Tokens = append(s.Tokens, token)
		}
	}
	tokens = append(slices.Clone(tokens), ScriptEnd)
	for i, token := range tokens {
		add(token)
		if i == 0 {
			continue
		}
		before := tokens[i-1]
		if follows := s.Follows[before]; follows != nil && follows[token] == 0 {
			tb.Fatalf("two tokens cannot both follow %q", before)
		}
		s.Follows[before] = map[string]float64{token: 1}
	}
	for _, token := range more {
		add(token)
	}
	return s
}

// ID is a token's id.
func (s Script) ID(tb testing.TB, token string) int {
	tb.Helper()
	id := slices.Index(s.Tokens, token)
	if id < 0 {
		tb.Fatalf("the script has no token %q", token)
	}
	return id
}

// Write makes a model folder in dir, which must exist. Its one layer adds nothing
// to the embedding, a unit vector for each token, and the head maps that to what
// follows: the logits are the factors of Follows, times √len(Tokens).
func (s Script) Write(tb testing.TB, dir string) {
	tb.Helper()
	size := len(s.Tokens)
	const head = 2 // Dimensions of the one head.
	writeJSON(tb, dir, checkpoint.ConfigFile, map[string]any{
		"model_type": "llama", "hidden_size": size, "intermediate_size": head, "num_hidden_layers": 1,
		"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": head, "vocab_size": size,
		"max_position_embeddings": cmp.Or(s.Context, 256), "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
		"tie_word_embeddings": false, "bos_token_id": nil, "eos_token_id": s.ID(tb, ScriptEnd),
	})
	const layer = "model.layers.0."
	weights := map[string]*tensor.Tensor{
		"model.embed_tokens.weight": tensor.New(size, size), "lm_head.weight": tensor.New(size, size),
		layer + "self_attn.q_proj.weight": tensor.New(head, size), layer + "self_attn.k_proj.weight": tensor.New(head, size),
		layer + "self_attn.v_proj.weight": tensor.New(head, size), layer + "self_attn.o_proj.weight": tensor.New(size, head),
		layer + "mlp.gate_proj.weight": tensor.New(head, size), layer + "mlp.up_proj.weight": tensor.New(head, size),
		layer + "mlp.down_proj.weight": tensor.New(size, head),
	}
	for _, name := range []string{"model.norm.weight", layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight"} {
		weights[name] = tensor.New(size)
		for i := range weights[name].Data {
			weights[name].Data[i] = 1
		}
	}
	for i := range size {
		weights["model.embed_tokens.weight"].Row(i)[i] = 1
	}
	for before, follows := range s.Follows {
		for token, factor := range follows {
			weights["lm_head.weight"].Row(s.ID(tb, token))[s.ID(tb, before)] = float32(factor)
		}
	}
	must(tb, checkpoint.WriteSafetensors(filepath.Join(dir, checkpoint.WeightsFile), weights, tensor.F32, nil))
	s.writeTokenizer(tb, dir)
}

func (s Script) writeTokenizer(tb testing.TB, dir string) {
	tb.Helper()
	vocab := map[string]int{}
	for i, token := range s.Tokens {
		vocab[token] = i
	}
	var added []any
	for _, token := range append([]string{ScriptEnd}, s.Special...) {
		added = append(added, map[string]any{"id": s.ID(tb, token), "content": token, "special": true})
	}
	replace := func(from, to string) map[string]any {
		return map[string]any{"type": "Replace", "pattern": map[string]string{"String": from}, "content": to}
	}
	writeJSON(tb, dir, contract.TokenizerFiles[0], map[string]any{
		"version": "1.0", "pre_tokenizer": nil, "post_processor": nil,
		"added_tokens": added,
		"normalizer": map[string]any{"type": "Sequence", "normalizers": []any{
			map[string]any{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁"),
		}},
		"decoder": map[string]any{"type": "Sequence", "decoders": []any{
			replace("▁", " "), map[string]any{"type": "ByteFallback"}, map[string]any{"type": "Fuse"},
			map[string]any{"type": "Strip", "content": " ", "start": 1, "stop": 0},
		}},
		"model": map[string]any{"type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": []string{}},
	})
	writeJSON(tb, dir, "tokenizer_config.json", map[string]any{
		"eos_token": ScriptEnd, "chat_template": cmp.Or(s.Template, "{% for m in messages %}{{ m.content }}{% endfor %}"+
			"{% if shout is defined %}{{ shout }}{% endif %}{% if add_generation_prompt %}:{% endif %}"),
	})
}
