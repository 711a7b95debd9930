package chaos

import (
	"math/rand/v2"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

func nodes() {
	DescribeTable("goes on serving by the other pod", func(ctx SpecContext, breaking, mending string) {
		policy := policyOf(ctx, "serves")
		pods := servingPods(ctx, Default, policy.Name)
		Expect(pods).To(HaveLen(2))
		Expect(pods[0].Spec.NodeName).NotTo(Equal(pods[1].Spec.NodeName), "they are spread")
		victim := pods[rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 1)).IntN(2)]
		node := nodeNumber(&victim)
		clients := startTraffic(ctx, policy.Name)

		broken := time.Now()
		mend := breaks(ctx, breaking, part(node), mending)
		routed := unroutable(ctx, policy.Name, victim.Status.PodIP)
		GinkgoWriter.Printf("no request is sent to node %d after %s\n", node, routed.Sub(broken).Round(time.Second))
		becomes(ctx, policy, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNodeLost,
			"Node "+nodeName(node)+" of pod "+victim.Name+" does not report")
		Eventually(func(g Gomega) { // The node's condition is known before the Deployment has counted.
			g.Expect(conditionOf(ctx, g, policy, v1alpha1.ConditionAvailable).Status).To(Equal(metav1.ConditionTrue))
			g.Expect(policy.Status.ReplicaSummary).To(Equal("1/2"))
		}).WithContext(ctx).WithTimeout(10 * time.Second).Should(Succeed())
		clients.answered(ctx, routed, 40)

		By("replacing the pod on the node that is left")
		Eventually(func(g Gomega) {
			now := servingPods(ctx, g, policy.Name)
			g.Expect(now).To(HaveLen(2))
			for _, pod := range now {
				g.Expect(pod.Spec.NodeName).NotTo(Equal(nodeName(node)))
			}
		}).WithContext(ctx).Should(Succeed())
		waitReady(ctx, policy)
		Expect(policy.Status.ReplicaSummary).To(Equal("2/2"))

		mend(ctx)
		Eventually(func(g Gomega) {
			var list corev1.PodList
			g.Expect(cluster.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPolicy: policy.Name})).To(Succeed())
			g.Expect(list.Items).To(HaveLen(2), "the pod of the node that came back has ended")
		}).WithContext(ctx).Should(Succeed())
		waitReady(ctx, policy)
		clients.answered(ctx, time.Now(), 20)
		lostOnTheWay(ctx, clients, policy, broken, routed)
	},
		Entry("when a node loses its power", "kill", "start", SpecTimeout(12*time.Minute)),
		Entry("when a node is cut off, and all of it runs on", "cut", "join", SpecTimeout(12*time.Minute)),
	)

	DescribeTable("says that a training is on a node that does not report, and goes on when the node is back", func(ctx SpecContext, breaking, mending string) {
		e := training("stranded")
		begin(ctx, e)
		reaches(ctx, e, 3)
		pod := trainingPod(ctx, e)
		node := nodeNumber(pod)
		mend := breaks(ctx, breaking, part(node), mending)
		becomes(ctx, e, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNodeLost,
			"Node "+nodeName(node)+" of pod "+pod.Name+" does not report", "no other pod begins", "delete Node "+nodeName(node))

		By("waiting for the pod, which cannot end, also once it is to")
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(pod.DeletionTimestamp).NotTo(BeNil())
		}).WithContext(ctx).Should(Succeed())
		Consistently(func(g Gomega) {
			g.Expect(conditionOf(ctx, g, e, v1alpha1.ConditionReady).Reason).To(Equal(v1alpha1.ReasonNodeLost))
			g.Expect(podsOf(ctx, g, e)).To(HaveExactElements(HaveField("UID", pod.UID)), "two would write to one volume")
		}).WithContext(ctx).WithTimeout(5 * time.Second).Should(Succeed())

		mend(ctx)
		ofOneRun(ctx, e)
	},
		Entry("which lost its power", "kill", "start", SpecTimeout(12*time.Minute)),
		Entry("which is cut off, where it trains on", "cut", "join", SpecTimeout(12*time.Minute)),
	)
}
