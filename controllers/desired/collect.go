package desired

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// ContainerCollect removes from a volume what nothing refers to.
const ContainerCollect = "collect"

const (
	// collectBackoff is how many failed pods of a collection are replaced.
	collectBackoff = 1
	// collectSeconds bound a collection: what is left the next one removes.
	collectSeconds = 15 * 60
	// CollectGrace is how old a thing that nothing refers to has to be when it goes: by
	// then whoever made it has said so.
	CollectGrace = time.Hour
	// MaxKept is how many names a collection takes: an environment variable is bounded to
	// 128 KiB.
	MaxKept = 6000
)

// CollectSelector selects the Jobs and pods that collect a BaseModel's volume.
func CollectSelector(base *v1alpha1.BaseModel) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy,
		v1alpha1.LabelComponent: v1alpha1.ComponentCollect,
		v1alpha1.LabelBaseModel: base.Name,
	}
}

// Collects reports whether the operator removes from a BaseModel's volume what nothing
// refers to: where its user says so, and where nothing is said from a volume that was made
// for it alone.
func Collects(base *v1alpha1.BaseModel) bool {
	switch base.Spec.Storage.Collect {
	case v1alpha1.CollectAutomatic:
		return true
	case v1alpha1.CollectNever:
		return false
	default:
		return base.Spec.Storage.ExistingClaim == ""
	}
}

// CollectID names a set of references: a volume that was collected for it need not be
// collected for it again.
func CollectID(base *v1alpha1.BaseModel, keep []string) (string, error) {
	return Hash(base.UID, keep)
}

// Collect is the run that removes from a BaseModel's volume all but what keep names, a list
// of contract.KeepNames that was made at this time.
func Collect(base *v1alpha1.BaseModel, keep []string, at time.Time, settings Settings) (Run, error) {
	if len(keep) > MaxKept {
		return Run{}, fmt.Errorf("%d things are referred to, and a collection takes %d", len(keep), MaxKept)
	}
	id, err := CollectID(base, keep)
	if err != nil {
		return Run{}, err
	}
	on := beside(base, settings)
	pod := newPod(base, on, nil, settings)
	container, err := pod.container(ContainerCollect, []string{"collect"}, contract.CollectSpec{
		DataDir: contract.MountData, Keep: keep, Time: metav1.NewTime(at).Rfc3339Copy().UTC(), GraceSeconds: int64(CollectGrace.Seconds()),
	}, true)
	if err != nil {
		return Run{}, err
	}
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	run, err := job(jobParts{
		kind: "BaseModel", owner: base, runID: id, backoffLimit: collectBackoff, template: pod.template,
		labels: labels(v1alpha1.ComponentCollect, base.Name, nil),
		pod:    podSpec,
	})
	if err != nil {
		return Run{}, err
	}
	run.Job.Spec.WithActiveDeadlineSeconds(collectSeconds)
	return run, nil
}
