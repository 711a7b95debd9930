package expertvector

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

var clientOf = statustest.Client

// Every message of an ExpertVector's conditions and events.
func TestMessages(t *testing.T) {
	ctx := t.Context()
	var all []statustest.Message
	add := func(name string, ready status.Ready, err error) { all = append(all, statustest.Of(name, ready, err)) }
	failed := func(name string, err error) { add(name, status.Ready{}, err) }

	base := func(objects ...client.Object) error {
		r := &Reconciler{Client: clientOf(t, objects...)}
		_, err := r.base(ctx, trained())
		return err
	}
	fetching := readyBase(func(b *v1alpha1.BaseModel) {
		b.Status.Artifact = nil
		status.SetConditions(b, status.Verdict{Reason: v1alpha1.ReasonFetching, Message: "Fetching 1 of 4"})
	})
	failed("the base is not there", base())
	failed("the base is fetched", base(fetching))
	failed("the base was not looked at", base(readyBase(func(b *v1alpha1.BaseModel) { b.Status = v1alpha1.BaseModelStatus{} })))
	failed("the base is being deleted", startable(trained(), readyBase(func(b *v1alpha1.BaseModel) { b.DeletionTimestamp = new(metav1.Now()) })))
	failed("the base was changed", startable(trained(), readyBase(func(b *v1alpha1.BaseModel) { b.Generation = 2 })))
	failed("modules that are not decomposed", startable(trained(func(e *v1alpha1.ExpertVector) { e.Spec.Training.Modules = []v1alpha1.Module{"k_proj"} }),
		readyBase(func(b *v1alpha1.BaseModel) { b.Spec.Decomposition.Modules = []v1alpha1.Module{"up_proj"} })))

	digests := func(e *v1alpha1.ExpertVector, objects ...client.Object) error {
		c := clientOf(t, objects...)
		_, err := (&Datasets{Cache: c, Live: c}).Digests(ctx, e)
		return err
	}
	sums := func(key string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "sums", Namespace: "demo"}, Data: map[string]string{key: "{}"}}
	}
	missing := digests(trained())
	failed("a data set is not there", missing)
	failed("a data set has no such key", digests(trained(), sums("other.jsonl")))
	failed("a data set has another digest", digests(trained(func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.Digest = digest("0") }), sums("train.jsonl")))

	_, err := (&Reconciler{}).conclude(ctx, trained(), readyBase(), desired.Run{}, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "math-1"}},
		outcome.Outcome{State: outcome.Succeeded, Seen: true})
	failed("the runtime does not say what it made", err)
	failed("an expert of another decomposition", accept(trained(), readyBase(), desired.Run{},
		&contract.ExpertResult{BaseDigest: string(digest("a")), DecompositionDigest: string(digest("9"))}))
	failed("an artifact without a digest", accept(trained(), readyBase(), desired.Run{},
		&contract.ExpertResult{BaseDigest: string(digest("a")), DecompositionDigest: string(digest("b")), Digest: "x"}))

	progress := &v1alpha1.TrainingProgress{Summary: "12/40", BestScore: "0.5625", EstimatedRemainingSeconds: new(int64(80))}
	for _, p := range []*v1alpha1.TrainingProgress{nil, progress} {
		failed("it is trained", status.Wait(v1alpha1.ReasonTraining, "%s", describe(p, v1alpha1.ReasonTraining)))
	}
	failed("it is trained anew", meanwhile(trained(), status.Wait(v1alpha1.ReasonTraining, "%s", describe(progress, v1alpha1.ReasonTraining))))

	improved := func(name string, e *v1alpha1.ExpertVector) {
		add(name, ready(e, nil), nil)
		c := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionImproved)
		all = append(all, statustest.Message{Case: name + " (Improved)", Ready: c.Status == metav1.ConditionTrue, Reason: c.Reason, Text: c.Message})
	}
	improved("better than the base", trained())
	improved("as good as the base", trained(scores("0.5000", "0.5000")))
	improved("worse than the base", trained(scores("0.0625", "0.5156")))
	add("imported", ready(trained(scores("", ""), func(e *v1alpha1.ExpertVector) { e.Status.Progress = nil }), nil), nil)
	add("trained, and its data set is gone", ready(trained(), missing), nil)

	at := func(reason, policy string) *v1alpha1.ExpertVector {
		e := trained(func(e *v1alpha1.ExpertVector) { e.Status.Artifact.URI = "pvc://tiny/experts/sha256-e" })
		setStored(e, reason, policy)
		return e
	}
	for _, c := range []struct{ name, reason, policy string }{
		{"pods miss it", v1alpha1.ReasonMissed, "assistant"},
		{"it is made again", v1alpha1.ReasonRenewing, "assistant"},
		{"it is made again for its user", v1alpha1.ReasonRenewing, ""},
		{"it has been made again", v1alpha1.ReasonRenewed, ""},
		{"pods find it", v1alpha1.ReasonFound, ""},
		{"they still miss it", v1alpha1.ReasonExpertLost, "assistant"},
	} {
		stored := storedCondition(at(c.reason, c.policy))
		all = append(all, statustest.Message{
			Case: c.name + " (Stored)", Ready: stored.Status == metav1.ConditionTrue, Reason: stored.Reason, Text: stored.Message,
		})
	}
	failed("it is lost", meanwhile(at(v1alpha1.ReasonRenewing, "assistant"), begins()))
	failed("it is made again", meanwhile(at(v1alpha1.ReasonRenewing, "assistant"), status.Wait(v1alpha1.ReasonTraining, "%s", describe(progress, v1alpha1.ReasonTraining))))
	failed("it was made again in vain", meanwhile(at(v1alpha1.ReasonExpertLost, "assistant"), broken(at(v1alpha1.ReasonExpertLost, "assistant"), "math-1")))
	all = append(all, pushMessages(t)...)
	statustest.Check(t, all)
}
