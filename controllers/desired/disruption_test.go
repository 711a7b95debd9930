package desired

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// What a policy says of draining reaches the kubelet and the runtime, and the kubelet
// gives more time than the runtime takes.
func TestAPodHasTheTimeToDrain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		asked  *int32
		kill   int64
		serves int
	}{
		{"what pods had before there was a field", nil, 35, 0},
		{"a long stream's", ptr.To[int32](3600), 3610, 3600},
		{"a second", ptr.To[int32](1), 11, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DrainSeconds = tc.asked })
			d, err := Deployment(p, baseModel(), nil, []byte("token"), settings)
			if err != nil {
				t.Fatal(err)
			}
			if got := *d.Spec.Template.Spec.TerminationGracePeriodSeconds; got != tc.kill {
				t.Errorf("the kubelet gives %d s, want %d", got, tc.kill)
			}
			if got := ServeSpec(p, baseModel()).DrainSeconds; got != tc.serves {
				t.Errorf("the runtime is told %d s, want %d", got, tc.serves)
			}
		})
	}
}

// Pods go to different nodes where there are some, unless somebody says how they are
// spread: the policy, or its BaseModel.
func TestPodsAreSpreadUnlessATemplateSays(t *testing.T) {
	zones := &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
		MaxSkew: 2, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
	}}}}
	for _, tc := range []struct {
		name         string
		base, policy *v1alpha1.PodTemplate
		want         string
		when         corev1.UnsatisfiableConstraintAction
	}{
		{"nobody says it", nil, nil, corev1.LabelHostname, corev1.ScheduleAnyway},
		{"the policy says it", nil, zones, corev1.LabelTopologyZone, corev1.DoNotSchedule},
		{"its BaseModel says it", zones, nil, corev1.LabelTopologyZone, corev1.DoNotSchedule},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.PodTemplate = tc.policy })
			b := baseModel(func(b *v1alpha1.BaseModel) { b.Spec.Runtime.PodTemplate = tc.base })
			d, err := Deployment(p, b, nil, []byte("token"), settings)
			if err != nil {
				t.Fatal(err)
			}
			got := d.Spec.Template.Spec.TopologySpreadConstraints
			if len(got) != 1 || *got[0].TopologyKey != tc.want || *got[0].WhenUnsatisfiable != tc.when {
				t.Errorf("got %+v, want one of %s, %s", got, tc.want, tc.when)
			}
		})
	}
}

func TestTheBudgetOfAPolicy(t *testing.T) {
	for _, tc := range []struct {
		name  string
		asked *v1alpha1.Disruption
		made  bool
		most  int32
	}{
		{"nothing is asked", nil, true, 1},
		{"more may be missing", &v1alpha1.Disruption{MaxUnavailable: ptr.To[int32](3)}, true, 3},
		{"the operator's by name", &v1alpha1.Disruption{Budget: v1alpha1.BudgetManaged}, true, 1},
		{"somebody's own", &v1alpha1.Disruption{Budget: v1alpha1.BudgetNone}, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Disruption = tc.asked })
			if got := WantsBudget(p); got != tc.made {
				t.Errorf("made: %v, want %v", got, tc.made)
			}
			if got := Budget(p).Spec.MaxUnavailable.IntValue(); got != int(tc.most) {
				t.Errorf("%d pods may be missing, want %d", got, tc.most)
			}
		})
	}
}
