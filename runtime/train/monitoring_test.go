package train

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transformersquared/operator/test/monitoring"
)

// What the rules and the dashboard name of a training is what one shows.
func TestRulesAndDashboardNameMetricsThatAreThere(t *testing.T) {
	registry := prometheus.NewRegistry()
	newMetrics(registry)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, f := range families {
		have = append(have, f.GetName())
	}
	names, err := monitoring.Names(filepath.Join("..", ".."), monitoring.OfTraining)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !slices.Contains(have, name) {
			t.Errorf("a training has no metric %s", name)
		}
	}
}
