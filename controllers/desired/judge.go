package desired

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/runtime/contract"
)

// ContainerJudge runs the programs that a model has written.
const ContainerJudge = "judge"

// volumeJudge holds the socket between a trainer and its judge.
const volumeJudge = "judge"

// judgeResources bound the judge. It runs as many programs side by side as it
// may use processors, each of which, with its tests, has at most half a GiB.
func judgeResources() *coreac.ResourceRequirementsApplyConfiguration {
	return coreac.ResourceRequirements().
		WithRequests(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("256Mi"),
		}).
		WithLimits(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1536Mi"),
		})
}

// judge returns the container beside a trainer whose reward runs programs, and
// tells the trainer where it is; for other rewards there is none. It is an init
// container that goes on, so that it is there before the trainer, does not keep
// the Job from ending, and is restarted if a program brings it down. It has
// neither the model's volume nor the data sets: nothing but the socket.
func (p *podBuilder) judge(reward string, trainer *coreac.ContainerApplyConfiguration) []*coreac.ContainerApplyConfiguration {
	if reward != contract.RewardUnitTests {
		return nil
	}
	trainer.
		WithEnv(coreac.EnvVar().WithName(contract.EnvJudge).WithValue(contract.JudgeSocket)).
		WithVolumeMounts(p.emptyDir(volumeJudge, contract.MountJudge))
	judge := coreac.Container().
		WithName(ContainerJudge).
		WithImage(p.settings.JudgeImage).
		WithImagePullPolicy(*trainer.ImagePullPolicy).
		WithRestartPolicy(corev1.ContainerRestartPolicyAlways).
		WithArgs("--socket=" + contract.JudgeSocket).
		WithVolumeMounts(p.emptyDir(volumeJudge, contract.MountJudge)).
		WithResources(judgeResources()).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithSecurityContext(coreac.SecurityContext().
			WithAllowPrivilegeEscalation(false).
			WithReadOnlyRootFilesystem(true).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL")))
	return []*coreac.ContainerApplyConfiguration{judge}
}
