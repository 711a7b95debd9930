package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// fullAttention is the kind of layer that attends to everything before it, the only
// one that is computed here.
const fullAttention = "full_attention"

// rawRope mirrors rope_scaling and rope_parameters.
type rawRope struct {
	RopeType            string   `json:"rope_type"`
	Type                string   `json:"type"` // Older spelling.
	RopeTheta           *float64 `json:"rope_theta"`
	Factor              float64  `json:"factor"`
	LowFreqFactor       float64  `json:"low_freq_factor"`
	HighFreqFactor      float64  `json:"high_freq_factor"`
	OriginalMax         int      `json:"original_max_position_embeddings"`
	PartialRotaryFactor *float64 `json:"partial_rotary_factor"`
}

func (r rawRope) kind() string {
	if r.RopeType != "" {
		return r.RopeType
	}
	return r.Type
}

// rope returns the rotary parameters: rope_scaling, or what transformers 5 writes in
// its place. What it gives for each type of layer is taken of full attention.
func (raw rawConfig) rope() (rawRope, error) {
	r, err := parseRope("rope_scaling", raw.RopeScaling)
	if err != nil {
		return r, err
	}
	if r == (rawRope{}) {
		if r, err = parseRope("rope_parameters", raw.RopeParameters); err != nil {
			return r, err
		}
	}
	switch {
	case raw.OriginalMax != nil: // Beside the parameters it goes before that among them.
		r.OriginalMax = *raw.OriginalMax
	case r.OriginalMax == 0:
		r.OriginalMax = raw.MaxPositions
	}
	return r, nil
}

func parseRope(name string, b json.RawMessage) (rawRope, error) {
	var r rawRope
	if isNull(b) {
		return r, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	nested := 0
	for _, value := range fields {
		if len(value) > 0 && value[0] == '{' {
			nested++
		}
	}
	if nested > 0 {
		inner, ok := fields[fullAttention]
		if !ok || nested < len(fields) {
			return r, failure.Permanentf(contract.ReasonUnsupported,
				"%s has the members %q: it must be the parameters themselves, or those of each type of layer, %s among them",
				name, slices.Sorted(maps.Keys(fields)), fullAttention)
		}
		b = inner
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}
