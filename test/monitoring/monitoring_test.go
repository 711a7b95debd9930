package monitoring

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..")

func TestNamesAreFoundOfEverybody(t *testing.T) {
	for beginning, one := range map[string]string{
		OfServing: "t2_requests_total", OfTraining: "t2_train_iteration", OfOperator: "t2_operator_objects", OfReconciling: "controller_runtime_reconcile_errors_total",
		OfQueues: "workqueue_depth", OfProcesses: "process_resident_memory_bytes",
	} {
		names, err := Names(root, beginning)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(names, one) || !slices.IsSorted(names) {
			t.Errorf("of %s there are %v", beginning, names)
		}
		if beginning == OfServing && slices.Contains(names, "t2_train_iteration") {
			t.Errorf("%v has those of trainings", names)
		}
	}
}

func TestWhatIsMissing(t *testing.T) {
	got := Missing([]string{"a", "b", "c"}, "# HELP c Of none.\na 1\nb{x=\"y\"} 2\ncc 3\n")
	if !slices.Equal(got, []string{"c"}) {
		t.Errorf("got %v", got)
	}
}

// A name with a colon that nothing records has no value.
func TestRecordedNamesAreRecorded(t *testing.T) {
	rules := read(t, "rules.yaml")
	recorded := map[string]bool{}
	for _, m := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(rules, -1) {
		recorded[m[1]] = true
	}
	for _, name := range identifier.FindAllString(rules+read(t, "dashboard.json"), -1) {
		if strings.HasPrefix(name, "policy:") || strings.HasPrefix(name, "pod:") {
			if !recorded[name] && !strings.HasSuffix(name, ":") {
				t.Errorf("nothing records %s", name)
			}
		}
	}
	if len(recorded) == 0 {
		t.Error("there are no recording rules")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "config", "monitoring", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
