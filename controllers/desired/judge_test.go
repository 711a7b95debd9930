package desired

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// A judge is beside a trainer whose reward runs programs, and beside no other. It
// has nothing but the socket: no volume of the model or of users, and none of the
// variables that a pod template gives to the other containers.
func TestAJudgeIsBesideTheTrainerThatNeedsOne(t *testing.T) {
	template := &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{
		Env:          []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://proxy:3128"}},
		Volumes:      []v1alpha1.PodVolume{{Name: "roots", ConfigMap: &corev1.ConfigMapVolumeSource{}}},
		VolumeMounts: []v1alpha1.PodVolumeMount{{Name: "roots", MountPath: "/etc/ssl/certs"}},
	}}
	for _, tc := range []struct {
		reward v1alpha1.Reward
		want   bool
	}{
		{v1alpha1.RewardExactMatch, false},
		{v1alpha1.RewardNumeric, false},
		{v1alpha1.RewardMultipleChoice, false},
		{v1alpha1.RewardMath, false},
		{v1alpha1.RewardUnitTests, true},
	} {
		t.Run(string(tc.reward), func(t *testing.T) {
			expert := expertVector(func(e *v1alpha1.ExpertVector) {
				e.Spec.Training.Objective.Reinforce.Reward = tc.reward
				e.Spec.Training.PodTemplate = template
			})
			run, err := Expert(expert, baseModel(), nil, settings)
			if err != nil {
				t.Fatal(err)
			}
			pod := run.Job.Spec.Template.Spec
			trainer := pod.Containers[0]
			named := func(name string) func(coreac.EnvVarApplyConfiguration) bool {
				return func(e coreac.EnvVarApplyConfiguration) bool { return *e.Name == name }
			}
			if got := slices.ContainsFunc(trainer.Env, named(contract.EnvJudge)); got != tc.want {
				t.Errorf("the trainer is told where its judge is: %v", got)
			}
			if !slices.ContainsFunc(trainer.Env, named("HTTPS_PROXY")) {
				t.Error("the trainer lacks the template's variable")
			}
			if got := len(pod.InitContainers) == 1; got != tc.want {
				t.Fatalf("%d init containers", len(pod.InitContainers))
			}
			if !tc.want {
				return
			}
			judge := pod.InitContainers[0]
			if *judge.Image != settings.JudgeImage || *judge.RestartPolicy != corev1.ContainerRestartPolicyAlways {
				t.Errorf("image %s, restarted %s", *judge.Image, *judge.RestartPolicy)
			}
			if len(judge.Env) != 0 || len(judge.VolumeMounts) != 1 || *judge.VolumeMounts[0].MountPath != contract.MountJudge {
				t.Errorf("the judge has the variables %v and %d mounts", judge.Env, len(judge.VolumeMounts))
			}
		})
	}
}
