package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

const (
	manager = "t2-controller-manager"
	// leaseName is that of controllers.
	leaseName = "operator.transformersquared.dev"
)

// patchOperator changes its Deployment and waits until all of it is as it should be.
func patchOperator(ctx context.Context, patch string) {
	GinkgoHelper()
	kubectl(ctx, "", "-n", systemNamespace, "patch", "deployment", manager, "--type=merge", "-p="+patch)
	kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", manager, "--timeout=180s")
}

// twice runs the operator on node 1 and on another one until the spec ends.
func twice(ctx context.Context, node int) {
	GinkgoHelper()
	DeferCleanup(func(ctx SpecContext) {
		patchOperator(ctx, fmt.Sprintf(`{"spec":{"replicas":1,"template":{"spec":{"affinity":null,"nodeSelector":{"kubernetes.io/hostname":%q}}}}}`, nodeName(1)))
	}, NodeTimeout(4*time.Minute))
	// Pods of one version keep apart: those of the version before are in nobody's way.
	patchOperator(ctx, fmt.Sprintf(`{"spec":{"replicas":2,"template":{"spec":{"nodeSelector":null,"affinity":{
		"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[
			{"key":"kubernetes.io/hostname","operator":"In","values":[%q,%q]}]}]}},
		"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname",
			"labelSelector":{"matchLabels":{"app.kubernetes.io/component":"manager"}},"matchLabelKeys":["pod-template-hash"]}]}}}}}}`,
		nodeName(1), nodeName(node)))
}

// leader returns the Lease by which one operator works, and the name of that one's pod.
func leader(ctx context.Context, g Gomega) (*coordinationv1.Lease, string) {
	var lease coordinationv1.Lease
	g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: leaseName}, &lease)).To(Succeed())
	g.Expect(lease.Spec.HolderIdentity).To(HaveValue(Not(BeEmpty())))
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return &lease, pod
}

// leadsOn lets an operator on a node lead: whoever does is deleted, at least once, until it is
// one of these.
func leadsOn(ctx context.Context, node int) (changes int) {
	GinkgoHelper()
	for {
		_, was := leader(ctx, Default)
		deleted := time.Now()
		kubectl(ctx, "", "-n", systemNamespace, "delete", "pod", was, "--wait=false")
		changes++
		var now string
		Eventually(func(g Gomega) {
			_, now = leader(ctx, g)
			g.Expect(now).NotTo(Equal(was))
		}).WithContext(ctx).Should(Succeed())
		GinkgoWriter.Printf("%s leads instead of %s after %s\n", now, was, time.Since(deleted).Round(100*time.Millisecond))
		bothWork(ctx)
		if kubectl(ctx, "", "-n", systemNamespace, "get", "pod", now, "-o", "jsonpath={.spec.nodeName}") == nodeName(node) {
			return changes
		}
	}
}

func bothWork(ctx context.Context) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var d appsv1.Deployment
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: manager}, &d)).To(Succeed())
		g.Expect(d.Status.AvailableReplicas).To(BeEquivalentTo(2))
		g.Expect(d.Status.Replicas).To(BeEquivalentTo(2))
	}).WithContext(ctx).Should(Succeed())
}

func leaders() {
	DescribeTable("goes on by the operator's other replica", func(ctx SpecContext, breaking, mending string) {
		policy := policyOf(ctx, "serves")
		pods := servingPods(ctx, Default, policy.Name)
		Expect(pods).To(HaveLen(2))
		victim, other := pods[0], pods[1]
		node := nodeNumber(&victim)
		twice(ctx, node)
		clients := startTraffic(ctx, policy.Name)
		e := training("led")
		e.Spec.Training.PodTemplate.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": other.Spec.NodeName}
		begin(ctx, e)
		reaches(ctx, e, 1)
		leadsOn(ctx, node)
		lease, was := leader(ctx, Default)

		second := training("second") // Whose life the other leader sees from its beginning.
		second.Spec.Training.PodTemplate.Spec.NodeSelector = e.Spec.Training.PodTemplate.Spec.NodeSelector
		broken := time.Now()
		mend := breaks(ctx, breaking, part(node), mending)
		begin(ctx, second)
		routed := unroutable(ctx, policy.Name, victim.Status.PodIP)
		var taken *coordinationv1.Lease
		Eventually(func(g Gomega) {
			var now string
			taken, now = leader(ctx, g)
			g.Expect(now).NotTo(Equal(was))
		}).WithContext(ctx).Should(Succeed())
		after := taken.Spec.AcquireTime.Sub(broken)
		GinkgoWriter.Printf("the other replica leads after %s, and no request is sent to node %d after %s\n",
			after.Round(100*time.Millisecond), node, routed.Sub(broken).Round(time.Second))
		Expect(after).To(BeNumerically("<", time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second+10*time.Second), "it waits for the lease, and hardly longer")
		becomes(ctx, policy, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNodeLost,
			"Node "+nodeName(node)+" of pod "+victim.Name+" does not report")
		Expect(conditionOf(ctx, Default, policy, v1alpha1.ConditionAvailable).Status).To(Equal(metav1.ConditionTrue))
		ofOneRun(ctx, e)
		ofOneRun(ctx, second)
		waitReady(ctx, policy) // With a pod elsewhere.
		clients.answered(ctx, routed, 40)

		mend(ctx)
		bothWork(ctx)
		waitReady(ctx, policy)
		last, _ := leader(ctx, Default)
		Expect(last.Spec.LeaseTransitions).To(Equal(taken.Spec.LeaseTransitions), "the one that came back takes nothing over")
		clients.answered(ctx, time.Now(), 20)
		lostOnTheWay(ctx, clients, policy, broken, routed)
		ofOneRun(ctx, e)
		ofOneRun(ctx, second)
	},
		Entry("when its node loses its power", "kill", "start", SpecTimeout(12*time.Minute)),
		Entry("when its node is cut off", "cut", "join", SpecTimeout(12*time.Minute)),
	)
}
