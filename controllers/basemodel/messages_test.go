package basemodel

import (
	"errors"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// sized is a BaseModel that asks for a size, asked a claim that was asked for one.
func sized(size string) func(*v1alpha1.BaseModel) {
	return func(b *v1alpha1.BaseModel) { b.Spec.Storage.Size = new(resource.MustParse(size)) }
}

func asked(size string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(size)
	}
}

// Every message of a BaseModel's conditions and events.
func TestMessages(t *testing.T) {
	var all []statustest.Message
	add := func(name string, ready status.Ready, err error) { all = append(all, statustest.Of(name, ready, err)) }
	failed := func(name string, err error) { add(name, status.Ready{}, err) }
	step := func(name string, base *v1alpha1.BaseModel, conditionType string) {
		c := meta.FindStatusCondition(base.Status.Conditions, conditionType)
		if c.Message != "" {
			all = append(all, statustest.Message{
				Case: name + " (" + conditionType + ")", Ready: c.Status == metav1.ConditionTrue, Reason: c.Reason, Text: c.Message,
			})
		}
	}
	collection := func(name string, out outcome.Outcome) {
		told := acceptCollection(decomposed(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "tiny-1"}}, out, metav1.Now())
		all = append(all, statustest.Message{Case: name + " (event)", Ready: !told.warning, Reason: told.reason, Text: told.message})
	}
	collection("the volume was collected", outcome.Outcome{State: outcome.Succeeded, Results: map[string]contract.Termination{
		desired.ContainerCollect: {Collect: &contract.CollectResult{Removed: 2, FreedBytes: 3 << 20}},
	}})
	collection("the volume could not be collected", outcome.Outcome{State: outcome.Failed, Message: "the volume is read-only"})
	crowded := decomposed()
	tooMany(crowded, "id", desired.MaxKept+1, metav1.Now())
	all = append(all, statustest.Message{Case: "more is referred to than a collection takes (status.storage.message)", Reason: v1alpha1.ReasonCollectionFailed, Text: crowded.Status.Storage.Message})
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	existing := decomposed(func(b *v1alpha1.BaseModel) { b.Spec.Storage.ExistingClaim = "mine" })
	_, _, err := (&Reconciler{Client: fake.NewClientBuilder().WithScheme(scheme).Build()}).volume(t.Context(), existing)
	failed("the claim that is to be used is not there", err)
	failed("the claim lost its volume", usable(claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })))
	failed("the claim is being deleted", usable(claim(func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = new(metav1.Now()) })))
	refused := apierrors.NewForbidden(corev1.Resource("persistentvolumeclaims"), "tiny", errors.New("its storage class does not allow it"))
	failed("the claim cannot grow", notResized(decomposed(sized("2Gi")), claim(asked("1Gi")), refused))
	failed("the claim cannot shrink", notResized(decomposed(sized("512Mi")), claim(asked("1Gi")), refused))
	failed("the claim cannot be changed", notResized(decomposed(sized("1Gi")), claim(asked("1Gi")), refused))
	failed("the claim is to grow", grown(decomposed(), claim(has("1Gi"))))

	failed("it is being deleted", inUse(decomposed()))
	failed("it is being deleted and in use", inUse(decomposed(func(b *v1alpha1.BaseModel) {
		b.Status.ReferencedBy = &v1alpha1.ReferencedBy{Count: 5, Objects: []string{"AdaptivePolicy/assistant", "ExpertVector/math"}}
	})))

	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "tiny-1"}}
	conclude := func(name string, out outcome.Outcome, c *corev1.PersistentVolumeClaim) {
		base := decomposed()
		ready, err := (&Reconciler{}).conclude(t.Context(), base, c, desired.Run{ID: "run-1"}, job, out)
		add(name, ready, err)
		if meta.FindStatusCondition(base.Status.Conditions, v1alpha1.ConditionFetched) != nil {
			step(name, base, v1alpha1.ConditionFetched)
			step(name, base, v1alpha1.ConditionDecomposed)
		}
	}
	conclude("the runtime does not say what it made", outcome.Outcome{State: outcome.Succeeded, Seen: true}, claim())
	conclude("it waits for its pod and its volume", outcome.Outcome{State: outcome.Pending, Reason: v1alpha1.ReasonPending, Message: "Waiting for the Job's pod"},
		claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimPending }))
	conclude("it is fetched", outcome.Outcome{State: outcome.Running, Container: desired.ContainerFetch}, claim())
	conclude("it is decomposed", outcome.Outcome{
		State: outcome.Running, Container: desired.ContainerDecompose, Results: map[string]contract.Termination{desired.ContainerFetch: {Model: result.Model}},
	}, claim())
	conclude("its digest is another", outcome.Outcome{
		State: outcome.Failed, Reason: contract.ReasonDigestMismatch, Message: "the model has another digest; correct spec.source.digest",
	}, claim())
	conclude("it is done", outcome.Outcome{State: outcome.Succeeded, Seen: true, Results: map[string]contract.Termination{desired.ContainerDecompose: result}}, claim())

	decomposing := describe(&v1alpha1.StepProgress{
		Step: "Decomposing", Done: new(int64(7)), Total: new(int64(42)), EstimatedRemainingSeconds: new(int64(9)),
	}, v1alpha1.ReasonDecomposing)
	failed("how far it is", status.Wait(v1alpha1.ReasonDecomposing, "%s", decomposing))
	begun := &v1alpha1.BaseModel{}
	beginSteps(begun)
	step("nothing has begun", begun, v1alpha1.ConditionFetched)
	statustest.Check(t, all)
}
