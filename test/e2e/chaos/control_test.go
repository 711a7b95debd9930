package chaos

import (
	"context"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// away is how long the control plane is away, CHAOS_AWAY (40s).
func away() time.Duration {
	GinkgoHelper()
	text := os.Getenv("CHAOS_AWAY")
	if text == "" {
		text = "40s"
	}
	d, err := time.ParseDuration(text)
	Expect(err).NotTo(HaveOccurred(), "CHAOS_AWAY")
	return d
}

// operatorWorks waits until the operator does, and returns how often its container was
// started anew so far.
func operatorWorks(ctx context.Context) (restarts int32) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var d appsv1.Deployment
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "t2-controller-manager"}, &d)).To(Succeed())
		g.Expect(d.Status.AvailableReplicas).To(BeEquivalentTo(1))
		var pods corev1.PodList
		g.Expect(cluster.List(ctx, &pods, client.InNamespace(systemNamespace))).To(Succeed())
		restarts = 0
		for _, pod := range pods.Items {
			for _, s := range pod.Status.ContainerStatuses {
				restarts += s.RestartCount
			}
		}
	}).WithContext(ctx).Should(Succeed())
	return restarts
}

func controlPlane() {
	DescribeTable("serves on without it, trains on, and makes nothing twice", func(ctx SpecContext, component, breaking, mending string) {
		// Names of their own: Kubernetes' garbage collector looks for custom resources twice a
		// minute, finds none while an API server begins, and never hears of those that are
		// deleted before it has looked again. What they leave behind stays.
		policy := policyOf(ctx, "serves-without-"+component+"-"+breaking)
		e := training("orphan-" + component + "-" + breaking)
		begin(ctx, e)
		reaches(ctx, e, 3)
		before := operatorWorks(ctx)
		clients := startTraffic(ctx, policy.Name)

		broken := time.Now()
		mend := breaks(ctx, breaking, component, mending)
		// Its own clients measure how long it is away: they are answered all the time.
		clients.answered(ctx, broken.Add(away()), 1)
		mend(ctx)
		mended := time.Now()

		// What was written before counts for nothing: how far it is now, and further then.
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(e), e)).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
		was := int32(iterations)
		if e.Status.Artifact == nil {
			was = *e.Status.Progress.Iteration
		}
		restarts := operatorWorks(ctx) - before
		Eventually(func(g Gomega) { // It works on what it had not finished.
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(e), e)).To(Succeed())
			g.Expect(e.Status.Artifact != nil || *e.Status.Progress.Iteration > was).To(BeTrue(), "it was at iteration %d", was)
		}).WithContext(ctx).Should(Succeed())
		GinkgoWriter.Printf("the operator was started anew %d times, and said how the training is %s after %s was back\n",
			restarts, time.Since(mended).Round(time.Second), component)
		// It ends with its lease; whoever takes it next waits.
		Expect(restarts).To(BeNumerically("<=", 1), "it waits for the API server, and does not end again and again")
		waitReady(ctx, policy)
		clients.answered(ctx, time.Now(), 20)
		Expect(lost(clients.end(ctx), policy.Status.ExpertSetDigest)).To(BeEmpty())
		ofOneRun(ctx, e)
	},
		Entry("when the API server is away", "kube-apiserver", "kill", "start", Label(short), SpecTimeout(10*time.Minute)),
		Entry("when the API server takes connections and answers nothing", "kube-apiserver", "stop", "continue", SpecTimeout(10*time.Minute)),
		Entry("when etcd is away", "etcd", "kill", "start", SpecTimeout(10*time.Minute)),
	)
}
