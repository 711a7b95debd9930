package monitoring

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

var folder = filepath.Join("..", "..", "config", "monitoring")

// promtool is Prometheus' own tool.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	tool := os.Getenv("PROMTOOL")
	if tool == "" {
		var err error
		if tool, err = filepath.Abs(filepath.Join("..", "..", "bin", "promtool")); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%v: hack/monitoring/prometheus.sh bin fetches it, or name one by PROMTOOL", err)
	}
	if err != nil {
		t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Every object is one that Prometheus' operator knows, to the last field.
func TestObjectsAreThoseOfPrometheusOperator(t *testing.T) {
	for _, file := range []string{"operator.yaml", "pods.yaml", "rules.yaml"} {
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(read(t, file))))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal(document, &kind); err != nil {
				t.Fatal(err)
			}
			into, known := map[string]any{
				"ServiceMonitor": &monitoringv1.ServiceMonitor{}, "PodMonitor": &monitoringv1.PodMonitor{}, "PrometheusRule": &monitoringv1.PrometheusRule{},
			}[kind.Kind]
			if !known || kind.APIVersion != monitoringv1.SchemeGroupVersion.String() {
				t.Errorf("%s has a %s of %s", file, kind.Kind, kind.APIVersion)
				continue
			}
			if err := yaml.UnmarshalStrict(document, into); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// The rules are Prometheus', and each alert fires when, and only when, rules_test.yaml says.
func TestRules(t *testing.T) {
	var rules monitoringv1.PrometheusRule
	if err := yaml.UnmarshalStrict(read(t, "rules.yaml"), &rules); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "rules.json", rules.Spec)
	tests := read(t, "rules_test.yaml")
	if err := os.WriteFile(filepath.Join(dir, "rules_test.yaml"), tests, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "rules", "rules.json")
	promtool(t, dir, "test", "rules", "rules_test.yaml")
	for _, group := range rules.Spec.Groups {
		for _, rule := range group.Rules {
			switch {
			case rule.Alert == "":
			case !bytes.Contains(tests, []byte("alertname: "+rule.Alert+"\n")):
				t.Errorf("no test makes the alert %s fire", rule.Alert)
			case rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "":
				t.Errorf("the alert %s says not how grave it is, what is the matter and what to do", rule.Alert)
			}
		}
	}
}

func write(t *testing.T, dir, file string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The dashboard has the form of Grafana's, with no field that Grafana does not know, and
// what it asks for is PromQL.
func TestDashboard(t *testing.T) {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	text := read(t, "dashboard.json")
	var d dashboard.Dashboard //nolint:staticcheck // dashboard.json is of this version, which every Grafana reads.
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	// Its own strict decoder finds errors without a problem in every panel (v0.0.22). What
	// it does not know is lost when it is written again.
	again, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var have, want any
	if err := errors.Join(json.Unmarshal(again, &have), json.Unmarshal(text, &want)); err != nil {
		t.Fatal(err)
	}
	for _, path := range lost("", have, want) {
		t.Errorf("Grafana does not know %s", path)
	}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}

	variables := strings.NewReplacer("$__rate_interval", "5m", "$namespace", "demo", "$policy", "assistant")
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	at := map[string]bool{}
	for _, one := range d.Panels {
		if one.RowPanel != nil {
			continue
		}
		panel := one.Panel
		title := *panel.Title
		place := fmt.Sprintf("%d/%d", panel.GridPos.X, panel.GridPos.Y)
		if at[place] || panel.GridPos.X+panel.GridPos.W > 24 {
			t.Errorf("the panel %q has no place of its own", title)
		}
		at[place] = true
		if len(panel.Targets) == 0 {
			t.Errorf("the panel %q asks for nothing", title)
		}
		for _, target := range panel.Targets {
			query, ok := target.(*prometheus.Dataquery)
			if !ok {
				t.Errorf("the panel %q asks for a %T", title, target)
				continue
			}
			expr := variables.Replace(query.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("the panel %q asks for a variable that is not there: %s", title, expr)
			}
			rules = append(rules, rule{Record: fmt.Sprintf("panel:expr%d", len(rules)), Expr: expr})
		}
	}
	dir := t.TempDir()
	write(t, dir, "panels.json", map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	promtool(t, dir, "check", "rules", "panels.json")
	if len(rules) < 20 {
		t.Errorf("the dashboard asks for %d things", len(rules))
	}
}

// lost lists the paths of what want has and have has not, or has otherwise.
func lost(path string, have, want any) []string {
	var all []string
	switch w := want.(type) {
	case map[string]any:
		h, _ := have.(map[string]any)
		for key, value := range w {
			all = append(all, lost(path+"."+key, h[key], value)...)
		}
	case []any:
		h, _ := have.([]any)
		for i, value := range w {
			var other any
			if i < len(h) {
				other = h[i]
			}
			all = append(all, lost(fmt.Sprintf("%s[%d]", path, i), other, value)...)
		}
	default:
		if have != want {
			all = append(all, fmt.Sprintf("%s = %v", path, want))
		}
	}
	return all
}
