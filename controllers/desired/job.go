package desired

import (
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batchac "k8s.io/client-go/applyconfigurations/batch/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// Run is one run of work for an object.
type Run struct {
	// ID is the hash of the object's UID and of all that the result depends on.
	ID string
	// Recipe is the hash of what the run is asked for, with data sets by name and
	// not by content: it is known also when a data set cannot be read.
	Recipe string
	// Answers is, of an evaluation, the hash of what the answers of the base and of each expert
	// alone depend on; empty of other runs.
	Answers string
	// JobName is the Job for it. It depends on the pod's whole specification, so
	// that more memory, say, makes another Job that goes on with the same run.
	JobName string
	// Job is what is made; what is there is not changed but for its suspension.
	Job *batchac.JobApplyConfiguration
	// Suspend says that the run is to be held.
	Suspend bool
	// Secrets are the names of the Secrets that hold credentials for sources, sorted.
	Secrets []string
}

// jobParts are what differs between the Jobs of the operator.
type jobParts struct {
	kind         string
	owner        metav1.Object
	labels       map[string]string
	runID        string
	recipe       string
	backoffLimit int32
	suspend      bool
	sources      []place
	template     v1alpha1.PodTemplate
	pod          *coreac.PodSpecApplyConfiguration
}

// job makes the Job of a run. Its pods are not restarted in place, so that
// every try is a pod with its own termination message; the exit status says
// whether another try can help.
func job(parts jobParts) (Run, error) {
	all := userLabels(parts.template)
	maps.Copy(all, parts.labels)
	all[v1alpha1.LabelRun] = parts.runID
	parts.pod.WithRestartPolicy(corev1.RestartPolicyNever)
	template := coreac.PodTemplateSpec().WithLabels(all).WithSpec(parts.pod)
	if annotations := parts.template.Metadata.Annotations; len(annotations) > 0 {
		template.WithAnnotations(annotations)
	}
	hash, err := Hash(template, parts.backoffLimit)
	if err != nil {
		return Run{}, err
	}
	name := JobName(parts.owner.GetName(), hash)
	spec := batchac.JobSpec().
		WithBackoffLimit(parts.backoffLimit).
		WithPodReplacementPolicy(batchv1.Failed).
		WithPodFailurePolicy(batchac.PodFailurePolicy().WithRules(
			batchac.PodFailurePolicyRule().
				WithAction(batchv1.PodFailurePolicyActionFailJob).
				WithOnExitCodes(batchac.PodFailurePolicyOnExitCodesRequirement().
					WithOperator(batchv1.PodFailurePolicyOnExitCodesOpIn).
					WithValues(contract.ExitPermanent)),
			batchac.PodFailurePolicyRule().
				WithAction(batchv1.PodFailurePolicyActionIgnore).
				WithOnExitCodes(batchac.PodFailurePolicyOnExitCodesRequirement().
					WithOperator(batchv1.PodFailurePolicyOnExitCodesOpIn).
					WithValues(contract.ExitInterrupted)),
			batchac.PodFailurePolicyRule().
				WithAction(batchv1.PodFailurePolicyActionIgnore).
				WithOnPodConditions(batchac.PodFailurePolicyOnPodConditionsPattern().
					WithType(corev1.DisruptionTarget).
					WithStatus(corev1.ConditionTrue)),
		)).
		WithTemplate(template)
	made := batchac.Job(name, parts.owner.GetNamespace()).
		WithLabels(all).
		WithOwnerReferences(controlledBy(parts.kind, parts.owner)).
		WithSpec(spec)
	if parts.suspend {
		spec.WithSuspend(true)
		made.WithAnnotations(map[string]string{v1alpha1.AnnotationSuspended: "true"})
	}
	run := Run{ID: parts.runID, Recipe: parts.recipe, JobName: name, Job: made, Suspend: parts.suspend}
	for _, p := range parts.sources {
		if name := p.secret(); name != "" && !slices.Contains(run.Secrets, name) {
			run.Secrets = append(run.Secrets, name)
		}
	}
	slices.Sort(run.Secrets)
	return run, nil
}

// Again is the run by another Job than before, which the cause names: a Job that
// is over makes nothing again.
func (r Run) Again(cause string) (Run, error) {
	hash, err := Hash(r.JobName, cause)
	if err != nil {
		return Run{}, err
	}
	owner := r.JobName[:strings.LastIndexByte(r.JobName, '-')]
	r.JobName = JobName(owner, hash)
	r.Job.WithName(r.JobName)
	return r, nil
}
