package desired

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// mounting is a source whose artifact pods mount.
func mounting(base *v1alpha1.BaseModel) {
	base.Spec.Source = v1alpha1.ModelSource{
		OCI: &v1alpha1.OCISource{
			Reference: "registry.example.org/models/tiny@" + digest("7"), PullSecretRef: &v1alpha1.SecretRef{Name: "pull"},
		},
		Delivery: v1alpha1.DeliveryImageVolume,
	}
	base.Spec.Runtime.PodTemplate = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "images"}}}}
}

func TestWholeConfigurationsOfAModelThatIsMounted(t *testing.T) {
	run, err := Decompose(baseModel(mounting), settings)
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "decompose-mounted", run.Job)
	served, err := Deployment(policy(), baseModel(mounting), nil, []byte("token"), settings)
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "serve-mounted", served)
}

// Every container of a pod that reads the model has it; a pod that does not need not run where
// it can be mounted.
func TestPodsMountTheModelThatTheyRead(t *testing.T) {
	base := baseModel(mounting)
	imported := expertVector(func(e *v1alpha1.ExpertVector) {
		e.Spec.Training = nil
		e.Spec.Source = &v1alpha1.ExpertSource{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/e.tgz"}, Digest: v1alpha1.Digest(digest("d"))}
	})
	programs := expertVector(func(e *v1alpha1.ExpertVector) { e.Spec.Training.Objective.Reinforce.Reward = v1alpha1.RewardUnitTests })
	for name, tc := range map[string]struct {
		make   func() (Run, error)
		mounts []string
	}{
		"decomposition": {func() (Run, error) { return Decompose(base, settings) }, []string{ContainerFetch, ContainerDecompose}},
		"training":      {func() (Run, error) { return Expert(programs, base, nil, settings) }, []string{ContainerTrain}},
		"import":        {func() (Run, error) { return Expert(imported, base, nil, settings) }, []string{ContainerImport}},
		"probe": {func() (Run, error) {
			return Probe(probing(), base, PromptSets(probing(), skilled()), nil, map[string]string{"skill-0": digest("9")}, settings)
		}, []string{ContainerProbe}},
		"push":       {func() (Run, error) { return Publish(publishing(), base, settings) }, nil},
		"collection": {func() (Run, error) { return Collect(base, []string{"a"}, time.Unix(0, 0), settings) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			run, err := tc.make()
			if err != nil {
				t.Fatal(err)
			}
			pod := run.Job.Spec.Template.Spec
			var mounts []string
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				for _, m := range c.VolumeMounts {
					if *m.MountPath == contract.MountModel {
						mounts = append(mounts, *c.Name)
						if *m.Name != volumeModel || !*m.ReadOnly {
							t.Errorf("%s mounts %s, read-only %v", *c.Name, *m.Name, *m.ReadOnly)
						}
					}
				}
				if slices.ContainsFunc(c.Args, func(arg string) bool { return strings.Contains(arg, contract.FlagSharedBase) }) {
					t.Errorf("%s puts weights onto the volume: %v", *c.Name, c.Args)
				}
			}
			if !slices.Equal(mounts, tc.mounts) {
				t.Errorf("mounted by %v, want %v", mounts, tc.mounts)
			}
			images := 0
			for _, v := range pod.Volumes {
				if v.Image != nil {
					images++
				}
			}
			if has := images == 1; has != (tc.mounts != nil) {
				t.Errorf("%d image volumes", images)
			}
		})
	}
}

// A model that is copied is fetched by the same Job whether its user says so or not, and one that
// is mounted by another run.
func TestCopiesAreWhatTheyWere(t *testing.T) {
	job := func(delivery v1alpha1.ModelDelivery) Run {
		t.Helper()
		run, err := Decompose(baseModel(mounting, func(b *v1alpha1.BaseModel) { b.Spec.Source.Delivery = delivery }), settings)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	unsaid, said, mounted := job(""), job(v1alpha1.DeliveryCopy), job(v1alpha1.DeliveryImageVolume)
	if said.ID != unsaid.ID || said.JobName != unsaid.JobName {
		t.Errorf("Copy is run %s by Job %s, and without a word %s by %s", said.ID, said.JobName, unsaid.ID, unsaid.JobName)
	}
	if mounted.ID == unsaid.ID {
		t.Error("what is mounted is taken for what was copied")
	}
}
