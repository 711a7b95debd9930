package adaptivepolicy

import (
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

var clientOf = statustest.Client

// Every message of an AdaptivePolicy's conditions and events.
func TestMessages(t *testing.T) {
	ctx := t.Context()
	var all []statustest.Message
	add := func(name string, ready status.Ready, err error) { all = append(all, statustest.Of(name, ready, err)) }
	failed := func(name string, err error) { add(name, status.Ready{}, err) }

	base := func(name string, objects ...client.Object) {
		_, err := (&Reconciler{Client: clientOf(t, objects...)}).base(ctx, policy())
		failed(name, err)
	}
	fetching := func(b *v1alpha1.BaseModel) {
		b.Status.Artifact = nil
		status.SetConditions(b, status.Verdict{Reason: v1alpha1.ReasonFetching, Message: "Fetching 1 of 4"})
	}
	base("the base is not there")
	base("the base is fetched", readyBase(fetching))
	failed("the base has another decomposition", baseChanged(policy(func(p *v1alpha1.AdaptivePolicy) { p.Status.DecompositionDigest = digest("9") }), readyBase()))
	failed("the context is longer than the model's", contextFits(policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.ContextLength = new(int32(2048)) }), readyBase()))
	_, err := (&Reconciler{Live: clientOf(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "assistant-admin", Namespace: "demo"}})}).adminSecret(ctx, policy())
	failed("its Secret is somebody else's", err)

	anotherBase := func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "other" }
	another := func(e *v1alpha1.ExpertVector) { e.Status.DecompositionDigest = digest("9") }
	first := func(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil }
	for _, c := range []struct {
		name    string
		experts map[string]*v1alpha1.ExpertVector
	}{
		{"an expert is not there", nil},
		{"an expert is of another base", choicesOf(anotherBase)},
		{"an expert was not looked at", choicesOf(first, func(e *v1alpha1.ExpertVector) { e.Status.Conditions = nil })},
		{"an expert is trained", choicesOf(first, training)},
		{"an expert is trained anew", choicesOf(training)},
		{"an expert is lost, and trained anew", choicesOf(training, unstored)},
		{"an expert was changed", choicesOf(func(e *v1alpha1.ExpertVector) { e.Generation++ })},
		{"an expert scales another decomposition, and is trained", choicesOf(another, training)},
		{"an expert scales another decomposition, and has not seen it", choicesOf(another)},
		{"an expert is worse than the base", choicesOf(worse)},
		{"an expert is worse than the base, and trained anew", choicesOf(worse, training)},
	} {
		failed(c.name, choose(policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts = p.Spec.Experts[:1] }), readyBase(), c.experts).problem)
	}
	failed("two experts have one skill", choose(policy(), readyBase(), found(expert("math"), expert("code", func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "math" }))).problem)
	failed("one expert acts on answers alone", choose(policy(), readyBase(), found(expert("math"), expert("code", func(e *v1alpha1.ExpertVector) {
		e.Status.Artifact.Activation = v1alpha1.ActivationAnswer
	}))).problem)
	failed("the fallback is no expert", choose(policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "law"}
	}), readyBase(), found(expert("math"), expert("code"))).problem)
	many := map[string]*v1alpha1.ExpertVector{}
	for i := range contract.MaxExperts + 1 {
		e := expert("e" + string(rune('0'+i/10)) + string(rune('0'+i%10)))
		many[e.Name] = e
	}
	failed("a selector finds too many", choose(policy(selecting), readyBase(), many).problem)

	all = append(all, classifierMessages(t)...)
	all = append(all, probeMessages(t)...)
	all = append(all, transferMessages(t)...)
	all = append(all, rolloutMessages(t)...)
	all = append(all, trialMessages(t)...)

	with := func(f func(s *appsv1.DeploymentStatus)) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { f(&d.Status) }
	}
	one := serving("p1", "set")
	failed("a pod crashes", rolledOut(deployed(1), []observation{serving("p1", "", crashing)}))
	failed("a quota forbids the pods", rolledOut(deployed(1, with(func(s *appsv1.DeploymentStatus) {
		s.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: "True", Message: "pods \"x\" is forbidden: exceeded quota: compute."}}
	})), nil))
	failed("the Deployment was changed", rolledOut(deployed(1, with(func(s *appsv1.DeploymentStatus) { s.ObservedGeneration = 2 })), []observation{one}))
	failed("0 to 1 replicas", rolledOut(deployed(1, with(func(s *appsv1.DeploymentStatus) { *s = appsv1.DeploymentStatus{ObservedGeneration: 3} })), nil))
	failed("a pod of the version before has not ended", rolledOut(deployed(1, with(func(s *appsv1.DeploymentStatus) { s.Replicas = 2 })), nil))
	failed("fewer pods are asked for", rolledOut(deployed(1, with(func(s *appsv1.DeploymentStatus) { s.Replicas, s.UpdatedReplicas = 2, 2 })), nil))
	failed("a pod is not available", rolledOut(deployed(2, with(func(s *appsv1.DeploymentStatus) { s.AvailableReplicas = 1 })), nil))
	failed("the pods have not been seen", rolledOut(deployed(2), []observation{one, serving("p0", "set", oldVersion)}))
	failed("a pod refuses the set", loaded(choice{digest: "set"}, []observation{one, serving("p2", "before", refusing)}))
	withMath := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	failed("a pod misses an expert", loaded(withMath, []observation{one, serving("p2", "before", missing("math", contract.ReasonExpertMissing, "1"))}))
	failed("a pod has not loaded the set", loaded(choice{digest: "set"}, []observation{one, serving("p2", "before")}))

	failed("a pod cannot be asked", loaded(choice{digest: "set"}, []observation{one, serving("p2", "", silent)}))

	told := []observation{startingSince(time.Minute)}
	if err := (&Reconciler{Live: eventsOf(t, told[0].pod, "FailedMount", "rpc error: no such share")}).warned(ctx, told); err != nil {
		t.Fatal(err)
	}
	failed("a volume cannot be mounted", rolledOut(deployed(1), told))

	progress := &v1alpha1.FewShotProgress{Summary: "3/10", BestScore: "0.8000", EstimatedRemainingSeconds: new(int64(42))}
	failed("weights are searched, and a pod says how far", meanwhile(policy(), status.Wait(v1alpha1.ReasonSearching, "%s", describeSearch(progress))))
	failed("weights are searched anew", meanwhile(weighted(), status.Wait(v1alpha1.ReasonSearching, "%s", describeSearch(nil))))
	failed("a search says nothing", accept(&v1alpha1.FewShotStatus{}, readyBase(), desired.Run{}, nil, nil, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "assistant-0123abcd"}}))

	off := policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = new(int32(0)) })
	ready, err := conclude(off, readyBase(), deployed(0), choice{digest: "set"}, nil)
	add("no pod is asked for", ready, err)
	ready, err = conclude(policy(), readyBase(), deployed(1), choice{digest: "set"}, []observation{one})
	add("it serves", ready, err)

	for _, c := range []struct {
		name   string
		answer answer
	}{
		{"no pod", answer{}},
		{"no pod is asked for", answer{off: true}},
		{"no pod is ready", answer{seen: []observation{serving("p", "set", unready), serving("q", "set", unready)}}},
		{"all answer", answer{expected: "set", seen: []observation{one}}},
		{"one answers with the set from before", answer{expected: "set", seen: []observation{one, serving("q", "before")}}},
		{"all answer with the set from before", answer{expected: "set", seen: []observation{serving("q", "before")}}},
		{"one cannot be asked", answer{expected: "set", seen: []observation{one, serving("q", "", silent)}}},
		{"none can be asked", answer{expected: "set", seen: []observation{serving("q", "", silent)}}},
		{"one misses an expert", answer{expected: "set", seen: []observation{one, serving("q", "less", missing("math", contract.ReasonExpertMissing, "1"))}}},
		{"one answers, one is not ready", answer{expected: "set", seen: []observation{one, serving("q", "", unready)}}},
	} {
		c.answer.with = answersWith(answering("1", "2"))
		holds, reason, text := available(c.answer, true)
		all = append(all, statustest.Message{Case: c.name + " (Available)", Ready: holds, Reason: reason, Text: text})
	}
	for _, c := range []struct {
		name   string
		policy *v1alpha1.AdaptivePolicy
	}{
		{"none of the experts can be served", answering("", "")},
		{"one of the experts can be served", answering("1", "")},
		{"weights have yet to be found", answering("1", "2", fewShot)},
		{"there is no probe yet", answering("1", "2", probing)},
		{"an expert that is new has yet to be let serve", func() *v1alpha1.AdaptivePolicy {
			p := answering("1", "")
			p.Status.Experts[0].State = v1alpha1.ExpertHeld
			p.Status.Rollout = &v1alpha1.RolloutStatus{Stable: &v1alpha1.RolloutSet{Experts: make([]v1alpha1.RolloutExpert, 2)}}
			return p
		}()},
		{"the classifier cannot be served", answering("1", "2", func(p *v1alpha1.AdaptivePolicy) { p.Status.Classifier = &v1alpha1.PolicyClassifier{} })},
	} {
		setAvailable(c.policy, answer{expected: "set", seen: []observation{one}})
		is := meta.FindStatusCondition(c.policy.Status.Conditions, v1alpha1.ConditionAvailable)
		all = append(all, statustest.Message{Case: c.name + " (Available)", Ready: is.Status == metav1.ConditionTrue, Reason: is.Reason, Text: is.Message})
	}
	failed("the API server refuses", apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, "assistant", errors.New("exceeded quota: compute")))
	failed("a call failed", errors.New("reading Deployment assistant: connection refused"))
	statustest.Check(t, all, "converge.go")
}

// answering is a policy whose experts have artifacts with these digests in its status, empty
// where they are not served.
func answering(math, code string, change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := policy(change...)
	for name, d := range map[string]string{"math": math, "code": code} {
		e := v1alpha1.PolicyExpertStatus{Name: name}
		if d != "" {
			e.Digest = digest(d)
		}
		p.Status.Experts = append(p.Status.Experts, e)
	}
	return p
}

// choicesOf is one expert, math, as the changes make it.
func choicesOf(change ...func(*v1alpha1.ExpertVector)) map[string]*v1alpha1.ExpertVector {
	return found(expert("math", change...))
}
