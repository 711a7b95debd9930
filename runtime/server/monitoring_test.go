package server_test

import (
	"net/http"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/test/monitoring"
)

// What the rules and the dashboard name is what a pod that has answered something shows,
// on both of its ports.
func TestRulesAndDashboardNameMetricsThatAreThere(t *testing.T) {
	h := open(t, nil)
	r, err := post(t.Context(), h.api.URL+contract.PathChatCompletions, chat("demo", "x", nil))
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("a request: %v, %v", r, err)
	}
	_ = r.Body.Close()
	for _, beginning := range []string{monitoring.OfServing, monitoring.OfProcesses} {
		names, err := monitoring.Names(filepath.Join("..", ".."), beginning)
		if err != nil {
			t.Fatal(err)
		}
		for port, url := range map[string]string{"API": h.api.URL, "admin": h.admin.URL} {
			text, code := reachable(t, url+contract.PathMetrics)
			if code != http.StatusOK {
				t.Fatalf("the metrics of the port %s: status %d", port, code)
			}
			for _, name := range monitoring.Missing(names, text) {
				t.Errorf("the port %s has no metric %s", port, name)
			}
		}
	}
}
