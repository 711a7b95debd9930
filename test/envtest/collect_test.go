package envtest

import (
	"encoding/json"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

var _ = Describe("A volume", Serial, func() {
	BeforeEach(func() {
		operator.stop()
		operator = start(func(o *controllers.Options) { o.CollectPause = time.Second })
		DeferCleanup(func() {
			operator.stop()
			operator = start()
		})
	})

	It("is collected when what refers to it has changed, and says what it holds", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.decompose(ctx, "tiny")
		base := w.base("tiny")
		w.get(ctx, "tiny", base)

		collects := func(g Gomega, other string) (*batchv1.Job, contract.CollectSpec) {
			var list batchv1.JobList
			g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels(desired.CollectSelector(base)))).To(Succeed())
			g.Expect(list.Items).To(HaveLen(1))
			job := &list.Items[0]
			g.Expect(job.Name).NotTo(Equal(other))
			g.Expect(job.DeletionTimestamp).To(BeNil())
			var spec contract.CollectSpec
			for _, env := range job.Spec.Template.Spec.Containers[0].Env {
				if env.Name == contract.EnvSpec {
					g.Expect(json.Unmarshal([]byte(env.Value), &spec)).To(Succeed())
				}
			}
			return job, spec
		}
		var job *batchv1.Job
		Eventually(func(g Gomega) {
			var spec contract.CollectSpec
			job, spec = collects(g, "")
			g.Expect(spec.Keep).To(ContainElements(strings.Repeat("a", 16), strings.Repeat("b", 16), base.Status.Runs[0].ID))
		}).Should(Succeed())

		pod := w.pod(ctx, job, "one")
		w.setPod(ctx, pod, corev1.PodSucceeded, ended(desired.ContainerCollect, 0, "Completed", &contract.Termination{Collect: &contract.CollectResult{
			Removed: 3, FreedBytes: 5 << 20, CapacityBytes: 10 << 30,
			Usage: []contract.VolumeUsage{{Kind: contract.DirModels, Count: 1, SizeBytes: 1 << 30}, {Kind: contract.UsageOther}},
		}}))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		Eventually(func(g Gomega) {
			w.get(ctx, "tiny", base)
			g.Expect(base.Status.Storage).To(HaveValue(And(
				HaveField("Summary", "1Gi of 10Gi"), HaveField("Removed", HaveValue(Equal(int32(3)))), HaveField("Kinds", HaveLen(2)))))
		}).Should(Succeed())
		w.becomes(ctx, base, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		w.told(ctx, base, corev1.EventTypeNormal, v1alpha1.ReasonCollected)
		Consistently(func(g Gomega) { // Nothing has changed.
			var jobs batchv1.JobList
			g.Expect(k8s.List(ctx, &jobs, client.InNamespace(w.namespace), client.MatchingLabels(desired.CollectSelector(base)))).To(Succeed())
			g.Expect(jobs.Items).To(HaveLen(1))
		}).WithTimeout(3 * time.Second).Should(Succeed())

		By("not being collected any more, because its user says so")
		w.get(ctx, "tiny", base)
		base.Spec.Storage.Collect = v1alpha1.CollectNever
		Expect(k8s.Update(ctx, base)).To(Succeed())
		Eventually(func(g Gomega) {
			w.get(ctx, "tiny", base)
			g.Expect(base.Status.Storage).To(BeNil())
		}).Should(Succeed())
	})
})
