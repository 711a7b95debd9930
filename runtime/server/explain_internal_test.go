package server

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// TestWhatIsImpossibleCanBeToldInJSON, which has no infinity.
func TestWhatIsImpossibleCanBeToldInJSON(t *testing.T) {
	b, err := json.Marshal(explained([]adapt.Label{
		{Name: "m", Text: "math", LogLikelihood: -0.5, Probability: 1}, {Name: contract.OthersLabel, Text: contract.OthersLabel, LogLikelihood: math.Inf(-1)},
	}))
	want := `[{"expert":"m","label":"math","logLikelihood":-0.5,"probability":1},{"expert":"base","label":"others","logLikelihood":null,"probability":0}]`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v, want %s", b, err, want)
	}
}
