package status

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestARefusalHoldsNoGoStructures(t *testing.T) {
	job := schema.GroupKind{Group: "batch", Kind: "Job"}
	template := struct{ Image, Mirror string }{"t2:dev", "mirror.example.org/t2:dev"}
	immutable := apierrors.NewInvalid(job, "math-1", field.ErrorList{
		field.Invalid(field.NewPath("spec", "template"), template, "field is immutable"),
		field.Required(field.NewPath("spec", "selector"), "say which pods"),
	})
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"fields", fmt.Errorf("applying Job math-1: %w", immutable),
			`Job math-1 is refused: spec.template: field is immutable; spec.selector: Required value: say which pods`},
		{"a short value stays", apierrors.NewInvalid(job, "math-1", field.ErrorList{field.Invalid(field.NewPath("spec", "backoffLimit"), -1, "must not be negative")}),
			`Job math-1 is refused: spec.backoffLimit: Invalid value: -1: must not be negative`},
		{"a quota", apierrors.NewForbidden(resource, "math-1", errors.New("exceeded quota: pods")),
			`jobs.batch "math-1" is forbidden: exceeded quota: pods`},
		{"no answer of the API server", errors.New("connection refused"), "connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Refusal(tc.err); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
