package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/history"
)

// actor is this program in a role, in the network of node 1.
type actor struct {
	input io.WriteCloser
	lines <-chan string
}

// act starts a role, which ends with the spec.
func act(role string, args ...string) *actor {
	GinkgoHelper()
	self, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	// It ends when its input does, not when somebody's context does: what it says last counts.
	cmd := exec.Command(os.Getenv("T2CLUSTER"), append([]string{"exec", "--name", os.Getenv("CHAOS_CLUSTER"), self}, args...)...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = GinkgoWriter
	input, err := cmd.StdinPipe()
	Expect(err).NotTo(HaveOccurred())
	output, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	lines, ended := make(chan string, 64), make(chan error, 1)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			lines <- scanner.Text()
		}
		ended <- cmd.Wait()
	}()
	DeferCleanup(func(SpecContext) {
		_ = input.Close()
		for range lines { // So that it can end.
		}
		Expect(<-ended).To(Succeed(), "role %s", role)
	}, NodeTimeout(time.Minute))
	return &actor{input: input, lines: lines}
}

// traffic is what clients have asked a policy so far.
type traffic struct {
	mu       sync.Mutex
	requests map[string]asked
	order    []string
	*actor
	done chan struct{}
}

// startTraffic begins to ask a policy, at its Service's address.
func startTraffic(ctx context.Context, policy string) *traffic {
	GinkgoHelper()
	var service corev1.Service
	Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: policy}, &service)).To(Succeed())
	t := &traffic{requests: map[string]asked{}, done: make(chan struct{}), actor: act(roleClients, "--address="+service.Spec.ClusterIP+":80", "--name="+policy)}
	go func() {
		defer close(t.done)
		for line := range t.lines {
			var a asked
			if json.Unmarshal([]byte(line), &a) != nil {
				continue
			}
			t.mu.Lock()
			if _, there := t.requests[a.ID]; !there {
				t.order = append(t.order, a.ID)
			}
			t.requests[a.ID] = a
			t.mu.Unlock()
		}
	}()
	t.answered(ctx, time.Now(), 20)
	return t
}

// answered waits for so many answers to requests that were sent after a moment.
func (t *traffic) answered(ctx context.Context, after time.Time, many int) {
	GinkgoHelper()
	Eventually(func() int {
		t.mu.Lock()
		defer t.mu.Unlock()
		n := 0
		for _, a := range t.requests {
			if a.Sent.After(after) && a.Digest != "" {
				n++
			}
		}
		return n
	}).WithContext(ctx).Should(BeNumerically(">=", many), "answers to requests sent after %s", after.Format(time.TimeOnly))
}

// end ends the clients, and returns the history of what they asked.
func (t *traffic) end(ctx context.Context) []asked {
	GinkgoHelper()
	Expect(t.input.Close()).To(Succeed())
	Eventually(t.done).WithContext(ctx).Should(BeClosed())
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []asked
	for _, id := range t.order {
		all = append(all, t.requests[id])
	}
	return all
}

// lost checks the history of requests to a policy that served one set, and returns those that
// were lost.
func lost(requests []asked, digest v1alpha1.Digest) []asked {
	GinkgoHelper()
	Expect(requests).NotTo(BeEmpty())
	begun := requests[0].Sent
	swaps := []history.Swap{{Digest: string(digest), Offered: begun, InUse: begun}}
	byID := map[string]asked{}
	var told []history.Request
	for _, a := range requests {
		byID[a.ID] = a
		r := history.Request{ID: a.ID, Connection: a.Client, Sent: a.Sent, Received: a.Received, Digest: a.Digest}
		if a.Error != "" {
			r.Received = time.Time{}
		}
		told = append(told, r)
	}
	var gone []asked
	for _, v := range history.Check(swaps, told) {
		Expect(v.Rule).To(Equal(history.RuleLost), v.String())
		gone = append(gone, byID[v.Request])
	}
	GinkgoWriter.Printf("%d requests in %s, %d lost\n", len(requests), requests[len(requests)-1].Sent.Sub(begun).Round(time.Second), len(gone))
	for _, a := range gone {
		GinkgoWriter.Printf("  lost: %s, sent %s: %s\n", a.ID, a.Sent.Format(time.TimeOnly), a.Error)
	}
	return gone
}

// lostOnTheWay ends the clients, and checks that nothing was lost but what was sent to a pod of a
// node that was broken before requests were kept from it.
func lostOnTheWay(ctx context.Context, clients *traffic, policy *v1alpha1.AdaptivePolicy, broken, routed time.Time) {
	GinkgoHelper()
	for _, a := range lost(clients.end(ctx), policy.Status.ExpertSetDigest) {
		Expect(a.Sent).To(BeTemporally("<", routed), "lost though nothing was sent to the node any more: %+v", a)
		Expect(a.Sent).To(BeTemporally(">", broken.Add(-impatience)), "lost before anything was broken: %+v", a)
	}
}

// policyOf makes a policy of two pods, on the nodes that may be lost, that serves the expert
// which every spec has; it goes with the spec.
func policyOf(ctx context.Context, name string) *v1alpha1.AdaptivePolicy {
	GinkgoHelper()
	p := &v1alpha1.AdaptivePolicy{ObjectMeta: named(name), Spec: v1alpha1.AdaptivePolicySpec{
		BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Experts: []v1alpha1.PolicyExpert{{Name: undisturbed}},
		Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt},
		Rollout:  &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{MinGain: "-1"}},
		Serving: v1alpha1.ServingSpec{
			Replicas: new(int32(2)), ContextLength: new(int32(384)),
			PodTemplate: &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{NodeSelector: map[string]string{mortal: "yes"}}},
		},
	}}
	Expect(cluster.Create(ctx, p)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		kubectl(ctx, "", "-n", namespace, "delete", "adaptivepolicy", name, "--timeout=120s")
	}, NodeTimeout(3*time.Minute))
	waitReady(ctx, p)
	routable(ctx, p.Name)
	return p
}

// rules are node 1's, by which the clients' requests go.
func rules(ctx context.Context) string {
	GinkgoHelper()
	return tool(ctx, "exec", "iptables-save", "-t", "nat")
}

// destination is how they name an address.
func destination(address string) string { return fmt.Sprintf("--to-destination %s:", address) }

// routable waits until the clients' requests reach every pod of a policy: kube-proxy may hear of
// a Service half a minute late when the API server has been away.
func routable(ctx context.Context, policy string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		now := rules(ctx)
		for _, pod := range servingPods(ctx, g, policy) {
			g.Expect(now).To(ContainSubstring(destination(pod.Status.PodIP)))
		}
	}).WithContext(ctx).Should(Succeed())
}

// servingPods are the pods of a policy that are not to end.
func servingPods(ctx context.Context, g Gomega, policy string) []corev1.Pod {
	var list corev1.PodList
	g.Expect(cluster.List(ctx, &list, client.InNamespace(namespace),
		client.MatchingLabels{v1alpha1.LabelPolicy: policy, v1alpha1.LabelComponent: v1alpha1.ComponentServe})).To(Succeed())
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !p.DeletionTimestamp.IsZero() })
}

// unroutable waits until no request is sent to an address any more: neither does the Service
// have it as one that is ready, nor have the rules of node 1.
func unroutable(ctx context.Context, policy, address string) time.Time {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var slices discoveryv1.EndpointSliceList
		g.Expect(cluster.List(ctx, &slices, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: policy})).To(Succeed())
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				if len(e.Addresses) > 0 && e.Addresses[0] == address {
					g.Expect(e.Conditions.Ready).To(HaveValue(BeFalse()))
				}
			}
		}
		for rule := range strings.SplitSeq(rules(ctx), "\n") {
			g.Expect(rule).NotTo(ContainSubstring(destination(address)))
		}
	}).WithContext(ctx).Should(Succeed())
	return time.Now()
}
