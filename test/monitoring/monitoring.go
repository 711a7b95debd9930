// Package monitoring reads which metrics the rules and the dashboard of config/monitoring,
// and the samples of autoscaling, name, so that the tests of whoever exposes metrics can tell whether they are there.
package monitoring

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Who exposes a metric, by how its name begins. The longest beginning counts.
const (
	// OfServing are those of pods that serve.
	OfServing = "t2_"
	// OfTraining are those of pods that train.
	OfTraining = "t2_train_"
	// OfOperator are the operator's own.
	OfOperator = "t2_operator_"
	// OfReconciling and OfQueues are those of the operator's controllers.
	OfReconciling = "controller_runtime_"
	OfQueues      = "workqueue_"
	// OfProcesses are those of every process.
	OfProcesses = "process_"
)

var beginnings = []string{OfServing, OfTraining, OfOperator, OfReconciling, OfQueues, OfProcesses}

// identifier is a name in PromQL, of a metric or of anything else.
var identifier = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)

// files name metrics.
var files = []string{
	"monitoring/rules.yaml", "monitoring/dashboard.json", "samples/autoscaling/prometheus-adapter.yaml", "samples/autoscaling/keda.yaml",
}

// Names returns the metrics that those files below the repository's root name and that
// begin so, in order, each once.
func Names(root, beginning string) ([]string, error) {
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(root, "config", filepath.FromSlash(file)))
		if err != nil {
			return nil, fmt.Errorf("reading what is monitored: %w", err)
		}
		for _, name := range identifier.FindAllString(string(text), -1) {
			// Names with a colon are those of recording rules.
			if !strings.Contains(name, ":") && begins(name) == beginning {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// begins returns the longest beginning that a name has.
func begins(name string) string {
	longest := ""
	for _, b := range beginnings {
		if strings.HasPrefix(name, b) && len(b) > len(longest) {
			longest = b
		}
	}
	return longest
}

// Missing returns the names of which an exposition in Prometheus' text format has no sample.
func Missing(names []string, exposition string) []string {
	var missing []string
	for _, name := range names {
		if !strings.Contains("\n"+exposition, "\n"+name+"{") && !strings.Contains("\n"+exposition, "\n"+name+" ") {
			missing = append(missing, name)
		}
	}
	return missing
}
