package adaptivepolicy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// ofOther makes an expert one of BaseModel other, with another decomposition.
func ofOther(e *v1alpha1.ExpertVector) {
	e.Spec.BaseModelRef.Name = "other"
	e.Status.DecompositionDigest = digest("9")
}

func transferring(p *v1alpha1.AdaptivePolicy) { p.Spec.Transfer = v1alpha1.TransferEqualShape }

func otherBase() *v1alpha1.BaseModel {
	return readyBase(func(b *v1alpha1.BaseModel) { b.Name = "other" })
}

// holding is a pod that says so of the experts by name.
func holding(experts ...contract.ServedExpert) func(*observation) {
	return func(o *observation) { o.status.Experts = experts }
}

// misfit is an expert that a pod found not to fit.
func misfit(name string) contract.ServedExpert {
	return contract.ServedExpert{Name: name, State: contract.ExpertFailed, Error: &contract.LoadError{
		Digest: string(digest("1")), Reason: contract.ReasonDecompositionMismatch, Permanent: true,
		Message: "expert cannot be transferred from base model sha256:9 to sha256:a: model.layers.0.mlp.up_proj is [64 32] there and [96 32] here",
	}}
}

func TestExpertsOfAnotherBaseAreServedOnlyIfThePolicyAsksForIt(t *testing.T) {
	for name, tc := range map[string]struct {
		policy  *v1alpha1.AdaptivePolicy
		math    *v1alpha1.ExpertVector
		from    map[string]string // Of what is served, by expert.
		problem string
	}{
		"by default it is refused":            {policy(), expert("math", ofOther), map[string]string{"code": ""}, "Stalled ExpertOfAnotherBaseModel"},
		"Refuse refuses it":                   {policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Transfer = v1alpha1.TransferRefuse }), expert("math", ofOther), map[string]string{"code": ""}, "Stalled ExpertOfAnotherBaseModel"},
		"EqualShape serves it":                {policy(transferring), expert("math", ofOther), map[string]string{"math": "other", "code": ""}, ""},
		"what it scored elsewhere is no gate": {policy(transferring), expert("math", ofOther, worse), map[string]string{"math": "other", "code": ""}, ""},
		"it has to be there":                  {policy(transferring), expert("math", ofOther, unmade, training), map[string]string{"code": ""}, "Waiting ExpertsNotReady"},
		"a selector finds none of them":       {policy(transferring, selecting), expert("math", ofOther), map[string]string{"code": ""}, ""},
		"one of this base is as ever":         {policy(transferring), expert("math", worse), map[string]string{"code": ""}, "Stalled BelowBaseline"},
	} {
		t.Run(name, func(t *testing.T) {
			chosen := choose(tc.policy, readyBase(), found(tc.math, expert("code")))
			got := map[string]string{}
			for _, ref := range chosen.set.Experts {
				got[ref.Name] = ref.TransferFrom
			}
			if diff := cmp.Diff(tc.from, got); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
			if got := statustest.Verdict(chosen.problem); got != tc.problem {
				t.Errorf("%s, want %s (%v)", got, tc.problem, chosen.problem)
			}
			summarise(tc.policy, readyBase(), deployed(1), chosen, nil, metav1.Now().Time)
			for _, e := range tc.policy.Status.Experts {
				if e.TransferredFrom != tc.from[e.Name] {
					t.Errorf("%s is transferred from %q in the status", e.Name, e.TransferredFrom)
				}
				if scored := e.Score != "" || e.BaselineScore != ""; e.TransferredFrom != "" && scored {
					t.Errorf("%s has a score with a base that it was not measured with: %+v", e.Name, e)
				}
			}
		})
	}
}

func TestAClassifierOfAnotherBaseIsTransferredLikewise(t *testing.T) {
	experts := found(expert("math", taught), expert("code", taught), dispatcher(t, "dispatch", ofOther, worse))
	chosen := choose(naming(), readyBase(), experts)
	if chosen.set.Classifier != nil || statustest.Verdict(chosen.problem) != "Stalled ExpertOfAnotherBaseModel" {
		t.Errorf("by default: %+v, %v", chosen.set.Classifier, chosen.problem)
	}
	p := naming(transferring)
	chosen = choose(p, readyBase(), experts)
	if chosen.problem != nil || chosen.set.Classifier == nil || chosen.set.Classifier.TransferFrom != "other" {
		t.Fatalf("it is not transferred: %+v, %v", chosen.set.Classifier, chosen.problem)
	}
	seen := []observation{serving("p", chosen.digest, holding(contract.ServedExpert{Name: "dispatch", Digest: chosen.set.Classifier.Digest}))}
	summarise(p, readyBase(), deployed(1), chosen, seen, metav1.Now().Time)
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionExpertsTransferred)
	if c == nil || c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, "dispatch (made for BaseModel other)") {
		t.Errorf("condition %+v", c)
	}
	if s := p.Status.Classifier; s.Score != "" || s.State != v1alpha1.ExpertServed {
		t.Errorf("status %+v", s)
	}
}

func TestWhatIsTransferredIsInACondition(t *testing.T) {
	p := policy(transferring)
	chosen := choose(p, readyBase(), found(expert("math", ofOther), expert("code")))
	math := contract.ServedExpert{Name: "math", Digest: string(digest("1"))}
	for _, step := range []struct {
		name   string
		chosen choice
		seen   []observation
		want   string // Empty means that it is not there.
	}{
		{"no pod has loaded it", chosen, []observation{serving("p", "before")}, "False LoadingExperts"},
		{"a pod of before has another version", chosen, []observation{serving("p", "before", holding(contract.ServedExpert{Name: "math", Digest: string(digest("2"))}))}, "False LoadingExperts"},
		{"a pod serves it", chosen, []observation{serving("p", chosen.digest, holding(math))}, "True EqualShape"},
		{"the pod starts anew", chosen, []observation{serving("q", "", unready)}, "True EqualShape"},
		{"it does not fit", chosen, []observation{serving("p", "less", holding(misfit("math")))}, "False ExpertSetRefused"},
		{"a pod that ends says so", chosen, []observation{serving("p", "less", oldBase, holding(misfit("math"))), serving("q", chosen.digest, holding(math))}, "True EqualShape"},
		{"it is switched off again", choose(policy(), readyBase(), found(expert("math", ofOther), expert("code"))), nil, ""},
	} {
		setTransferred(p, step.chosen, step.seen)
		got := ""
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionExpertsTransferred); c != nil {
			got = string(c.Status) + " " + c.Reason
		}
		if got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

func TestAPodIsOfferedWhatItsVolumesHave(t *testing.T) {
	pod := func(paths ...string) *corev1.Pod {
		c := corev1.Container{Name: "serve"}
		for _, p := range paths {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{MountPath: p})
		}
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	}
	donors := []*v1alpha1.BaseModel{otherBase()}
	if reaches(pod(contract.MountData), donors) || !reaches(pod(contract.MountData, desired.TransferPath(donors[0])), donors) || !reaches(pod(), nil) {
		t.Error("a pod with the volumes of all donors takes the set, and no other")
	}
}

// transferMessages are those about experts of other bases.
func transferMessages(t *testing.T) []statustest.Message {
	t.Helper()
	experts := found(expert("math", ofOther), expert("code"))
	p := policy(transferring)
	chosen := choose(p, readyBase(), experts)
	_, err := (&Reconciler{Client: clientOf(t)}).donors(t.Context(), p, chosen.set.Refs())
	all := []statustest.Message{statustest.Of("the base of an expert that is transferred is not there", status.Ready{}, err)}
	donors, err := (&Reconciler{Client: clientOf(t, otherBase())}).donors(t.Context(), p, chosen.set.Refs())
	if err != nil || len(donors) != 1 || donors[0].Name != "other" {
		t.Errorf("the donors are %v, %v", donors, err)
	}
	math := contract.ServedExpert{Name: "math", Digest: string(digest("1"))}
	all = append(all, statustest.Of("an expert of another shape is transferred", status.Ready{},
		loaded(chosen, []observation{serving("p", "less", refusing, holding(misfit("math")))})))
	for _, c := range []struct {
		name string
		seen observation
	}{
		{"an expert is transferred, and not loaded", serving("p", "before")},
		{"an expert is transferred", serving("p", chosen.digest, holding(math))},
		{"an expert of another shape is transferred", serving("p", "less", holding(misfit("math")))},
	} {
		p := policy(transferring)
		setTransferred(p, chosen, []observation{c.seen})
		is := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionExpertsTransferred)
		all = append(all, statustest.Message{Case: c.name + " (ExpertsTransferred)", Ready: is.Status == metav1.ConditionTrue, Reason: is.Reason, Text: is.Message})
	}
	return all
}
