package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Families of models that the runtime computes.
const (
	FamilyLlama   = "llama"
	FamilyMistral = "mistral"
	FamilyQwen2   = "qwen2" // Qwen 2.5 too.
	FamilyQwen3   = "qwen3"
)

var families = []string{FamilyLlama, FamilyMistral, FamilyQwen2, FamilyQwen3}

// RopeLlama3 is the frequency scaling of Llama 3.1 and later.
const RopeLlama3 = "llama3"

// Config is what the runtime needs of a Hugging Face config.json.
type Config struct {
	// Family is the config's model_type.
	Family string
	// HiddenSize is the width of the residual stream, IntermediateSize that of
	// the MLP.
	HiddenSize       int
	IntermediateSize int
	Layers           int
	// Heads query heads share KVHeads key-value heads, each HeadDim wide.
	Heads   int
	KVHeads int
	HeadDim int
	// VocabSize is the number of rows of the embedding.
	VocabSize int
	// MaxPositions is the longest sequence the model was made for.
	MaxPositions int
	RMSNormEps   float64
	RopeTheta    float64
	// RopeScaling is nil for plain rotary embeddings.
	RopeScaling *RopeScaling
	// AttentionBias says that queries, keys and values have a bias (Qwen2).
	AttentionBias bool
	// QKNorm says that each head of queries and keys is normalised before it is
	// rotated (Qwen3).
	QKNorm bool
	// TieEmbeddings says that the output projection is the embedding.
	TieEmbeddings bool
	// BOS is the token that begins a sequence, -1 if there is none.
	BOS int
	// EOS are the tokens that end a sequence; may be empty.
	EOS []int
}

// RopeScaling stretches rotary frequencies as Llama 3.1 does: wavelengths
// longer than OriginalMaxPositions/LowFreqFactor are divided by Factor, those
// shorter than OriginalMaxPositions/HighFreqFactor stay, between is blended.
type RopeScaling struct {
	Type                 string // RopeLlama3
	Factor               float64
	LowFreqFactor        float64
	HighFreqFactor       float64
	OriginalMaxPositions int
}

// Limits that no model of these families comes near; they keep a hostile
// config from asking for absurd amounts of memory.
const (
	maxWidth     = 1 << 18
	maxLayers    = 1 << 12
	maxVocab     = 1 << 22
	maxPositions = 1 << 26
)

// rawConfig mirrors config.json. Fields begin with the family's defaults; pointers
// are those for which null says something else.
type rawConfig struct {
	ModelType           string          `json:"model_type"`
	Architectures       []string        `json:"architectures"`
	HiddenSize          int             `json:"hidden_size"`
	IntermediateSize    int             `json:"intermediate_size"`
	Layers              int             `json:"num_hidden_layers"`
	Heads               int             `json:"num_attention_heads"`
	KVHeads             *int            `json:"num_key_value_heads"`
	HeadDim             *int            `json:"head_dim"`
	VocabSize           int             `json:"vocab_size"`
	MaxPositions        int             `json:"max_position_embeddings"`
	RMSNormEps          float64         `json:"rms_norm_eps"`
	RopeTheta           float64         `json:"rope_theta"`
	RopeScaling         json.RawMessage `json:"rope_scaling"`
	RopeParameters      json.RawMessage `json:"rope_parameters"` // Since transformers 5, of both.
	OriginalMax         *int            `json:"original_max_position_embeddings"`
	TieEmbeddings       bool            `json:"tie_word_embeddings"`
	BOS                 *int            `json:"bos_token_id"`
	EOS                 json.RawMessage `json:"eos_token_id"`
	HiddenAct           string          `json:"hidden_act"`
	AttentionBias       bool            `json:"attention_bias"`
	MLPBias             bool            `json:"mlp_bias"`
	SlidingWindow       *int            `json:"sliding_window"`
	UseSlidingWindow    bool            `json:"use_sliding_window"` // Qwen
	MaxWindowLayers     int             `json:"max_window_layers"`  // Qwen
	LayerTypes          []string        `json:"layer_types"`
	PartialRotaryFactor *float64        `json:"partial_rotary_factor"`
	Quantization        json.RawMessage `json:"quantization_config"`
	Compression         json.RawMessage `json:"compression_config"`
}

// defaults returns what the reference's configuration class of a family says where
// config.json says nothing.
func defaults(family string) rawConfig {
	raw := rawConfig{
		HiddenSize: 4096, IntermediateSize: 11008, Layers: 32, Heads: 32, VocabSize: 32000, MaxPositions: 2048,
		RMSNormEps: 1e-6, RopeTheta: 10000, HiddenAct: "silu", MaxWindowLayers: 28,
	}
	switch family {
	case FamilyLlama:
		raw.BOS, raw.EOS = new(1), json.RawMessage("2")
	case FamilyMistral:
		raw.IntermediateSize, raw.KVHeads, raw.MaxPositions, raw.SlidingWindow = 14336, new(8), 4096*32, new(4096)
		raw.BOS, raw.EOS = new(1), json.RawMessage("2")
	case FamilyQwen2, FamilyQwen3:
		raw.IntermediateSize, raw.KVHeads, raw.MaxPositions, raw.SlidingWindow = 22016, new(32), 32768, new(4096)
		raw.VocabSize = 151936
	}
	return raw
}

// ParseConfig reads a config.json. What the runtime cannot compute it refuses
// by name (contract.ReasonUnsupported), because a model that loads and computes
// something else is worse than one that does not load; a config that makes no
// sense is contract.ReasonInvalidModel.
func ParseConfig(b []byte) (Config, error) {
	c, _, err := parseConfig(b)
	return c, err
}

// parseConfig is ParseConfig; ends says that the file itself names tokens that end a
// sequence, or that there are none.
func parseConfig(b []byte) (c Config, ends bool, err error) {
	var family struct {
		ModelType string          `json:"model_type"`
		EOS       json.RawMessage `json:"eos_token_id"`
	}
	err = json.Unmarshal(b, &family)
	raw := defaults(family.ModelType)
	if err == nil {
		err = json.Unmarshal(b, &raw)
	}
	if err != nil {
		return Config{}, false, failure.Permanentf(contract.ReasonInvalidModel, "config.json: %w", err)
	}
	rope, err := raw.rope()
	if err != nil {
		return Config{}, false, failure.Content(contract.ReasonInvalidModel, fmt.Errorf("config.json: %w", err))
	}
	if problems := unsupported(raw, rope); len(problems) > 0 {
		return Config{}, false, failure.Permanentf(contract.ReasonUnsupported,
			"config.json: this runtime cannot compute %s; it computes the families %s in plain form", strings.Join(problems, ", "), strings.Join(families, ", "))
	}
	c = raw.config(rope)
	if c.EOS, err = parseEOS(raw.EOS); err != nil {
		return Config{}, false, err
	}
	c.EOS = within(c.EOS, c.VocabSize)
	if problems := c.problems(raw); len(problems) > 0 {
		return Config{}, false, failure.Permanentf(contract.ReasonInvalidModel, "config.json: %s", strings.Join(problems, "; "))
	}
	return c, len(family.EOS) > 0, nil
}

// config takes over what needs no check.
func (raw rawConfig) config(rope rawRope) Config {
	c := Config{
		Family: raw.ModelType, HiddenSize: raw.HiddenSize, IntermediateSize: raw.IntermediateSize,
		Layers: raw.Layers, Heads: raw.Heads, KVHeads: raw.Heads, VocabSize: raw.VocabSize,
		MaxPositions: raw.MaxPositions, RMSNormEps: raw.RMSNormEps, RopeTheta: raw.RopeTheta,
		TieEmbeddings: raw.TieEmbeddings, BOS: -1,
		AttentionBias: raw.ModelType == FamilyQwen2, QKNorm: raw.ModelType == FamilyQwen3,
	}
	if raw.KVHeads != nil {
		c.KVHeads = *raw.KVHeads
	}
	switch {
	case raw.HeadDim != nil:
		c.HeadDim = *raw.HeadDim
	case raw.ModelType == FamilyQwen3:
		c.HeadDim = 128 // The family's default, whatever the hidden size.
	case raw.Heads > 0:
		c.HeadDim = raw.HiddenSize / raw.Heads
	}
	if raw.BOS != nil && *raw.BOS >= 0 && *raw.BOS < raw.VocabSize {
		c.BOS = *raw.BOS
	}
	if rope.RopeTheta != nil {
		c.RopeTheta = *rope.RopeTheta
	}
	if rope.kind() == RopeLlama3 {
		c.RopeScaling = &RopeScaling{
			Type: RopeLlama3, Factor: rope.Factor, LowFreqFactor: rope.LowFreqFactor,
			HighFreqFactor: rope.HighFreqFactor, OriginalMaxPositions: rope.OriginalMax,
		}
	}
	return c
}

// within keeps the tokens that the vocabulary has. Others cannot be computed, so
// that they end nothing, but neither do they harm.
func within(ids []int, vocabulary int) []int {
	return slices.DeleteFunc(ids, func(id int) bool { return id < 0 || id >= vocabulary })
}

// unsupported lists what config.json asks for that the runtime has not.
func unsupported(raw rawConfig, rope rawRope) []string {
	var p []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			p = append(p, fmt.Sprintf(format, args...))
		}
	}
	add(!slices.Contains(families, raw.ModelType), "model_type %q", raw.ModelType)
	add(slices.ContainsFunc(raw.Architectures, noLanguageModel), "architectures %q", raw.Architectures)
	add(raw.HiddenAct != "silu" && raw.HiddenAct != "swish", "hidden_act %q", raw.HiddenAct)
	add(raw.AttentionBias && raw.ModelType != FamilyQwen2, "attention_bias") // Qwen 2 has its own in any case.
	add(raw.MLPBias, "mlp_bias")
	add(raw.slides(), "sliding_window %d", deref(raw.SlidingWindow))
	if i := slices.IndexFunc(raw.LayerTypes, func(kind string) bool { return kind != fullAttention }); i >= 0 {
		add(true, "layer_types %q", raw.LayerTypes[i])
	}
	for _, factor := range []*float64{raw.PartialRotaryFactor, rope.PartialRotaryFactor} {
		add(factor != nil && *factor != 1, "partial_rotary_factor %g", deref(factor))
	}
	add(!isNull(raw.Quantization), "quantization_config (use the unquantized weights)")
	add(!isNull(raw.Compression), "compression_config (use the uncompressed weights)")
	k := rope.kind()
	add(k != "" && k != "default" && k != RopeLlama3, "rope scaling %q", k)
	return p
}

// noLanguageModel reports whether an architecture ends in something else than the
// next token.
func noLanguageModel(architecture string) bool {
	for _, end := range []string{"Classification", "QuestionAnswering", "RewardModel"} {
		if strings.HasSuffix(architecture, end) {
			return true
		}
	}
	return false
}

// slides reports whether a layer attends to a window that is shorter than the model
// is long. Qwen has a switch for it, and windows only from some layer on.
func (raw rawConfig) slides() bool {
	if raw.SlidingWindow == nil || *raw.SlidingWindow >= max(raw.MaxPositions, 1) {
		return false
	}
	if raw.ModelType != FamilyQwen2 && raw.ModelType != FamilyQwen3 {
		return true
	}
	return raw.UseSlidingWindow && len(raw.LayerTypes) == 0 && raw.Layers > raw.MaxWindowLayers
}

// isNull reports whether a field is absent or null.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || bytes.Equal(raw, []byte("null")) }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func parseEOS(raw json.RawMessage) ([]int, error) {
	if isNull(raw) {
		return nil, nil
	}
	var one int
	if json.Unmarshal(raw, &one) == nil {
		return []int{one}, nil
	}
	var many []int
	if err := json.Unmarshal(raw, &many); err != nil {
		return nil, failure.Permanentf(contract.ReasonInvalidModel, "config.json: eos_token_id is neither a token id nor a list of them: %w", err)
	}
	return many, nil
}

// problems lists what is senseless in a config of a supported family.
func (c Config) problems(raw rawConfig) []string {
	var p []string
	between := func(name string, v, low, high int) {
		if v < low || v > high {
			p = append(p, fmt.Sprintf("%s is %d, must be %d to %d", name, v, low, high))
		}
	}
	positive := func(name string, v float64) {
		if !(v > 0) || math.IsInf(v, 0) {
			p = append(p, fmt.Sprintf("%s is %g, must be positive", name, v))
		}
	}
	between("hidden_size", c.HiddenSize, 1, maxWidth)
	between("intermediate_size", c.IntermediateSize, 1, maxWidth)
	between("num_hidden_layers", c.Layers, 1, maxLayers)
	between("num_attention_heads", c.Heads, 1, maxWidth)
	between("num_key_value_heads", c.KVHeads, 1, maxWidth)
	between("head_dim", c.HeadDim, 2, maxWidth)
	between("vocab_size", c.VocabSize, 1, maxVocab)
	between("max_position_embeddings", c.MaxPositions, 1, maxPositions)
	positive("rms_norm_eps", c.RMSNormEps)
	positive("rope_theta", c.RopeTheta)
	if len(p) > 0 {
		return p
	}
	if raw.HeadDim == nil && c.Family != FamilyQwen3 && c.HiddenSize%c.Heads != 0 {
		p = append(p, fmt.Sprintf("hidden_size %d is no multiple of num_attention_heads %d, and head_dim is not given", c.HiddenSize, c.Heads))
	}
	if c.Heads%c.KVHeads != 0 {
		p = append(p, fmt.Sprintf("num_attention_heads %d is no multiple of num_key_value_heads %d", c.Heads, c.KVHeads))
	}
	if c.HeadDim%2 != 0 {
		p = append(p, fmt.Sprintf("head_dim %d is odd: rotary embeddings turn pairs", c.HeadDim))
	}
	between("num_attention_heads × head_dim", c.Heads*c.HeadDim, 1, maxWidth)
	if s := c.RopeScaling; s != nil {
		positive("rope_scaling.factor", s.Factor)
		positive("rope_scaling.low_freq_factor", s.LowFreqFactor)
		positive("rope_scaling.high_freq_factor", s.HighFreqFactor)
		between("rope_scaling.original_max_position_embeddings", s.OriginalMaxPositions, 1, maxPositions)
		if s.LowFreqFactor >= s.HighFreqFactor {
			p = append(p, fmt.Sprintf("rope_scaling.low_freq_factor %g is not below high_freq_factor %g", s.LowFreqFactor, s.HighFreqFactor))
		}
	}
	return p
}
