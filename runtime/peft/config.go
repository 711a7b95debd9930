package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Config is an adapter_config.json. It does not change after it is read or made.
type Config struct {
	kind string
	base string

	rank    int
	alpha   float64
	rsLoRA  bool
	dora    bool
	ranks   []pattern
	alphas  []pattern
	targets selection
	exclude selection
	feed    selection
	layers  layerChoice

	// fields are all of the file, known or not, as they are written.
	fields map[string]json.RawMessage
}

// Type is LoRA or IA3.
func (c *Config) Type() string { return c.kind }

// Base is what the file calls the base model, an address or a path; it may be empty.
func (c *Config) Base() string { return c.base }

// DoRA says that a LoRA adapter has magnitudes.
func (c *Config) DoRA() bool { return c.dora }

// Rank returns R of a matrix.
func (c *Config) Rank(matrix string) int {
	if v, ok := lookup(c.ranks, matrix); ok {
		return int(v)
	}
	return c.rank
}

// Scale returns what B·A of a matrix is multiplied by.
func (c *Config) Scale(matrix string) float64 {
	alpha := c.alpha
	if v, ok := lookup(c.alphas, matrix); ok {
		alpha = v
	}
	if c.rsLoRA {
		return alpha / math.Sqrt(float64(c.Rank(matrix)))
	}
	return alpha / float64(c.Rank(matrix))
}

// maxRank bounds R. PEFT has no bound; a matrix has no more than its smaller side.
const maxRank = 1 << 16

// rawConfig has the fields that decide what is computed. The defaults are PEFT's.
type rawConfig struct {
	Type     *string `json:"peft_type"`
	Base     string  `json:"base_model_name_or_path"`
	TaskType string  `json:"task_type"`

	Rank   int     `json:"r"`
	Alpha  float64 `json:"lora_alpha"`
	RSLoRA bool    `json:"use_rslora"`
	DoRA   bool    `json:"use_dora"`
	Bias   string  `json:"bias"`

	RankPattern   json.RawMessage `json:"rank_pattern"`
	AlphaPattern  json.RawMessage `json:"alpha_pattern"`
	Targets       json.RawMessage `json:"target_modules"`
	Exclude       json.RawMessage `json:"exclude_modules"`
	Feedforward   json.RawMessage `json:"feedforward_modules"`
	Layers        json.RawMessage `json:"layers_to_transform"`
	LayersPattern json.RawMessage `json:"layers_pattern"`

	FanInFanOut bool            `json:"fan_in_fan_out"`
	Init        json.RawMessage `json:"init_lora_weights"`
}

// foreign are fields that make an adapter compute something else unless they are
// null, false or empty, and what that is.
var foreign = []struct{ field, does string }{
	{"alora_invocation_tokens", "acts from some tokens on (activated LoRA)"},
	{"arrow_config", "chooses among adapters (Arrow)"},
	{"kasa_config", "changes the base weights (KaSA)"},
	{"layer_replication", "repeats layers of the model"},
	{"lora_bias", "has a bias on B"},
	{"megatron_config", "is of a Megatron model"},
	{"modules_to_save", "has weights of the model itself"},
	{"monteclora_config", "draws at random (MonteCLoRA)"},
	{"target_parameters", "changes parameters that are no projections"},
	{"trainable_token_indices", "has embeddings of tokens"},
	{"use_bdlora", "has block-diagonal matrices (BD-LoRA)"},
	{"use_qalora", "pools inputs (QA-LoRA)"},
}

// mutating are initialisations that change the base weights, so that the adapter alone
// says nothing.
var mutating = []string{"pissa", "olora", "corda", "loftq", "lora_ga"}

// ParseConfig reads an adapter_config.json. What cannot be computed is refused by its
// field and value; all such are named. A field that is not known is ignored, as PEFT
// does, and written again.
func ParseConfig(b []byte) (*Config, error) {
	c, err := parseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	return c, nil
}

func parseConfig(b []byte) (*Config, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("is no UTF-8")
	}
	c := &Config{}
	if err := json.Unmarshal(b, &c.fields); err != nil {
		return nil, err
	}
	raw := rawConfig{Rank: 8, Alpha: 8, Bias: "none"}
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, err
	}
	if raw.Type == nil {
		return nil, errors.New("has no peft_type: it is no configuration of an adapter")
	}
	if problems := c.unsupported(raw); len(problems) > 0 {
		return nil, fmt.Errorf("cannot be computed: %s", strings.Join(problems, "; "))
	}
	c.kind, c.base = *raw.Type, raw.Base
	var err error
	for _, s := range []struct {
		field string
		raw   json.RawMessage
		to    *selection
	}{{"target_modules", raw.Targets, &c.targets}, {"exclude_modules", raw.Exclude, &c.exclude}, {"feedforward_modules", raw.Feedforward, &c.feed}} {
		if *s.to, err = parseSelection(s.raw); err != nil {
			return nil, fmt.Errorf("%s: %w", s.field, err)
		}
	}
	if c.kind == IA3 {
		return c, nil
	}
	return c, c.parseLoRA(raw)
}

func (c *Config) parseLoRA(raw rawConfig) (err error) {
	c.rank, c.alpha, c.rsLoRA, c.dora = raw.Rank, raw.Alpha, raw.RSLoRA, raw.DoRA
	if c.rank < 1 || c.rank > maxRank {
		return fmt.Errorf("r is %d, must be 1 to %d", c.rank, maxRank)
	}
	if c.ranks, err = parsePatterns(raw.RankPattern); err != nil {
		return fmt.Errorf("rank_pattern: %w", err)
	}
	for _, p := range c.ranks {
		if p.value != math.Trunc(p.value) || p.value < 1 || p.value > maxRank {
			return fmt.Errorf("rank_pattern: %q is %v, must be 1 to %d", p.text, p.value, maxRank)
		}
	}
	if c.alphas, err = parsePatterns(raw.AlphaPattern); err != nil {
		return fmt.Errorf("alpha_pattern: %w", err)
	}
	if c.layers, err = parseLayers(raw.Layers, raw.LayersPattern); err != nil {
		return err
	}
	return nil
}

// unsupported lists what asks for something that this runtime does not compute.
func (c *Config) unsupported(raw rawConfig) []string {
	var p []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			p = append(p, fmt.Sprintf(format, args...))
		}
	}
	if *raw.Type != LoRA && *raw.Type != IA3 {
		return []string{fmt.Sprintf("peft_type is %q; %s (DoRA, too) and %s are", *raw.Type, LoRA, IA3)}
	}
	add(raw.TaskType != "" && raw.TaskType != "CAUSAL_LM", "task_type is %q; models here complete text (CAUSAL_LM)", raw.TaskType)
	add(raw.FanInFanOut, "fan_in_fan_out is true: the matrices are stored transposed (Conv1D)")
	add(raw.Bias != "none", "bias is %q: biases of the model are trained, too", raw.Bias)
	var init string
	if json.Unmarshal(raw.Init, &init) == nil {
		begins := func(s string) bool { return strings.HasPrefix(strings.ToLower(init), s) }
		add(slices.ContainsFunc(mutating, begins),
			"init_lora_weights is %q, which changes the base weights: save it with path_initial_model_for_weight_conversion", init)
	}
	for _, f := range foreign {
		add(!neutral(c.fields[f.field]), "%s is %s: the adapter %s", f.field, brief(c.fields[f.field]), f.does)
	}
	return p
}

// neutral reports whether a field is absent or says nothing.
func neutral(raw json.RawMessage) bool {
	switch string(bytes.Join(bytes.Fields(raw), nil)) {
	case "", "null", "false", "[]", "{}":
		return true
	default:
		return false
	}
}

// brief is a value for an error.
func brief(raw json.RawMessage) string {
	const most = 80
	if len(raw) > most {
		return string(raw[:most]) + "…"
	}
	return string(raw)
}
