package fields

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/api/v1alpha1"
)

func TestOf(t *testing.T) {
	for _, tc := range []struct {
		name  string
		of    reflect.Type
		whole []reflect.Type
		want  []string
	}{
		{"a struct", reflect.TypeFor[v1alpha1.LocalRef](), nil, []string{"name"}},
		{"a struct of structs, by pointer", reflect.TypeFor[*v1alpha1.HTTPSource](), nil, []string{"url", "tokenSecretRef.name", "tokenSecretRef.key"}},
		{
			"one of them taken whole", reflect.TypeFor[v1alpha1.HTTPSource](), []reflect.Type{reflect.TypeFor[v1alpha1.SecretKeyRef]()},
			[]string{"url", "tokenSecretRef"},
		},
		{
			"a list of structs, and a type of Kubernetes", reflect.TypeFor[struct {
				Spec struct{}                `json:"spec"`
				List []v1alpha1.PolicyExpert `json:"list"`
			}](), nil, []string{""},
		},
		{
			"structs within structs, and lists of them", reflect.TypeFor[v1alpha1.RolloutSpec](), []reflect.Type{reflect.TypeFor[v1alpha1.Dataset](), reflect.TypeFor[v1alpha1.CanaryAbort]()},
			[]string{
				"gate.minGain", "gate.dataset", "gate.fewShot", "gate.reward", "gate.samples", "gate.maxNewTokens",
				"gate.guards[].name", "gate.guards[].dataset", "gate.guards[].reward", "gate.guards[].maxLoss",
				"observe.minutes", "observe.requests", "observe.percent",
				"canary.steps[].percent", "canary.steps[].minutes", "canary.abort",
			},
		},
	} {
		if diff := cmp.Diff(tc.want, Of(tc.of, tc.whole...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
