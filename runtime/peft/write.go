package peft

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Write writes an adapter's two files to dir, which must exist, as PEFT's
// save_pretrained does. Tensors that were read keep their dtype and name; others are
// F32, as PEFT trains them.
func Write(dir string, a *Adapter) error {
	if err := write(dir, a); err != nil {
		return fmt.Errorf("writing adapter: %w", err)
	}
	return nil
}

func write(dir string, a *Adapter) error {
	text, err := a.Config.encode()
	if err != nil {
		return err
	}
	tensors, err := a.stored()
	if err != nil {
		return err
	}
	metadata := a.metadata
	if metadata == nil {
		metadata = map[string]string{"format": "pt"}
	}
	if err := checkpoint.WriteStored(filepath.Join(dir, WeightsFile), tensors, metadata); err != nil {
		return err
	}
	return artifact.WriteFileAtomic(filepath.Join(dir, ConfigFile), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// stored lists the tensors of the file.
func (a *Adapter) stored() ([]checkpoint.Stored, error) {
	var all []checkpoint.Stored
	add := func(matrix, end string, t *tensor.Tensor) {
		name := prefix + matrix + end
		dtype := tensor.F32
		if f, ok := a.forms[name]; ok {
			dtype = f.dtype
		}
		all = append(all, checkpoint.Entry{Name: name, DType: dtype, Tensor: t}.Stored())
	}
	for _, name := range a.Names() {
		m := a.Matrices[name]
		if a.Config.kind == IA3 {
			if m.Vector == nil {
				return nil, fmt.Errorf("%s has no vector, though the adapter is IA3", name)
			}
			shape := []int{len(m.Vector), 1}
			if m.Feedforward {
				slices.Reverse(shape)
			}
			add(name, endVector, &tensor.Tensor{Shape: shape, Data: m.Vector})
			continue
		}
		if m.A == nil || m.B == nil || a.Config.dora != (m.Magnitude != nil) {
			return nil, fmt.Errorf("%s has not the parts that its configuration says", name)
		}
		if r := a.Config.Rank(name); m.A.Rows() != r || m.B.Cols() != r || m.Scale != a.Config.Scale(name) {
			return nil, fmt.Errorf("%s has rank %d and scale %v, its configuration says %d and %v", name, m.A.Rows(), m.Scale, r, a.Config.Scale(name))
		}
		add(name, endA, m.A)
		add(name, endB, m.B)
		if m.Magnitude != nil {
			end := endMagnitude
			if _, ok := a.forms[prefix+name+endMagnitudeWeight]; ok {
				end = endMagnitudeWeight
			}
			add(name, end, &tensor.Tensor{Shape: []int{len(m.Magnitude)}, Data: m.Magnitude})
		}
	}
	return all, nil
}

// encode is the configuration as Python's json.dumps(indent=2, sort_keys=True) writes
// it: without a line's end behind it, in ASCII.
func (c *Config) encode() ([]byte, error) {
	fields := make(map[string]any, len(c.fields))
	for key, raw := range c.fields {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber() // Numbers stay as they are spelt.
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("field %q: %w", key, err)
		}
		fields[key] = v
	}
	return appendPython(nil, fields, "\n"), nil
}

// appendPython appends a value; line is the line's end and indentation before it.
func appendPython(b []byte, v any, line string) []byte {
	inner := line + "  "
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return append(b, "{}"...)
		}
		b = append(b, '{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, inner...)
			b = appendPythonString(b, key)
			b = append(b, ": "...)
			b = appendPython(b, v[key], inner)
		}
		return append(append(b, line...), '}')
	case []any:
		if len(v) == 0 {
			return append(b, "[]"...)
		}
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, inner...)
			b = appendPython(b, item, inner)
		}
		return append(append(b, line...), ']')
	case string:
		return appendPythonString(b, v)
	case json.Number:
		return append(b, v...)
	case bool:
		return strconv.AppendBool(b, v)
	default:
		return append(b, "null"...)
	}
}

// pythonEscapes are the characters that have a short escape.
var pythonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\f': `\f`, '\b': `\b`}

func appendPythonString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		escape, short := pythonEscapes[r]
		switch {
		case short:
			b = append(b, escape...)
		case r >= ' ' && r <= '~':
			b = append(b, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return append(b, '"')
}

// LoRAOptions say what a LoRA or DoRA adapter that is written anew is like.
type LoRAOptions struct {
	// Base is the base model's name or path; may be empty.
	Base string
	// Rank and Alpha are those of every matrix: Scale is Alpha/Rank.
	Rank  int
	Alpha float64
	DoRA  bool
	// Modules are the projections, such as q_proj.
	Modules []string
	// Layers restricts them to some layers; none mean all.
	Layers []int
}

// writtenVersion is the version of PEFT whose fields configurations made here have.
const writtenVersion = "0.18.1"

// NewLoRAConfig makes a configuration with the fields that PEFT writes.
func NewLoRAConfig(o LoRAOptions) (*Config, error) {
	fields := map[string]any{
		"alora_invocation_tokens": nil, "alpha_pattern": map[string]any{}, "arrow_config": nil, "bias": "none", "corda_config": nil,
		"ensure_weight_tying": false, "eva_config": nil, "init_lora_weights": true, "layer_replication": nil, "layers_pattern": nil,
		"layers_to_transform": nil, "loftq_config": map[string]any{}, "lora_alpha": o.Alpha, "lora_bias": false, "lora_dropout": json.RawMessage("0.0"),
		"megatron_config": nil, "megatron_core": "megatron.core", "qalora_group_size": 16, "r": o.Rank, "rank_pattern": map[string]any{},
		"target_parameters": nil, "trainable_token_indices": nil, "use_dora": o.DoRA, "use_qalora": false, "use_rslora": false,
	}
	if len(o.Layers) > 0 {
		fields["layers_to_transform"] = slices.Sorted(slices.Values(o.Layers))
	}
	return newConfig(LoRA, o.Base, o.Modules, fields)
}

// NewIA3Config makes a configuration of an IA3 adapter of modules, of which feedforward
// scale inputs.
func NewIA3Config(base string, modules, feedforward []string) (*Config, error) {
	return newConfig(IA3, base, modules, map[string]any{
		"feedforward_modules": append([]string{}, slices.Sorted(slices.Values(feedforward))...), "init_ia3_weights": true,
	})
}

func newConfig(kind, base string, modules []string, fields map[string]any) (*Config, error) {
	maps.Copy(fields, map[string]any{
		"auto_mapping": nil, "base_model_name_or_path": nil, "exclude_modules": nil, "fan_in_fan_out": false, "inference_mode": true,
		"modules_to_save": nil, "peft_type": kind, "peft_version": writtenVersion, "revision": nil,
		"target_modules": slices.Sorted(slices.Values(modules)), "task_type": "CAUSAL_LM",
	})
	if base != "" {
		fields["base_model_name_or_path"] = base
	}
	if len(modules) == 0 || strings.TrimSpace(strings.Join(modules, "")) == "" {
		return nil, fmt.Errorf("an adapter of no modules")
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("making a configuration: %w", err)
	}
	return ParseConfig(b)
}
