package server

import (
	"fmt"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
)

// TestWhatAModelCannotFollowIsNamedByItsParameter: each endpoint has a structure in a parameter
// of its own, and only generating tells whether the model's vocabulary has the tokens.
func TestWhatAModelCannotFollowIsNamedByItsParameter(t *testing.T) {
	for _, cause := range []error{constrain.ErrStuck, constrain.ErrTooComplex} {
		for param, s := range map[string]structure{
			"response_format": {kind: kindSchema},
			paramTextFormat:   {kind: kindSchema, place: paramTextFormat + ".schema"},
		} {
			got := asAPIError(s.named(fmt.Errorf("token 3: %w", cause)))
			if got.Param == nil || *got.Param != param || got.status != 400 {
				t.Errorf("%v of %s is %+v", cause, param, got)
			}
		}
	}
	if err := (structure{}).named(nil); err != nil {
		t.Errorf("nothing is wrong, and named as %v", err)
	}
}
