package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// needs are resources with limits of these quantities, by name; cpu is requested.
func needs(limits ...string) *corev1.ResourceRequirements {
	r := &corev1.ResourceRequirements{}
	for i := 0; i < len(limits); i += 2 {
		list, name := &r.Limits, corev1.ResourceName(limits[i])
		if name == corev1.ResourceCPU {
			list = &r.Requests
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = resource.MustParse(limits[i+1])
	}
	return r
}

func requests(name, quantity string) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceName(name): resource.MustParse(quantity)}}
}

// TestWhatComputes is the table by which a backend is chosen, and what follows of
// GPUs: what a base says, what its training or serving says, and what their pod has.
func TestWhatComputes(t *testing.T) {
	const cpu, cuda, auto = v1alpha1.BackendCPU, v1alpha1.BackendCUDA, v1alpha1.BackendAuto
	gpu, mig := DefaultGPUResource, "nvidia.com/mig-3g.40gb"
	claim := &v1alpha1.GPU{ResourceClaimTemplateName: "h100"}
	named := func(name string) *v1alpha1.GPU { return &v1alpha1.GPU{ResourceName: name} }
	for _, tc := range []struct {
		name          string
		base, own     wish
		want          v1alpha1.Backend
		wantResources *corev1.ResourceRequirements
		wantClaim     string
	}{
		{name: "nothing said", want: cpu},
		{name: "Auto, and no GPU", base: wish{backend: auto, resources: needs("cpu", "8", "memory", "1Gi")}, want: cpu, wantResources: needs("cpu", "8", "memory", "1Gi")},
		{name: "Auto, and a GPU", base: wish{backend: auto, resources: needs(gpu, "1")}, want: cuda, wantResources: needs(gpu, "1")},
		{name: "Auto, and a GPU that is only requested", base: wish{resources: requests(gpu, "1")}, want: cuda, wantResources: &corev1.ResourceRequirements{
			Requests: requests(gpu, "1").Requests, Limits: needs(gpu, "1").Limits,
		}},
		{name: "Auto, and no GPU by name", base: wish{backend: auto, resources: needs(gpu, "0", "memory", "1Gi")}, want: cpu, wantResources: needs("memory", "1Gi")},
		{name: "Auto, and a part of a GPU", base: wish{resources: needs(mig, "1")}, want: cuda, wantResources: needs(mig, "1")},
		{name: "Auto, and a share of a GPU's time", base: wish{resources: needs("nvidia.com/gpu.shared", "1")}, want: cuda, wantResources: needs("nvidia.com/gpu.shared", "1")},
		{name: "Auto, and what is no GPU", base: wish{resources: needs("nvidia.com/hostdev", "1")}, want: cpu, wantResources: needs("nvidia.com/hostdev", "1")},
		{name: "Auto, and a claim", base: wish{backend: auto, gpu: claim}, want: cuda, wantClaim: "h100"},
		{name: "Auto, and a GPU of another name", base: wish{gpu: named("example.org/gpu")}, want: cuda, wantResources: needs("example.org/gpu", "1")},
		{name: "CPU", base: wish{backend: cpu}, want: cpu},
		{name: "CUDA has one GPU", base: wish{backend: cuda}, want: cuda, wantResources: needs(gpu, "1")},
		{name: "CUDA has one GPU beside the rest", base: wish{backend: cuda, resources: needs("cpu", "8", "memory", "1Gi")}, want: cuda, wantResources: needs("cpu", "8", "memory", "1Gi", gpu, "1")},
		{name: "CUDA has the GPUs that are asked for", base: wish{backend: cuda, resources: needs(gpu, "2")}, want: cuda, wantResources: needs(gpu, "2")},
		{name: "CUDA has its GPU in another way", base: wish{backend: cuda, resources: needs(gpu, "0")}, want: cuda, wantResources: needs(gpu, "0")},
		{name: "CUDA has a part of a GPU", base: wish{backend: cuda, gpu: named(mig), resources: needs("memory", "1Gi")}, want: cuda, wantResources: needs("memory", "1Gi", mig, "1")},

		{name: "a training as its base", base: wish{backend: cuda, resources: needs("memory", "1Gi")}, own: wish{resources: needs("memory", "2Gi")}, want: cuda, wantResources: needs("memory", "2Gi", gpu, "1")},
		{name: "a training with CUDA", base: wish{resources: needs("memory", "1Gi")}, own: wish{backend: cuda}, want: cuda, wantResources: needs("memory", "1Gi", gpu, "1")},
		{name: "a training on CPUs has nothing of its base's GPU", base: wish{backend: cuda, resources: needs("memory", "1Gi", gpu, "1")}, own: wish{backend: cpu}, want: cpu, wantResources: needs("memory", "1Gi")},
		{name: "nor of its claim", base: wish{gpu: claim}, own: wish{backend: cpu}, want: cpu},
		{name: "a training without a GPU of a base with Auto", base: wish{backend: auto, resources: needs(gpu, "1")}, own: wish{resources: needs("memory", "2Gi")}, want: cpu, wantResources: needs("memory", "2Gi")},
		{name: "a training that asks for a GPU though its base computes on CPUs", base: wish{backend: cpu}, own: wish{resources: needs(gpu, "1")}, want: cuda, wantResources: needs(gpu, "1")},
		{name: "by a claim", base: wish{backend: cpu, resources: needs("memory", "1Gi")}, own: wish{gpu: claim}, want: cuda, wantResources: needs("memory", "1Gi"), wantClaim: "h100"},
		{name: "a training that says that it has no GPU leaves the backend to its base", base: wish{backend: cuda}, own: wish{resources: needs(gpu, "0")}, want: cuda, wantResources: needs(gpu, "0")},
		{name: "Auto again, of a base with CUDA", base: wish{backend: cuda}, own: wish{backend: auto}, want: cpu},
		{name: "a training's claim replaces its base's GPU", base: wish{resources: needs("memory", "1Gi", gpu, "1")}, own: wish{gpu: claim}, want: cuda, wantResources: needs("memory", "1Gi"), wantClaim: "h100"},
		{name: "a training's GPU replaces its base's claim", base: wish{gpu: claim}, own: wish{resources: needs(gpu, "1")}, want: cuda, wantResources: needs(gpu, "1")},
		{name: "a training's part of a GPU replaces its base's GPU", base: wish{resources: needs(gpu, "1")}, own: wish{gpu: named(mig)}, want: cuda, wantResources: needs(mig, "1")},
		{name: "another GPU than its base names", base: wish{gpu: named("example.org/gpu")}, own: wish{gpu: named(mig), resources: needs("example.org/gpu", "1")}, want: cuda, wantResources: needs(mig, "1")},
		{name: "two of the GPU that its base names", base: wish{gpu: named("example.org/gpu")}, own: wish{resources: needs("example.org/gpu", "2")}, want: cuda, wantResources: needs("example.org/gpu", "2")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := baseModel(func(b *v1alpha1.BaseModel) {
				b.Spec.Runtime = v1alpha1.RuntimeSpec{Backend: tc.base.backend, GPU: tc.base.gpu, Resources: tc.base.resources}
			})
			before := b.DeepCopy()
			got := compute(b, tc.own, settings)
			if got.backend != tc.want || got.claimTemplate != tc.wantClaim {
				t.Errorf("%s with claim %q, want %s with %q", got.backend, got.claimTemplate, tc.want, tc.wantClaim)
			}
			if diff := cmp.Diff(tc.wantResources, got.resources); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
			image, tolerated := settings.RuntimeImage, 0
			if tc.want == cuda {
				image, tolerated = settings.CUDARuntimeImage, len(settings.GPUTolerations)
			}
			if template := mergeTemplates(got.template); got.image != image || len(template.Spec.Tolerations) != tolerated {
				t.Errorf("image %s and tolerations %v", got.image, template.Spec.Tolerations)
			}
			if plain := beside(b, settings); plain.image != settings.RuntimeImage || (gpuResources{"example.org/gpu"}).named(plain.resources) || plain.claimTemplate != "" {
				t.Errorf("what computes nothing has %+v", plain)
			}
			if diff := cmp.Diff(before, b); diff != "" {
				t.Errorf("the base was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// A GPU that the operator was told of is one, whatever it is called, and an image
// that a base names is used by all of its pods.
func TestTheOperatorsOwnGPUAndABasesOwnImage(t *testing.T) {
	mine := settings
	mine.GPUResource = "example.org/gpu"
	b := baseModel(func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.Image, b.Spec.Runtime.Resources = "example.org/t2-cuda:1", needs("example.org/gpu", "1")
	})
	if got := compute(b, wish{}, mine); got.backend != v1alpha1.BackendCUDA || got.image != "example.org/t2-cuda:1" {
		t.Errorf("got %+v", got)
	}
	if got := beside(b, mine); got.image != "example.org/t2-cuda:1" || len(got.resources.Limits) != 0 {
		t.Errorf("what computes nothing has %+v", got)
	}
	b.Spec.Runtime = v1alpha1.RuntimeSpec{Backend: v1alpha1.BackendCUDA}
	if diff := cmp.Diff(needs("example.org/gpu", "1"), compute(b, wish{}, mine).resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
}

// TestWholePodsWithGPUs compares everything that is applied with golden files: a
// decomposition of a base with a GPU, whose fetch and imports have none, a training
// with a claim, and a serving whose template says more of its nodes.
func TestWholePodsWithGPUs(t *testing.T) {
	base := baseModel(func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.Backend, b.Spec.Runtime.Resources = v1alpha1.BackendCUDA, needs("cpu", "8", "memory", "64Gi", DefaultGPUResource, "1")
	})
	decompose, err := Decompose(base, settings)
	if err != nil {
		t.Fatal(err)
	}
	train, err := Expert(expertVector(func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "h100"}
		e.Spec.Training.Objective.Reinforce.Reward = v1alpha1.RewardUnitTests
	}), base, nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := Expert(expertVector(func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = nil
		e.Spec.Source = &v1alpha1.ExpertSource{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/z.safetensors"}, Digest: v1alpha1.Digest(digest("d"))}
	}), base, nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	serve, err := Deployment(policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Serving.GPU = &v1alpha1.GPU{ResourceName: "nvidia.com/mig-3g.40gb"}
		p.Spec.Serving.PodTemplate = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{
			RuntimeClassName: "nvidia-cdi", Tolerations: []corev1.Toleration{{Key: "pool", Operator: corev1.TolerationOpExists}},
		}}
	}), base, nil, []byte("token"), settings)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]any{
		"decompose-cuda": decompose.Job, "train-cuda-claim": train.Job, "import-cuda": imported.Job, "serve-cuda": serve,
	} {
		t.Run(name, func(t *testing.T) { compareGolden(t, name, got) })
	}
}

// What computes is no part of what a decomposition is.
func TestAGPUDecomposesNothingAgain(t *testing.T) {
	plain, err := Decompose(baseModel(), settings)
	if err != nil {
		t.Fatal(err)
	}
	cuda, err := Decompose(baseModel(func(b *v1alpha1.BaseModel) { b.Spec.Runtime.Backend = v1alpha1.BackendCUDA }), settings)
	if err != nil {
		t.Fatal(err)
	}
	if plain.ID != cuda.ID || plain.JobName == cuda.JobName {
		t.Errorf("run %s by Job %s, and by CUDA run %s by Job %s", plain.ID, plain.JobName, cuda.ID, cuda.JobName)
	}
}
