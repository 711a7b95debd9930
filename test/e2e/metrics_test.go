package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// What autoscalers read metrics by runs on the node, outside of pods, as the cluster's own
// components do: there is no registry to have its images from.

const (
	prometheusAddress = "127.0.0.1:9090"
	adapterPort       = "6444"
)

// customMetrics makes metrics of pods custom metrics of the API server until the specs that
// need them are over: by Prometheus, which scrapes what config/monitoring says, and by
// prometheus-adapter with the rules of the sample.
func customMetrics(ctx context.Context) {
	GinkgoHelper()
	folder := GinkgoT().TempDir()
	write := func(name string, content any) string {
		GinkgoHelper()
		text, err := yaml.Marshal(content)
		Expect(err).NotTo(HaveOccurred())
		path := filepath.Join(folder, name)
		Expect(os.WriteFile(path, text, 0o600)).To(Succeed())
		return path
	}
	kubeconfig, node := os.Getenv("KUBECONFIG"), nodeAddress(ctx)

	targets := filepath.Join(folder, "targets.json")
	discover(targets)
	onNode("PROMETHEUS", "--config.file="+write("prometheus.yaml", scraping(targets)), "--storage.tsdb.path="+filepath.Join(folder, "series"),
		"--web.listen-address="+prometheusAddress, "--log.level=warn")
	onNode("PROMETHEUS_ADAPTER", "--config="+write("adapter.yaml", map[string]any{"rules": adapterRules()}), "--prometheus-url=http://"+prometheusAddress,
		// It learns of a metric by listing series, once a minute with its chart's values.
		"--metrics-relist-interval=5s", "--metrics-max-age=1m",
		"--bind-address="+node, "--secure-port="+adapterPort, "--cert-dir="+filepath.Join(folder, "certificates"),
		"--lister-kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig)

	manifest, err := os.ReadFile("testdata/autoscaling/adapter.yaml")
	Expect(err).NotTo(HaveOccurred())
	objects := strings.NewReplacer("NODE", node).Replace(string(manifest))
	kubectl(ctx, objects, "-n", namespace, "apply", "--server-side", "-f", "-")
	// First of all, because no namespace can be deleted while an aggregated API does not answer.
	DeferCleanup(func(ctx SpecContext) { kubectl(ctx, objects, "-n", namespace, "delete", "-f", "-") })
	kubectl(ctx, "", "wait", "--for=condition=Available", "apiservice/v1beta1.custom.metrics.k8s.io", "--timeout=60s")
}

// onNode runs the program that a variable names in the network of the node until the specs
// that need it are over.
func onNode(variable string, args ...string) {
	GinkgoHelper()
	inside, program := strings.Fields(os.Getenv("T2_INSIDE")), os.Getenv(variable)
	Expect(inside).NotTo(BeEmpty(), "T2_INSIDE is not set: `make e2e` sets it to the command that runs a program on the node")
	Expect(program).NotTo(BeEmpty(), "%s is not set: `make e2e` sets it to the program's path", variable)
	cmd := exec.Command(inside[0], slices.Concat(inside[1:], []string{program}, args)...)
	cmd.Stdout, cmd.Stderr = GinkgoWriter, GinkgoWriter
	Expect(cmd.Start()).To(Succeed())
	DeferCleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
}

// nodeAddress is the address of the cluster's one node.
func nodeAddress(ctx context.Context) string {
	GinkgoHelper()
	var nodes corev1.NodeList
	Expect(cluster.List(ctx, &nodes)).To(Succeed())
	Expect(nodes.Items).To(HaveLen(1))
	for _, a := range nodes.Items[0].Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	Fail("the node has no address")
	return ""
}

// adapterRules are the sample's.
func adapterRules() []any {
	GinkgoHelper()
	text, err := os.ReadFile(root + "/config/samples/autoscaling/prometheus-adapter.yaml")
	Expect(err).NotTo(HaveOccurred())
	var values struct {
		Rules struct{ Custom []any }
	}
	Expect(yaml.UnmarshalStrict(text, &values)).To(Succeed())
	Expect(values.Rules.Custom).NotTo(BeEmpty())
	return values.Rules.Custom
}

// podMonitor is what is used of config/monitoring's.
type podMonitor struct {
	Metadata metav1.ObjectMeta
	Spec     struct {
		Selector            metav1.LabelSelector
		PodMetricsEndpoints []struct {
			Port, Path  string
			Relabelings []struct {
				SourceLabels []string
				TargetLabel  string
			}
		}
	}
}

// metaLabel is the name under which discovery by Kubernetes tells a label of pods.
func metaLabel(name string) string {
	return "__meta_kubernetes_pod_label_" + regexp.MustCompile(`[^a-zA-Z0-9_]`).ReplaceAllString(name, "_")
}

// discover keeps a file of the running pods and their ports, with the labels that Prometheus
// gives them when it asks Kubernetes itself: Debian's cannot.
func discover(path string) {
	GinkgoHelper()
	var was []byte
	write := func(ctx context.Context) error {
		var pods corev1.PodList
		if err := cluster.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return err
		}
		targets := []any{}
		for _, pod := range pods.Items {
			if pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning {
				continue
			}
			for _, container := range pod.Spec.Containers {
				for _, port := range container.Ports {
					labels := map[string]string{
						"__meta_kubernetes_namespace": pod.Namespace, "__meta_kubernetes_pod_name": pod.Name,
						"__meta_kubernetes_pod_container_port_name": port.Name,
					}
					for name, value := range pod.Labels {
						labels[metaLabel(name)] = value
					}
					targets = append(targets, map[string]any{"targets": []string{fmt.Sprintf("%s:%d", pod.Status.PodIP, port.ContainerPort)}, "labels": labels})
				}
			}
		}
		text, err := json.Marshal(targets)
		if err != nil || bytes.Equal(text, was) {
			return err
		}
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			return err
		}
		was = text
		return os.Rename(path+".new", path)
	}
	ctx, stop := context.WithCancel(context.Background())
	Expect(write(ctx)).To(Succeed())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := write(ctx); err != nil && ctx.Err() == nil {
				GinkgoWriter.Printf("discovering pods: %v\n", err)
			}
		}
	}()
	DeferCleanup(func() {
		stop()
		<-done
	})
}

// scraping is a configuration of Prometheus with which it scrapes serving pods each second as
// its operator makes it of the PodMonitor: by the labels of pods and the names of ports, with
// the labels namespace and pod.
func scraping(targets string) map[string]any {
	GinkgoHelper()
	text, err := os.ReadFile(root + "/config/monitoring/pods.yaml")
	Expect(err).NotTo(HaveOccurred())
	var monitor podMonitor
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		monitor = podMonitor{}
		Expect(yaml.Unmarshal([]byte(document), &monitor)).To(Succeed())
		if monitor.Metadata.Name == "serving" {
			break
		}
	}
	Expect(monitor.Metadata.Name).To(Equal("serving"))
	Expect(monitor.Spec.Selector.MatchExpressions).To(BeEmpty(), "they are not translated here")
	Expect(monitor.Spec.PodMetricsEndpoints).To(HaveLen(1))
	endpoint := monitor.Spec.PodMetricsEndpoints[0]
	keep := func(label, value string) map[string]any {
		return map[string]any{"action": "keep", "source_labels": []string{label}, "regex": regexp.QuoteMeta(value)}
	}
	label := func(target string, from ...string) map[string]any {
		return map[string]any{"source_labels": from, "target_label": target}
	}
	relabel := []any{
		keep("__meta_kubernetes_pod_container_port_name", endpoint.Port),
		label("namespace", "__meta_kubernetes_namespace"), label("pod", "__meta_kubernetes_pod_name"),
	}
	for name, value := range monitor.Spec.Selector.MatchLabels {
		relabel = append(relabel, keep(metaLabel(name), value))
	}
	for _, r := range endpoint.Relabelings {
		relabel = append(relabel, label(r.TargetLabel, r.SourceLabels...))
	}
	return map[string]any{
		"global": map[string]any{"scrape_interval": "1s", "scrape_timeout": "1s"},
		"scrape_configs": []any{map[string]any{
			"job_name": "serving", "metrics_path": endpoint.Path, "relabel_configs": relabel,
			"file_sd_configs": []any{map[string]any{"files": []string{targets}, "refresh_interval": "1s"}},
		}},
	}
}
