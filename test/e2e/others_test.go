package e2e

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/readme"
)

// others is what other programs and people do to what the operator made.
func others() {
	It("leaves a Job suspended that somebody else suspends, and goes on from its checkpoint afterwards", func(ctx SpecContext) {
		held := shortTraining("held", "held", 50)
		held.Spec.Training.Optimizer.LearningRate = "0.0005" // A perfect expert would end the run before it is held.
		Expect(cluster.Create(ctx, held)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(held), held)).To(Succeed())
			g.Expect(held.Status.Progress).NotTo(BeNil())
			g.Expect(held.Status.Progress.Iteration).To(HaveValue(BeNumerically(">=", 2)))
		}).WithPolling(200 * time.Millisecond).Should(Succeed())
		of := []client.ListOption{client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelExpert: "held"}}
		var jobs batchv1.JobList
		Expect(cluster.List(ctx, &jobs, of...)).To(Succeed())
		Expect(jobs.Items).To(HaveLen(1))
		job := &jobs.Items[0]

		kubectl(ctx, "", "-n", namespace, "patch", "job", job.Name, "--type=merge", `-p={"spec":{"suspend":true}}`)
		Eventually(func(g Gomega) {
			c := condition(ctx, held, v1alpha1.ConditionReady)
			g.Expect(c).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonSuspended), c.Message)
			var pods corev1.PodList
			g.Expect(cluster.List(ctx, &pods, of...)).To(Succeed())
			g.Expect(pods.Items).To(BeEmpty())
		}).Should(Succeed())
		Consistently(func(g Gomega) {
			var now batchv1.Job
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(job), &now)).To(Succeed())
			g.Expect(now.UID).To(Equal(job.UID))
			g.Expect(now.Spec.Suspend).To(HaveValue(BeTrue()))
		}).WithTimeout(4 * time.Second).Should(Succeed())

		kubectl(ctx, "", "-n", namespace, "patch", "job", job.Name, "--type=merge", `-p={"spec":{"suspend":false}}`)
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "expertvector/held", "--timeout=480s")
		Expect(kubectl(ctx, "", "-n", namespace, "logs", "-l", v1alpha1.LabelExpert+"=held", "-c", "train", "--tail=-1")).
			To(ContainSubstring("Training was continued"))
		Expect(cluster.Get(ctx, client.ObjectKeyFromObject(held), held)).To(Succeed())
		Expect(held.Status.Runs).To(HaveLen(1))
		Expect(held.Status.Runs[0].JobName).To(Equal(job.Name))
	}, SpecTimeout(6*time.Minute))

	It("swaps experts in running pods also after the policy's token was deleted", func(ctx SpecContext) {
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: named("demo")}
		template := func() string {
			GinkgoHelper()
			var d appsv1.Deployment
			Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), &d)).To(Succeed())
			return d.Spec.Template.Annotations[v1alpha1.AnnotationTemplate]
		}
		pod := func() corev1.Pod {
			GinkgoHelper()
			var pods corev1.PodList
			Expect(cluster.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPolicy: "demo"})).To(Succeed())
			Expect(pods.Items).To(HaveLen(1))
			return pods.Items[0]
		}
		// change patches the policy's experts and waits for so many to be served.
		change := func(patch, summary string) {
			GinkgoHelper()
			kubectl(ctx, "", "-n", namespace, "patch", "adaptivepolicy", "demo", "--type=json", "-p="+patch)
			kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "adaptivepolicy/demo", "--timeout=60s")
			Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
			Expect(policy.Status.ExpertSummary).To(Equal(summary))
		}

		was := template()
		kubectl(ctx, "", "-n", namespace, "delete", "secret", "demo-admin")
		kubectl(ctx, "", "-n", namespace, "annotate", "adaptivepolicy", "demo", "looked-at=now") // It would be within half a minute.
		Eventually(template).WithPolling(200*time.Millisecond).ShouldNot(Equal(was), "its pods have another token")
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, policy, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonServing))
			var pods corev1.PodList
			g.Expect(cluster.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPolicy: "demo"})).To(Succeed())
			g.Expect(pods.Items).To(HaveExactElements(HaveField("Annotations", HaveKeyWithValue(v1alpha1.AnnotationTemplate, template()))))
		}).Should(Succeed())

		before := pod()
		change(`[{"op":"remove","path":"/spec/experts/3"}]`, "3/3")
		change(`[{"op":"add","path":"/spec/experts/-","value":{"name":"sums"}}]`, "4/4")
		_, adaptation, err := ask(ctx, "demo:sums", "What is 3 plus 4?")
		Expect(err).NotTo(HaveOccurred())
		Expect(adaptation.Expert).To(Equal("sums"))
		after := pod()
		Expect(after.UID).To(Equal(before.UID))
		Expect(after.Status.ContainerStatuses[0].RestartCount).To(BeZero())
	}, SpecTimeout(9*time.Minute))
}

// uninstalling comes last: it leaves nothing for other specs.
func uninstalling() {
	It("leaves nothing behind in the documented order, while work goes on", func(ctx SpecContext) {
		base := &v1alpha1.BaseModel{ObjectMeta: named("tiny"), Spec: v1alpha1.BaseModelSpec{
			Source: v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "demo-assets", Path: "model"}},
		}}
		policy := &v1alpha1.AdaptivePolicy{ObjectMeta: named("demo"), Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Experts: []v1alpha1.PolicyExpert{{Name: "late"}},
		}}
		late := shortTraining("late", "late", 1000)
		late.Spec.Training.Optimizer.LearningRate = "0.0005" // It is not to end by itself.
		for _, o := range []client.Object{base, late, policy} {
			Expect(cluster.Create(ctx, o)).To(Succeed())
		}
		Eventually(func(g Gomega) {
			var list corev1.PodList
			g.Expect(cluster.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelExpert: "late"})).To(Succeed())
			g.Expect(list.Items).To(ContainElement(HaveField("Status.Phase", corev1.PodRunning)))
			g.Expect(condition(ctx, policy, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonExpertsNotReady))
		}).Should(Succeed())

		block, err := readme.Find(root, "On your own cluster", "sh", "kubectl delete")
		Expect(err).NotTo(HaveOccurred())
		for _, line := range block.Commands() {
			words := strings.Fields(strings.ReplaceAll(line, "config/default", root+"/config/default"))
			Expect(words[0]).To(Equal("kubectl"))
			kubectl(ctx, "", append(words[1:], "--timeout=120s")...)
		}
		kubectl(ctx, "", "delete", "namespace", namespace, "--timeout=120s")
		for _, name := range []string{namespace, systemNamespace} {
			err := cluster.Get(ctx, client.ObjectKey{Name: name}, &corev1.Namespace{})
			Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%s: %v", name, err)
		}
		Expect(kubectl(ctx, "", "get", "crd,clusterroles,clusterrolebindings", "-o", "name",
			"-l", "app.kubernetes.io/part-of=transformersquared", "--ignore-not-found")).To(BeEmpty())
	}, SpecTimeout(6*time.Minute))
}
