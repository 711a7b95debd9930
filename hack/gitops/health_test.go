package gitops

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

// statuses are objects as the operator left them; test/envtest writes the folder.
const statuses = "../../test/envtest/testdata/statuses"

// What each tool makes of each object: kstatus is Flux's `wait` and Helm's.
var want = map[string]struct {
	kstatus status.Status
	argo    string
	// says is part of what Argo CD shows beside it.
	says string
}{
	"basemodel-unseen":        {status.InProgressStatus, "Progressing", "has not seen this generation"},
	"basemodel-fetching":      {status.InProgressStatus, "Progressing", ""},
	"basemodel-ready":         {status.CurrentStatus, "Healthy", ""},
	"basemodel-stalled":       {status.FailedStatus, "Degraded", "correct spec.source.digest"},
	"basemodel-changed":       {status.InProgressStatus, "Progressing", "has not seen this generation"},
	"expertvector-unseen":     {status.InProgressStatus, "Progressing", "has not seen this generation"},
	"expertvector-waiting":    {status.InProgressStatus, "Progressing", "missing"},
	"expertvector-training":   {status.InProgressStatus, "Progressing", ""},
	"expertvector-suspended":  {status.InProgressStatus, "Suspended", "suspend"},
	"expertvector-ready":      {status.CurrentStatus, "Healthy", ""},
	"adaptivepolicy-unseen":   {status.InProgressStatus, "Progressing", "has not seen this generation"},
	"adaptivepolicy-rolling":  {status.InProgressStatus, "Progressing", ""},
	"adaptivepolicy-ready":    {status.CurrentStatus, "Healthy", ""},
	"adaptivepolicy-changing": {status.InProgressStatus, "Progressing", ""},
}

func TestStatusesAreReadRight(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(statuses, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(want) {
		t.Errorf("%s has %d objects, and %d are expected", statuses, len(files), len(want))
	}
	check := script(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			want, ok := want[name]
			if !ok {
				t.Fatalf("nothing is expected of %s: add it to want", name)
			}
			object := load(t, file)
			result, err := status.Compute(object)
			if err != nil {
				t.Fatal(err)
			}
			if result.Status != want.kstatus {
				t.Errorf("kstatus says %s (%s), want %s", result.Status, result.Message, want.kstatus)
			}
			health, err := evaluate(t.Context(), check, object.Object)
			if err != nil {
				t.Fatal(err)
			}
			if health.status != want.argo || !strings.Contains(health.message, want.says) || health.message == "" {
				t.Errorf("Argo CD says %s: %q, want %s with %q", health.status, health.message, want.argo, want.says)
			}
		})
	}
}

// An object whose status lacks what one would expect is not healthy.
func TestWhatSaysNothingIsNotHealthy(t *testing.T) {
	check := script(t)
	metadata := map[string]any{"generation": int64(1)}
	for name, object := range map[string]map[string]any{
		"no status":     {"metadata": metadata},
		"no conditions": {"metadata": metadata, "status": map[string]any{"observedGeneration": int64(1)}},
		"no Ready": {"metadata": metadata, "status": map[string]any{
			"observedGeneration": int64(1), "conditions": []any{map[string]any{"type": "Fetched", "status": "True"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			health, err := evaluate(t.Context(), check, object)
			if err != nil || health.status != "Progressing" || health.message == "" {
				t.Errorf("Argo CD says %+v: %v", health, err)
			}
		})
	}
}

func load(t *testing.T, file string) *unstructured.Unstructured {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{}
	asJSON, err := yaml.YAMLToJSON(content)
	if err == nil {
		err = object.UnmarshalJSON(asJSON)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return object
}

func wantError(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want an error that says %q", err, says)
	}
}
