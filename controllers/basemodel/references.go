package basemodel

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// digests are those that a text has, wherever they stand.
var digests = regexp.MustCompile(contract.DigestPrefix + `[0-9a-f]{64}`)

// references are the names (contract.KeepName) of all artifacts and runs that the objects
// of a namespace refer to, sorted. Whatever kind of thing a digest is of, and whichever
// field has it, what it names stays: in specifications and in status, of all bases, because
// experts are served by other bases' policies too, and volumes may be shared; in Jobs and
// Deployments, and in the pods that are left of earlier ones.
func references(ctx context.Context, reader client.Reader, namespace string) ([]string, error) {
	keep := map[string]bool{}
	for _, list := range []client.ObjectList{
		&v1alpha1.BaseModelList{}, &v1alpha1.ExpertVectorList{}, &v1alpha1.AdaptivePolicyList{},
		&batchv1.JobList{}, &appsv1.DeploymentList{}, &corev1.PodList{},
	} {
		if err := reader.List(ctx, list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil { // It is only read.
			return nil, fmt.Errorf("listing what refers to artifacts: %w", err)
		}
		if err := referred(list, keep); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(keep)), nil
}

// referred notes what a list of objects refers to.
func referred(list client.ObjectList, keep map[string]bool) error {
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("reading what refers to artifacts: %w", err)
	}
	for _, digest := range digests.FindAll(text, -1) {
		note(string(digest), keep)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return fmt.Errorf("reading what refers to artifacts: %w", err)
	}
	noteRuns(value, keep)
	return nil
}

func note(of string, keep map[string]bool) {
	if name, ok := contract.KeepName(of); ok {
		keep[name] = true
	}
}

// noteRuns notes the runs below a value: wherever there are some, the latest, and those of
// results that are there. From the checkpoints of one that was superseded nothing goes on.
func noteRuns(value any, keep map[string]bool) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			noteRuns(element, keep)
		}
	case map[string]any:
		for key, member := range v {
			text, isText := member.(string)
			runs, isList := member.([]any)
			switch {
			case isText && (key == "id" || key == "runID" || key == v1alpha1.LabelRun):
				note(text, keep)
			case isList && key == "runs" && len(runs) > 0:
				noteRuns(runs[0], keep)
			default:
				noteRuns(member, keep)
			}
		}
	}
}
