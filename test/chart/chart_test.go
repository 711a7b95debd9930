// Package chart tests how the operator is installed: that the Helm chart renders
// what config/default says, what its values change and which are refused, and
// what the overlays of config render.
//
// It needs HELM and KUBECTL, the programs: `make chart-test` sees to it. After a
// change of the chart: make chart-test CHARTFLAGS=-update.
package chart

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/controllers"
)

const (
	root  = "../.."
	chart = root + "/config/chart"
)

var update = flag.Bool("update", false, "write testdata anew")

// program is the path of a program that an environment variable names.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skip(variable + " is not set: make chart-test runs these tests")
	}
	return path
}

// helm runs Helm and returns what it printed.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program(t, "HELM"), args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w: %s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String(), nil
}

// template renders the chart as release t2 in namespace t2-system.
func template(t *testing.T, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	text, err := helm(t, append([]string{"template", "t2", chart, "--namespace", "t2-system"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, text)
}

// kustomize renders a folder of config.
func kustomize(t *testing.T, folder string) map[string]*unstructured.Unstructured {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "KUBECTL"), "kustomize", filepath.Join(root, "config", folder))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil || errOut.Len() > 0 {
		t.Fatalf("kubectl kustomize config/%s: %v: %s", folder, err, errOut.String())
	}
	return objects(t, out.String())
}

// objects are those of a stream of YAML by kind, namespace and name.
func objects(t *testing.T, text string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(object.Object) == 0 {
			continue
		}
		key := strings.Join(slices.DeleteFunc([]string{object.GetKind(), object.GetNamespace(), object.GetName()}, func(s string) bool { return s == "" }), "/")
		if all[key] != nil {
			t.Fatalf("%s is there twice", key)
		}
		all[key] = object
	}
}

// manager is the operator's container, and pod the specification around it.
func manager(t *testing.T, all map[string]*unstructured.Unstructured) (container, pod map[string]any) {
	t.Helper()
	for _, object := range all {
		if object.GetKind() != "Deployment" {
			continue
		}
		pod, _, err := unstructured.NestedMap(object.Object, "spec", "template", "spec")
		if err != nil {
			t.Fatal(err)
		}
		containers, _, err := unstructured.NestedSlice(pod, "containers")
		if err != nil || len(containers) != 1 {
			t.Fatalf("containers are %v: %v", containers, err)
		}
		return containers[0].(map[string]any), pod
	}
	t.Fatal("there is no Deployment")
	return nil, nil
}

// withoutHelm takes away what a release adds to labels, selectors and CRDs.
func withoutHelm(object *unstructured.Unstructured) {
	for _, path := range [][]string{
		{"metadata", "labels"}, {"spec", "selector"}, {"spec", "selector", "matchLabels"}, {"spec", "template", "metadata", "labels"},
	} {
		for _, label := range []string{"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"} {
			unstructured.RemoveNestedField(object.Object, append(slices.Clone(path), label)...)
		}
	}
	// Pods of policies and Jobs have labels of ours alone, which these select by.
	unstructured.RemoveNestedField(object.Object, "spec", "podSelector", "matchLabels", "app.kubernetes.io/instance")
	unstructured.RemoveNestedField(object.Object, "metadata", "annotations", "helm.sh/resource-policy")
}

// A release named t2 is what kubectl apply -k config/default makes, but for Helm's
// labels and the namespace, which Helm makes itself.
func TestTheChartIsConfigDefault(t *testing.T) {
	want := kustomize(t, "default")
	delete(want, "Namespace/t2-system")
	isTheSame(t, want, template(t))
}

// With NetworkPolicies and monitoring it is config/network and config/monitoring as well.
func TestTheChartIsConfigNetworkAndMonitoring(t *testing.T) {
	want := kustomize(t, "default")
	delete(want, "Namespace/t2-system")
	maps.Copy(want, kustomize(t, "network/operator"))
	maps.Copy(want, kustomize(t, "monitoring"))
	for key, policy := range kustomize(t, "network/namespace") {
		for _, namespace := range []string{"team-a", "team-b"} {
			in := policy.DeepCopy()
			in.SetNamespace(namespace)
			want[strings.Replace(key, "/", "/"+namespace+"/", 1)] = in
		}
	}
	got := template(t, "--set", "networkPolicies.enabled=true", "--set", "networkPolicies.namespaces={team-a,team-b}", "--set", "monitoring.enabled=true")
	for _, object := range got {
		if object.GetKind() == "NetworkPolicy" {
			object.SetLabels(nil) // Files that are applied one by one have none.
		}
	}
	isTheSame(t, want, got)
}

// isTheSame compares what kustomize renders with what Helm does.
func isTheSame(t *testing.T, want, got map[string]*unstructured.Unstructured) {
	t.Helper()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatalf("config and the chart have other objects (-kustomize +helm):\n%s", diff)
	}
	for key, object := range got {
		withoutHelm(object)
		if diff := cmp.Diff(want[key], object); diff != "" {
			t.Errorf("%s is another in the chart (-kustomize +helm):\n%s", key, diff)
		}
	}
}

func TestTheChartIsClean(t *testing.T) {
	for _, values := range append(valueFiles(t), "") {
		args := []string{"lint", "--strict", chart, "--namespace", "t2-system"}
		if values != "" {
			args = append(args, "--values", values)
		}
		out, err := helm(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "[WARNING]") || strings.Contains(out, "[ERROR]") {
			t.Errorf("%s:\n%s", values, out)
		}
	}
}

func valueFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata has %d files of values: %v", len(files), err)
	}
	return files
}

// What each file of values renders, CRDs and rules aside, is beside it.
func TestRenderedGoldens(t *testing.T) {
	for _, values := range valueFiles(t) {
		name := strings.TrimSuffix(filepath.Base(values), ".values.yaml")
		t.Run(name, func(t *testing.T) {
			all := template(t, "--values", values, "--set", "crds.install=false")
			checkArguments(t, all)
			got := stream(t, all)
			golden := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got), make chart-test CHARTFLAGS=-update writes it anew:\n%s", golden, diff)
			}
		})
	}
}

// stream is objects as YAML in the order of their kinds, namespaces and names,
// without what other folders' are and change with them: rules of roles, alerts, the
// dashboard.
func stream(t *testing.T, all map[string]*unstructured.Unstructured) string {
	t.Helper()
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		object := all[key].DeepCopy()
		delete(object.Object, "rules")
		if object.GetKind() == "ConfigMap" {
			delete(object.Object, "data")
		}
		if groups, found, _ := unstructured.NestedSlice(object.Object, "spec", "groups"); found {
			for _, group := range groups {
				delete(group.(map[string]any), "rules")
			}
			if err := unstructured.SetNestedSlice(object.Object, groups, "spec", "groups"); err != nil {
				t.Fatal(err)
			}
		}
		content, err := yaml.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "---\n%s", content)
	}
	return text.String()
}

// checkArguments checks that the operator has all the flags that it is given.
func checkArguments(t *testing.T, all map[string]*unstructured.Unstructured) {
	t.Helper()
	var usage strings.Builder
	if err := controllers.Run(t.Context(), []string{"-h"}, &usage); err != nil {
		t.Fatal(err)
	}
	container, _ := manager(t, all)
	for _, arg := range container["args"].([]any) {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg.(string), "-"), "=")
		if !strings.Contains(usage.String(), "\n  "+name+" ") && !strings.Contains(usage.String(), "\n  "+name+"\n") {
			t.Errorf("the operator has no flag %s", name)
		}
	}
}

// With namespaces, nothing of the cluster's own is rendered but CRDs, and the
// rules are those of the ClusterRole.
func TestNamespacedIsWithoutRightsInTheCluster(t *testing.T) {
	rules := func(all map[string]*unstructured.Unstructured, key string) any {
		if all[key] == nil {
			t.Fatalf("there is no %s", key)
		}
		return all[key].Object["rules"]
	}
	everywhere := rules(kustomize(t, "default"), "ClusterRole/t2-manager")
	overlay := kustomize(t, "namespaced")
	helmed := template(t, "--set", "namespaces={team-a,team-b}", "--set", "crds.install=false")
	for name, all := range map[string]map[string]*unstructured.Unstructured{"the chart": helmed, "config/namespaced": overlay} {
		for key, object := range all {
			if object.GetNamespace() == "" {
				t.Errorf("%s has %s, which is the cluster's", name, key)
			}
		}
		container, _ := manager(t, all)
		checkArguments(t, all)
		if args := fmt.Sprint(container["args"]); !strings.Contains(args, "--namespaces=team-a") || !strings.Contains(args, "--metrics-bind-address=0") {
			t.Errorf("%s runs the operator with %s", name, args)
		}
	}
	for _, got := range []any{
		rules(overlay, "Role/team-a/t2-manager"), rules(helmed, "Role/team-a/t2-manager"), rules(helmed, "Role/team-b/t2-manager"),
	} {
		if diff := cmp.Diff(everywhere, got); diff != "" {
			t.Errorf("the rules differ from config/rbac (-want +got):\n%s", diff)
		}
	}
	subjects, _, err := unstructured.NestedSlice(helmed["RoleBinding/team-b/t2-manager"].Object, "subjects")
	want := []any{map[string]any{"kind": "ServiceAccount", "name": "t2-controller-manager", "namespace": "t2-system"}}
	if diff := cmp.Diff(want, subjects); err != nil || diff != "" {
		t.Errorf("who is bound in team-b: %v (-want +got):\n%s", err, diff)
	}

	withMetrics := template(t, "--set", "namespaces={team-a}", "--set", "metrics.clusterRole=true", "--set", "crds.install=false")
	for _, key := range []string{"ClusterRole/t2-metrics-auth", "ClusterRoleBinding/t2-metrics-auth", "Service/t2-system/t2-metrics"} {
		if withMetrics[key] == nil {
			t.Errorf("there is no %s where metrics.clusterRole allows it", key)
		}
	}
	for _, tc := range []struct {
		all     map[string]*unstructured.Unstructured
		metrics bool
	}{
		{template(t, "--set", "namespaces={team-a}", "--set", "crds.install=false", "--set", "monitoring.enabled=true"), false},
		{template(t, "--set", "namespaces={team-a}", "--set", "crds.install=false", "--set", "monitoring.enabled=true", "--set", "metrics.clusterRole=true"), true},
	} {
		if got := tc.all["ServiceMonitor/t2-system/t2-operator"] != nil; got != tc.metrics {
			t.Errorf("the operator is scraped: %v; it serves metrics: %v", got, tc.metrics)
		}
		if got := strings.Contains(fmt.Sprint(tc.all["PrometheusRule/t2-system/t2-rules"].Object), "T2OperatorAbsent"); got != tc.metrics {
			t.Errorf("it is an alert that the operator is not scraped: %v; it serves metrics: %v", got, tc.metrics)
		}
	}
	if withMetrics["ClusterRole/t2-manager"] != nil {
		t.Error("metrics.clusterRole gives the operator more than the right to ask who somebody is")
	}
}

// A node without the internet pulls nothing from a registry that is not named.
func TestEveryImageComesFromOneRegistry(t *testing.T) {
	elsewhere := strings.Repeat("0", 64)
	for name, all := range map[string]map[string]*unstructured.Unstructured{
		"the chart": template(t, "--set", "crds.install=false", "--set", "images.registry=registry.example.com/t2"),
		"the chart with digests": template(t, "--set", "crds.install=false", "--set", "images.registry=registry.example.com/t2",
			"--set", "images.manager.digest=sha256:"+elsewhere, "--set", "images.runtime.digest=sha256:"+elsewhere),
		"config/airgapped": kustomize(t, "airgapped"),
	} {
		container, _ := manager(t, all)
		references := []string{container["image"].(string)}
		for _, arg := range container["args"].([]any) {
			if flag, value, _ := strings.Cut(arg.(string), "="); strings.HasSuffix(flag, "-image") {
				references = append(references, value)
			}
		}
		if len(references) != 4 {
			t.Errorf("%s names the images %v", name, references)
		}
		for _, reference := range references {
			if !strings.HasPrefix(reference, "registry.example.com/t2/") {
				t.Errorf("%s takes %s from elsewhere", name, reference)
			}
		}
	}
}

func TestOverlaysRender(t *testing.T) {
	for _, folder := range []string{"default", "namespaced", "gpu", "airgapped", "samples", "samples/fewshot", "samples/probe", "samples/rollout"} {
		t.Run(folder, func(t *testing.T) {
			all := kustomize(t, folder)
			if strings.HasPrefix(folder, "samples") {
				return
			}
			checkArguments(t, all)
			container, pod := manager(t, all)
			defaults, around := manager(t, kustomize(t, "default"))
			for _, field := range []string{"securityContext", "resources", "readinessProbe", "livenessProbe"} {
				if diff := cmp.Diff(defaults[field], container[field]); diff != "" {
					t.Errorf("%s (-default +got):\n%s", field, diff)
				}
			}
			if diff := cmp.Diff(around["securityContext"], pod["securityContext"]); diff != "" {
				t.Errorf("the pod's securityContext (-default +got):\n%s", diff)
			}
		})
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	for _, tc := range []struct{ name, set, want string }{
		{"a value that is none", "replica=2", "'replica'"},
		{"one within another", "images.manger.tag=1", "'manger'"},
		{"no registry", "images.registry=", "/images/registry"},
		{"a registry with its scheme", "images.registry=https://example.com", "/images/registry"},
		{"a digest without its algorithm", "images.manager.digest=abc", "/images/manager/digest"},
		{"a namespace that is no name", "namespaces={Team_A}", "/namespaces/0"},
		{"a namespace twice", "namespaces={a,a}", "/namespaces"},
		{"text for a number", "replicas=many", "/replicas"},
		{"the port of the probes", "metrics.port=8081", "/metrics/port"},
		{"a GPU of nobody", "gpu.resource=gpu", "/gpu/resource"},
		{"a taint with an effect that is none", "gpu.tolerations={pool:Never}", "/gpu/tolerations/0"},
		{"a level that is none", "log.level=loud", "/log/level"},
		{"an argument that is no flag", "extraArgs={help}", "/extraArgs/0"},
		{"an account of nobody", "serviceAccount.create=false", "/serviceAccount/name"},
		{"a policy of nobody", "networkPolicies.clients[0].namespace=gateway", "/networkPolicies/clients/0"},
		{"a source at no place", "networkPolicies.sources[0].ports[0].port=9000", "/networkPolicies/sources/0"},
		{"an address without its mask", "networkPolicies.apiServer.cidrs={10.0.0.1}", "/networkPolicies/apiServer/cidrs/0"},
		{"a reader without a namespace", "metrics.readers[0].name=prometheus", "/metrics/readers/0"},
		{"text for a switch", "adminTLS=on", "/adminTLS"},
		{"a label that is no text", "monitoring.labels.release=1", "/monitoring/labels/release"},
		{"a disruption of half a pod", "podDisruptionBudget.maxUnavailable=half", "/podDisruptionBudget/maxUnavailable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := helm(t, "template", "t2", chart, "--set", tc.set)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that says %q", err, tc.want)
			}
		})
	}
}

// Every value has its place in the schema and its line in the README, and no
// object of the schema takes what it does not name.
func TestValuesAreDescribed(t *testing.T) {
	var values map[string]any
	read(t, filepath.Join(chart, "values.yaml"), func(b []byte) error { return yaml.Unmarshal(b, &values) })
	var schema map[string]any
	read(t, filepath.Join(chart, "values.schema.json"), func(b []byte) error { return json.Unmarshal(b, &schema) })
	var text string
	read(t, filepath.Join(chart, "README.md"), func(b []byte) error { text = string(b); return nil })

	var walk func(path string, value any, schema map[string]any)
	walk = func(path string, value any, schema map[string]any) {
		properties, _ := schema["properties"].(map[string]any)
		if properties == nil {
			if !strings.Contains(text, "`"+path+"`") {
				t.Errorf("README.md does not say what `%s` is", path)
			}
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("the schema of %q takes what it does not name", path)
		}
		fields, _ := value.(map[string]any)
		for name, field := range fields {
			below := strings.TrimPrefix(path+"."+name, ".")
			known, ok := properties[name].(map[string]any)
			if !ok {
				t.Errorf("the schema does not know %s", below)
				continue
			}
			// The four images are alike, and described once.
			if path == "images" && properties[name].(map[string]any)["type"] == "object" {
				if !strings.Contains(text, "`"+below+"`") {
					t.Errorf("README.md does not say what `%s` is", below)
				}
				continue
			}
			walk(below, field, known)
		}
	}
	walk("", values, schema)
}

func read(t *testing.T, file string, into func([]byte) error) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := into(content); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// The package holds what the chart's folder does, and nothing is larger than a
// Secret, in which Helm keeps a release, can be.
func TestThePackageFitsIntoASecret(t *testing.T) {
	folder := t.TempDir()
	if _, err := helm(t, "package", chart, "--destination", folder, "--version", "1.2.3", "--app-version", "1.2.3"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(folder, "transformersquared-1.2.3.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	// A release holds templates and what they render, compressed and as base64.
	const largest = 1 << 20
	if size := info.Size() * 2 * 4 / 3; size > largest*3/4 {
		t.Errorf("a release is about %d bytes, and a Secret %d at most: the CRDs leave too little", size, largest)
	}
}
