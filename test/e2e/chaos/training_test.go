package chaos

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
)

// undisturbed is the expert that every other one must equal, bit for bit.
const undisturbed = "undisturbed"

// iterations of every training: enough for several faults, each after a checkpoint.
const iterations = 60

func expert(name string) *v1alpha1.ExpertVector {
	return &v1alpha1.ExpertVector{ObjectMeta: named(name)}
}

// training is one and the same training, by another name, on a node that may be lost.
func training(name string) *v1alpha1.ExpertVector {
	file := func(key string) v1alpha1.Dataset {
		return v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "demo-math", Key: key}, Format: v1alpha1.FormatGSM8K}
	}
	e := expert(name)
	e.Spec = v1alpha1.ExpertVectorSpec{
		BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: "math", Description: "word problems and arithmetic",
		Training: &v1alpha1.TrainingSpec{
			Dataset: v1alpha1.TrainingDataset{Train: file("train.jsonl"), Validation: file("validation.jsonl")},
			Objective: v1alpha1.Objective{Reinforce: &v1alpha1.ReinforceObjective{
				Reward: v1alpha1.RewardNumeric, KLWeight: "0.1", Baseline: v1alpha1.BaselineMean,
				Rollout: &v1alpha1.Rollout{Type: v1alpha1.RolloutSample, MaxNewTokens: 24},
			}},
			// A perfect expert would end the run before anything could happen to it.
			Optimizer:   &v1alpha1.Optimizer{LearningRate: "0.001"},
			Schedule:    &v1alpha1.Schedule{Iterations: iterations, BatchSize: 32, ValidationInterval: 4, CheckpointInterval: 1},
			Seed:        new(int64(7)),
			PodTemplate: &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{NodeSelector: map[string]string{mortal: "yes"}}},
		},
	}
	return e
}

// begin makes an expert and takes it away when the spec ends.
func begin(ctx context.Context, e *v1alpha1.ExpertVector) {
	GinkgoHelper()
	Expect(cluster.Create(ctx, e)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		kubectl(ctx, "", "-n", namespace, "delete", "expertvector", e.Name, "--timeout=120s")
	}, NodeTimeout(3*time.Minute))
}

// reaches waits until a training is past so many iterations, and returns how far it is.
func reaches(ctx context.Context, e *v1alpha1.ExpertVector, least int32) int32 {
	GinkgoHelper()
	var at int32
	Eventually(func(g Gomega) {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(e), e)).To(Succeed())
		g.Expect(e.Status.Artifact).To(BeNil(), "the run ended before anything could happen to it")
		g.Expect(e.Status.Progress).NotTo(BeNil())
		g.Expect(e.Status.Progress.Iteration).NotTo(BeNil())
		at = *e.Status.Progress.Iteration
		g.Expect(at).To(BeNumerically(">=", least))
	}).WithContext(ctx).WithPolling(100 * time.Millisecond).Should(Succeed())
	return at
}

// podsOf are the pods of an expert's training that have not ended.
func podsOf(ctx context.Context, g Gomega, e *v1alpha1.ExpertVector) []corev1.Pod {
	var list corev1.PodList
	g.Expect(cluster.List(ctx, &list, client.InNamespace(namespace),
		client.MatchingLabels{v1alpha1.LabelExpert: e.Name, v1alpha1.LabelComponent: v1alpha1.ComponentTrain})).To(Succeed())
	var alive []corev1.Pod
	for _, pod := range list.Items {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			alive = append(alive, pod)
		}
	}
	return alive
}

// trainingPod waits for the pod that trains, and only one.
func trainingPod(ctx context.Context, e *v1alpha1.ExpertVector) *corev1.Pod {
	GinkgoHelper()
	var pod corev1.Pod
	Eventually(func(g Gomega) {
		pods := podsOf(ctx, g, e)
		g.Expect(pods).To(HaveLen(1))
		pod = pods[0]
		g.Expect(pod.DeletionTimestamp).To(BeNil())
		g.Expect(pod.Status.ContainerStatuses).To(ContainElement(And(
			HaveField("Name", desired.ContainerTrain), HaveField("State.Running", Not(BeNil())))))
	}).WithContext(ctx).Should(Succeed())
	return &pod
}

// ofOneRun checks an expert that was disturbed: the same as without, by one run and one Job.
func ofOneRun(ctx context.Context, e *v1alpha1.ExpertVector) {
	GinkgoHelper()
	waitReady(ctx, e)
	calm := expert(undisturbed)
	Expect(cluster.Get(ctx, client.ObjectKeyFromObject(calm), calm)).To(Succeed())
	Expect(e.Status.Artifact.Digest).To(Equal(calm.Status.Artifact.Digest), "it is another expert than without the fault")
	Expect(e.Status.Runs).To(HaveLen(1))
	Eventually(func(g Gomega) { // What another limit replaced is on its way out.
		var list batchv1.JobList
		g.Expect(cluster.List(ctx, &list, client.InNamespace(namespace),
			client.MatchingLabels{v1alpha1.LabelExpert: e.Name, v1alpha1.LabelComponent: v1alpha1.ComponentTrain})).To(Succeed())
		g.Expect(list.Items).To(HaveLen(1))
	}).WithContext(ctx).Should(Succeed())
}

func trainings() {
	killed()

	It("says that a training lacks memory, gives up, and goes on where it was with more", func(ctx SpecContext) {
		e := training("greedy")
		e.Spec.Training.BackoffLimit = new(int32(1))
		begin(ctx, e)
		reaches(ctx, e, 3)
		limit := func(memory string) {
			GinkgoHelper()
			kubectl(ctx, "", "-n", namespace, "patch", "expertvector", e.Name, "--type=merge",
				fmt.Sprintf(`-p={"spec":{"training":{"resources":{"limits":{"memory":%q}}}}}`, memory))
		}
		limit("16Mi")
		becomes(ctx, e, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonOOMKilled,
			"memory limit of 16Mi", "raise spec.training.resources.limits.memory", "Given up after 2 failed pods")
		Expect(e.Status.Runs).To(HaveLen(1))
		Expect(e.Status.Runs[0].Failures).To(HaveValue(BeEquivalentTo(2)))
		Eventually(func(g Gomega) { g.Expect(podsOf(ctx, g, e)).To(BeEmpty()) }).WithContext(ctx).Should(Succeed())

		limit("512Mi")
		ofOneRun(ctx, e)
		pods := kubectl(ctx, "", "-n", namespace, "logs", "-l", v1alpha1.LabelExpert+"="+e.Name, "-c", desired.ContainerTrain, "--tail=-1")
		Expect(pods).To(ContainSubstring("Training was continued"))
	}, SpecTimeout(8*time.Minute))
}
