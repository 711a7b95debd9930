package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// patience is how long a change, or what goes on before it, may take.
const patience = 15 * time.Minute

// cluster is the demo's.
type cluster struct{ options }

// verdict is what came of a change.
type verdict struct {
	when                  time.Time
	summary               string
	trainRun, evaluateRun string
	expertDigest          v1alpha1.Digest
}

// get reads an object.
func (c cluster) get(ctx context.Context, kind, name string, into any) error {
	b, err := output(ctx, c.kubectl, "-n", c.namespace, "get", kind, name, "-o", "json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s %s: %w", kind, name, err)
	}
	return nil
}

// until asks, five times a second, until it is so.
func until(ctx context.Context, what string, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := is()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// judged returns the policy's evaluation if it is of the expert as it is now, trained as its
// specification says.
func (c cluster) judged(ctx context.Context) (*v1alpha1.AdaptivePolicy, *v1alpha1.ExpertVector, bool, error) {
	var policy v1alpha1.AdaptivePolicy
	var expert v1alpha1.ExpertVector
	if err := errors.Join(c.get(ctx, "adaptivepolicy", c.policy, &policy), c.get(ctx, "expertvector", c.expert, &expert)); err != nil {
		return nil, nil, false, err
	}
	s := expert.Status
	ready := false
	for _, condition := range s.Conditions {
		ready = ready || condition.Type == v1alpha1.ConditionReady && condition.Status == "True" && condition.ObservedGeneration == expert.Generation
	}
	if !ready || s.Artifact == nil || policy.Status.Rollout == nil || policy.Status.Rollout.Evaluation == nil || policy.Status.Rollout.Progress != nil {
		return &policy, &expert, false, nil
	}
	for _, e := range policy.Status.Rollout.Evaluation.Experts {
		if e.Name == c.expert && e.Digest == s.Artifact.Digest {
			return &policy, &expert, true, nil
		}
	}
	return &policy, &expert, false, nil
}

// settled waits until nothing goes on that the change would find.
func (c cluster) settled(ctx context.Context) error {
	return until(ctx, "the set before is judged, and no Job runs", func() (bool, error) {
		_, _, ok, err := c.judged(ctx)
		if err != nil || !ok {
			return false, err
		}
		var jobs batchv1.JobList
		if err := c.get(ctx, "jobs", "--selector="+v1alpha1.LabelBaseModel, &jobs); err != nil {
			return false, err
		}
		for _, j := range jobs.Items {
			if j.Status.Active > 0 {
				return false, nil
			}
		}
		return true, nil
	})
}

// change gives the expert another seed, and waits for the verdict on it.
func (c cluster) change(ctx context.Context, seed int64) (verdict, error) {
	patch := fmt.Sprintf(`{"spec":{"training":{"seed":%d}}}`, seed)
	if _, err := output(ctx, c.kubectl, "-n", c.namespace, "patch", "expertvector", c.expert, "--type=merge", "-p", patch); err != nil {
		return verdict{}, err
	}
	var v verdict
	err := until(ctx, "the new set is judged", func() (bool, error) {
		policy, expert, ok, err := c.judged(ctx)
		if err != nil || !ok {
			return false, err
		}
		if len(expert.Status.Runs) == 0 {
			return false, fmt.Errorf("expert %s has no run in its status", c.expert)
		}
		v = verdict{
			when: time.Now(), summary: policy.Status.Rollout.Summary, trainRun: expert.Status.Runs[0].ID,
			evaluateRun: policy.Status.Rollout.Evaluation.RunID, expertDigest: expert.Status.Artifact.Digest,
		}
		return true, nil
	})
	return v, err
}

// copyVolume copies the volume of the expert's base to a folder here.
func (c cluster) copyVolume(ctx context.Context, to string) error {
	var expert v1alpha1.ExpertVector
	if err := c.get(ctx, "expertvector", c.expert, &expert); err != nil {
		return err
	}
	var claim corev1.PersistentVolumeClaim
	if err := c.get(ctx, "persistentvolumeclaim", expert.Spec.BaseModelRef.Name, &claim); err != nil {
		return err
	}
	var volume corev1.PersistentVolume
	if err := c.get(ctx, "persistentvolume", claim.Spec.VolumeName, &volume); err != nil {
		return err
	}
	if volume.Spec.HostPath == nil {
		return fmt.Errorf("volume %s is no folder of this machine: measure on the cluster of make demo", volume.Name)
	}
	command := append(strings.Fields(c.inside), "cp", "-a", volume.Spec.HostPath.Path+"/.", to)
	_, err := output(ctx, command[0], command[1:]...)
	return err
}

// done is what was done by hand, and how long the Job's container took for the same.
type done struct {
	took, container time.Duration
	digest          v1alpha1.Digest
}

// byHand does with t2 what the Job of a run did.
func (c cluster) byHand(ctx context.Context, run, command, volume string) (done, error) {
	var jobs batchv1.JobList
	if err := c.get(ctx, "jobs", "--selector="+v1alpha1.LabelRun+"="+run, &jobs); err != nil {
		return done{}, err
	}
	if len(jobs.Items) != 1 {
		return done{}, fmt.Errorf("run %s has %d Jobs", run, len(jobs.Items))
	}
	job := jobs.Items[0]
	pod := job.Spec.Template.Spec
	container := pod.Containers[0]
	var spec string
	for _, e := range container.Env {
		if e.Name == "T2_SPEC" {
			spec = e.Value
		}
	}
	for _, mount := range container.VolumeMounts {
		here, err := c.mounted(ctx, pod, mount.Name, volume)
		if err != nil {
			return done{}, err
		}
		if here != "" {
			spec = strings.ReplaceAll(spec, `"`+mount.MountPath+`/`, `"`+here+`/`)
			spec = strings.ReplaceAll(spec, `"`+mount.MountPath+`"`, `"`+here+`"`)
		}
	}
	file := filepath.Join(volume, "spec-"+command+".json")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		return done{}, err
	}
	begun := time.Now()
	said, err := output(ctx, c.t2, command, "--json", "--spec", file)
	d := done{took: time.Since(begun)}
	if err != nil {
		return d, err
	}
	var result contract.Termination
	if err := json.Unmarshal(said, &result); err != nil {
		return d, fmt.Errorf("t2 %s: %w", command, err)
	}
	if result.Expert != nil {
		d.digest = v1alpha1.Digest(result.Expert.Digest)
	}
	d.container, err = c.ran(ctx, job.Name, container.Name)
	return d, err
}

// mounted is the folder here that stands for a volume of a pod; empty for one that has
// nothing that was given.
func (c cluster) mounted(ctx context.Context, pod corev1.PodSpec, name, volume string) (string, error) {
	for _, v := range pod.Volumes {
		switch {
		case v.Name != name:
		case v.PersistentVolumeClaim != nil:
			return volume, nil
		case v.ConfigMap != nil:
			var data corev1.ConfigMap
			if err := c.get(ctx, "configmap", v.ConfigMap.Name, &data); err != nil {
				return "", err
			}
			dir, err := os.MkdirTemp(volume, "given-")
			if err != nil {
				return "", err
			}
			for _, item := range v.ConfigMap.Items {
				if err := os.WriteFile(filepath.Join(dir, item.Path), []byte(data.Data[item.Key]), 0o600); err != nil {
					return "", err
				}
			}
			return dir, nil
		}
	}
	return "", nil
}

// ran is how long the container of a Job took.
func (c cluster) ran(ctx context.Context, job, container string) (time.Duration, error) {
	var pods corev1.PodList
	if err := c.get(ctx, "pods", "--selector="+batchv1.JobNameLabel+"="+job, &pods); err != nil {
		return 0, err
	}
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if end := s.State.Terminated; s.Name == container && end != nil && end.ExitCode == 0 {
				return end.FinishedAt.Sub(end.StartedAt.Time), nil
			}
		}
	}
	return 0, fmt.Errorf("job %s has no pod whose container %s has ended well", job, container)
}
