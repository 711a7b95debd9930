package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// autoscaled is the policy that a HorizontalPodAutoscaler scales here.
const autoscaled = "autoscaled"

const (
	// clients keep as many requests in flight, of which each pod is to have target.
	clients, target = 12, 4
	// enough pods for that.
	enough = 3
)

// autoscaling is the sample's HorizontalPodAutoscaler, by metrics that pods really have.
func autoscaling() {
	policy := &v1alpha1.AdaptivePolicy{ObjectMeta: named(autoscaled)}
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: named(autoscaled)}
	// scaler has the conditions of the autoscaler.
	scaler := func(ctx SpecContext, g Gomega) map[autoscalingv2.HorizontalPodAutoscalerConditionType]autoscalingv2.HorizontalPodAutoscalerCondition {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(hpa), hpa)).To(Succeed())
		found := map[autoscalingv2.HorizontalPodAutoscalerConditionType]autoscalingv2.HorizontalPodAutoscalerCondition{}
		for _, c := range hpa.Status.Conditions {
			found[c.Type] = c
		}
		return found
	}
	is := func(status corev1.ConditionStatus, reason string) OmegaMatcher {
		return And(HaveField("Status", status), HaveField("Reason", reason))
	}
	replicas := func(ctx SpecContext, g Gomega) int32 {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		return *policy.Spec.Serving.Replicas
	}
	ready := func(ctx SpecContext) {
		GinkgoHelper()
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "adaptivepolicy/"+autoscaled, "--timeout=120s")
	}

	BeforeAll(func(ctx SpecContext) {
		customMetrics(ctx)
		// The number of pods is left out: it is the autoscaler's.
		policy.Spec = v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Experts: []v1alpha1.PolicyExpert{{Name: "math"}},
			Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt},
			Serving:  v1alpha1.ServingSpec{ContextLength: new(int32(384))},
		}
		Expect(cluster.Create(ctx, policy)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "", "-n", namespace, "delete", "adaptivepolicy", autoscaled, "--timeout=120s")
		}, NodeTimeout(3*time.Minute))
		ready(ctx)
		sample, err := os.ReadFile(root + "/config/samples/autoscaling/hpa.yaml")
		Expect(err).NotTo(HaveOccurred())
		Expect(yaml.UnmarshalStrict(sample, hpa)).To(Succeed())
		hpa.ObjectMeta = named(autoscaled)
		hpa.Spec.ScaleTargetRef.Name = autoscaled
		*hpa.Spec.Metrics[0].Pods.Target.AverageValue = *resource.NewQuantity(target, resource.DecimalSI)
		down := hpa.Spec.Behavior.ScaleDown
		*down.StabilizationWindowSeconds, down.Policies[0].PeriodSeconds = 20, 10
		Expect(cluster.Create(ctx, hpa)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { kubectl(ctx, "", "-n", namespace, "delete", "hpa", autoscaled) })
	}, NodeTimeout(4*time.Minute))

	It("gets more pods by the requests that it has, and fewer afterwards, and loses none of them", func(ctx SpecContext) {
		By("reading the metric of a pod that has nothing to do")
		Eventually(func(g Gomega) {
			conditions := scaler(ctx, g)
			g.Expect(conditions[autoscalingv2.ScalingActive]).To(is(corev1.ConditionTrue, "ValidMetricFound"))
		}).Should(Succeed())
		Expect(replicas(ctx, Default)).To(BeEquivalentTo(1))

		By("giving it work")
		began := time.Now()
		many := startLoad(ctx, clients, 256)
		Eventually(func(g Gomega) {
			g.Expect(replicas(ctx, g)).To(BeEquivalentTo(enough))
			conditions := scaler(ctx, g)
			g.Expect(conditions[autoscalingv2.AbleToScale].Status).To(Equal(corev1.ConditionTrue))
			g.Expect(conditions[autoscalingv2.ScalingActive]).To(is(corev1.ConditionTrue, "ValidMetricFound"))
			g.Expect(conditions[autoscalingv2.ScalingLimited]).To(is(corev1.ConditionFalse, "DesiredWithinRange"))
		}).Should(Succeed())
		GinkgoWriter.Printf("%d pods asked for %s after the first request\n", enough, time.Since(began).Round(time.Second))
		By("keeping the field that the autoscaler has written")
		var writers []string
		for _, entry := range policy.ManagedFields {
			if entry.Subresource == "scale" {
				writers = append(writers, entry.Manager)
			}
		}
		Expect(writers).To(ConsistOf("kube-controller-manager"))
		ready(ctx)
		GinkgoWriter.Printf("%d pods ready %s after the first request\n", enough, time.Since(began).Round(time.Second))
		Eventually(func(g Gomega) {
			scaler(ctx, g)
			g.Expect(hpa.Status.CurrentReplicas).To(BeEquivalentTo(enough))
			g.Expect(hpa.Status.CurrentMetrics).To(HaveLen(1))
			g.Expect(hpa.Status.CurrentMetrics[0].Pods.Current.AverageValue.MilliValue()).To(And(
				BeNumerically(">", 1000), BeNumerically("<=", 1000*clients/enough)), "requests in flight, of each pod")
		}).Should(Succeed())
		GinkgoWriter.Println(kubectl(ctx, "", "-n", namespace, "describe", "hpa", autoscaled))

		By("letting one client ask now and then")
		many.end()
		few := startLoad(ctx, 1, 8)
		ended := time.Now()
		Eventually(func(g Gomega) {
			g.Expect(replicas(ctx, g)).To(BeEquivalentTo(1))
			g.Expect(policy.Status.Replicas).To(HaveValue(BeEquivalentTo(1)))
		}).Should(Succeed())
		few.end()
		GinkgoWriter.Printf("1 pod %s after the load\n", time.Since(ended).Round(time.Second))
		for _, l := range []*load{many, few} {
			asked, lost := l.counts()
			GinkgoWriter.Printf("%d requests, lost: %q\n", asked, lost)
			Expect(asked).To(BeNumerically(">", 10))
			Expect(lost).To(BeEmpty())
		}
		Eventually(func(g Gomega) {
			g.Expect(scaler(ctx, g)[autoscalingv2.ScalingLimited]).To(is(corev1.ConditionTrue, "TooFewReplicas"))
		}).Should(Succeed())
		ready(ctx)
	}, SpecTimeout(6*time.Minute))

	It("goes to no pod and back by kubectl scale, beside an autoscaler", func(ctx SpecContext) {
		scale := func(to int) {
			GinkgoHelper()
			kubectl(ctx, "", "-n", namespace, "scale", "adaptivepolicy/"+autoscaled, fmt.Sprintf("--replicas=%d", to))
		}
		scale(0)
		Eventually(func(g Gomega) {
			g.Expect(condition(ctx, policy, v1alpha1.ConditionReady)).To(haveCondition(metav1.ConditionTrue, v1alpha1.ReasonScaledToZero))
			g.Expect(condition(ctx, policy, v1alpha1.ConditionAvailable)).To(haveCondition(metav1.ConditionFalse, v1alpha1.ReasonScaledToZero))
			g.Expect(policy.Status.Replicas).To(HaveValue(BeZero()))
		}).Should(Succeed())
		_, _, err := askPolicy(ctx, namespace, autoscaled, autoscaled, "What is 3 plus 4?")
		Expect(err).To(MatchError(ContainSubstring("no endpoints available")))
		By("leaving it there: an autoscaler does not bring it back")
		Eventually(func(g Gomega) {
			g.Expect(scaler(ctx, g)[autoscalingv2.ScalingActive]).To(is(corev1.ConditionFalse, "ScalingDisabled"))
		}).Should(Succeed())
		Expect(replicas(ctx, Default)).To(BeZero())

		By("bringing it back")
		began := time.Now()
		scale(1)
		Eventually(func(g Gomega) {
			text, adaptation, err := askPolicy(ctx, namespace, autoscaled, autoscaled+":math", "What is 3 plus 4?")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(adaptation.Expert).To(Equal("math"), text)
		}).Should(Succeed())
		GinkgoWriter.Printf("the first answer %s after the scaling\n", time.Since(began).Round(100*time.Millisecond))
		ready(ctx)
		Eventually(func(g Gomega) {
			g.Expect(scaler(ctx, g)[autoscalingv2.ScalingActive]).To(is(corev1.ConditionTrue, "ValidMetricFound"))
		}).Should(Succeed())
		Expect(replicas(ctx, Default)).To(BeEquivalentTo(1))
	}, SpecTimeout(4*time.Minute))
}

// load is requests to the autoscaled policy, of clients that ask one after the other.
type load struct {
	stop  context.CancelFunc
	group sync.WaitGroup
	mu    sync.Mutex
	asked int
	lost  []string
}

// startLoad has clients ask, through the API server's proxy, for answers of so many tokens. None
// of them asks again where it got no answer.
func startLoad(ctx context.Context, clients, tokens int) *load {
	GinkgoHelper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	Expect(err).NotTo(HaveOccurred())
	transport, err := rest.HTTPClientFor(config)
	Expect(err).NotTo(HaveOccurred())
	body, err := json.Marshal(map[string]any{
		"model": autoscaled, "temperature": 0, "max_tokens": tokens, "ignore_eos": true,
		"messages": []map[string]string{{"role": "user", "content": "What is 3 plus 4?"}},
	})
	Expect(err).NotTo(HaveOccurred())
	url := config.Host + completionsPath(namespace, autoscaled)
	asking, stop := context.WithCancel(ctx)
	l := &load{stop: stop}
	for range clients {
		l.group.Go(func() {
			for asking.Err() == nil {
				// One that is under way when the load ends is waited for: it is not lost.
				err := post(ctx, transport, url, body)
				l.mu.Lock()
				l.asked++
				if err != nil {
					l.lost = append(l.lost, fmt.Sprintf("%s: %v", time.Now().Format(time.TimeOnly), err))
				}
				l.mu.Unlock()
			}
		})
	}
	DeferCleanup(stop)
	return l
}

// end ends the clients, and waits for their last answers.
func (l *load) end() {
	l.stop()
	l.group.Wait()
}

// counts returns how many requests were sent, and why some had no answer.
func (l *load) counts() (asked int, lost []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked, l.lost
}

func post(ctx context.Context, transport *http.Client, url string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := transport.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	var r reply
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%w in %s", err, text)
	}
	if len(r.Choices) != 1 {
		return fmt.Errorf("%d choices in %s", len(r.Choices), text)
	}
	return nil
}
