package desired

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// queueLabel is by which Kueue finds the queue of a Job.
const queueLabel = "kueue.x-k8s.io/queue-name"

// shared is a template with every field.
func shared() *v1alpha1.PodTemplate {
	return &v1alpha1.PodTemplate{
		Metadata: &v1alpha1.PodMetadata{
			Labels:      map[string]v1alpha1.LabelValue{queueLabel: "batch", "team": "nlp"},
			Annotations: map[string]string{"sidecar.istio.io/inject": "false", "note": "shared"},
		},
		Spec: &v1alpha1.PodShape{
			ImagePullSecrets:   []corev1.LocalObjectReference{{Name: "registry"}},
			ServiceAccountName: "runner",
			Affinity: &corev1.Affinity{
				NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
					NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
						{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}},
					}}},
				}},
				PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
					LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cache"}}, TopologyKey: "host",
				}}},
			},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule}},
			PriorityClassName:         "low", SchedulerName: "volcano", RuntimeClassName: "runc",
			NodeSelector:    map[string]string{"disk": "fast", "arch": "amd64"},
			Tolerations:     []corev1.Toleration{{Key: "batch", Operator: corev1.TolerationOpExists}},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)},
			Env:             []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://proxy:3128"}, {Name: "NO_PROXY", Value: ".svc"}},
			Volumes: []v1alpha1.PodVolume{
				{Name: "ca", ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "roots"}}},
				{Name: "cache", EmptyDir: &corev1.EmptyDirVolumeSource{}},
			},
			VolumeMounts: []v1alpha1.PodVolumeMount{{Name: "ca", MountPath: "/etc/ssl/certs", ReadOnly: new(true)}, {Name: "cache", MountPath: "/cache"}},
		},
	}
}

// special is one that says something else in every field.
func special() *v1alpha1.PodTemplate {
	return &v1alpha1.PodTemplate{
		Metadata: &v1alpha1.PodMetadata{
			Labels:      map[string]v1alpha1.LabelValue{queueLabel: "training"},
			Annotations: map[string]string{"note": "special"},
		},
		Spec: &v1alpha1.PodShape{
			ImagePullSecrets:   []corev1.LocalObjectReference{{Name: "registry"}, {Name: "mirror"}},
			ServiceAccountName: "trainer",
			Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
					NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
						{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}},
					}}},
				},
			}},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 2, TopologyKey: "host", WhenUnsatisfiable: corev1.ScheduleAnyway}},
			PriorityClassName:         "high", SchedulerName: "default-scheduler", RuntimeClassName: "nvidia",
			NodeSelector: map[string]string{"disk": "huge"},
			Tolerations: []corev1.Toleration{
				{Key: "batch", Operator: corev1.TolerationOpExists}, {Key: "gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
			},
			SecurityContext: &corev1.PodSecurityContext{},
			Env: []corev1.EnvVar{
				{Name: "NO_PROXY", Value: ".svc,.local"},
				{Name: "LICENCE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: "licence"}, Key: "key",
				}}},
			},
			Volumes:      []v1alpha1.PodVolume{{Name: "cache", PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "cache"}}},
			VolumeMounts: []v1alpha1.PodVolumeMount{{Name: "cache", MountPath: "/cache", SubPath: "math"}},
		},
	}
}

func TestMergeTemplates(t *testing.T) {
	empty := v1alpha1.PodTemplate{Metadata: &v1alpha1.PodMetadata{}, Spec: &v1alpha1.PodShape{}}
	first, second := shared(), special()
	merged := v1alpha1.PodTemplate{
		Metadata: &v1alpha1.PodMetadata{
			Labels:      map[string]v1alpha1.LabelValue{queueLabel: "training", "team": "nlp"},
			Annotations: map[string]string{"sidecar.istio.io/inject": "false", "note": "special"},
		},
		Spec: &v1alpha1.PodShape{
			ImagePullSecrets:          []corev1.LocalObjectReference{{Name: "registry"}, {Name: "mirror"}},
			ServiceAccountName:        "trainer",
			Affinity:                  &corev1.Affinity{NodeAffinity: second.Spec.Affinity.NodeAffinity, PodAffinity: first.Spec.Affinity.PodAffinity},
			TopologySpreadConstraints: append(shared().Spec.TopologySpreadConstraints, second.Spec.TopologySpreadConstraints...),
			PriorityClassName:         "high", SchedulerName: "default-scheduler", RuntimeClassName: "nvidia",
			NodeSelector:    map[string]string{"disk": "huge", "arch": "amd64"},
			Tolerations:     second.Spec.Tolerations, // It repeats the first's.
			SecurityContext: &corev1.PodSecurityContext{},
			Env:             []corev1.EnvVar{first.Spec.Env[0], second.Spec.Env[0], second.Spec.Env[1]},
			Volumes:         []v1alpha1.PodVolume{first.Spec.Volumes[0], second.Spec.Volumes[0]},
			VolumeMounts:    []v1alpha1.PodVolumeMount{first.Spec.VolumeMounts[0], second.Spec.VolumeMounts[0]},
		},
	}
	for _, tc := range []struct {
		name      string
		templates []*v1alpha1.PodTemplate
		want      v1alpha1.PodTemplate
	}{
		{"nothing", []*v1alpha1.PodTemplate{nil, nil}, empty},
		{"nothing said", []*v1alpha1.PodTemplate{{}, {Metadata: &v1alpha1.PodMetadata{}, Spec: &v1alpha1.PodShape{}}}, empty},
		{"the base's alone", []*v1alpha1.PodTemplate{shared(), nil}, *shared()},
		{"the later alone", []*v1alpha1.PodTemplate{nil, shared()}, *shared()},
		{"the later says nothing", []*v1alpha1.PodTemplate{shared(), {Spec: &v1alpha1.PodShape{}}}, *shared()},
		{"both", []*v1alpha1.PodTemplate{first, second}, merged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, mergeTemplates(tc.templates...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff([]*v1alpha1.PodTemplate{shared(), special()}, []*v1alpha1.PodTemplate{first, second}); diff != "" {
		t.Errorf("merging changed a template (-before +after):\n%s", diff)
	}
}

// TestWholePodsOfATemplate compares everything that is applied with golden
// files: a Job whose training says more than its base, and a Deployment.
func TestWholePodsOfATemplate(t *testing.T) {
	base := baseModel(func(b *v1alpha1.BaseModel) { b.Spec.Runtime.PodTemplate = shared() })
	run, err := Expert(expertVector(func(e *v1alpha1.ExpertVector) { e.Spec.Training.PodTemplate = special() }), base, nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	decompose, err := Decompose(base, settings)
	if err != nil {
		t.Fatal(err)
	}
	deployment, err := Deployment(policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.PodTemplate = special() }), base, nil, []byte("token"), settings)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]any{
		"train-podtemplate": run.Job, "decompose-podtemplate": decompose.Job, "serve-podtemplate": deployment,
	} {
		t.Run(name, func(t *testing.T) { compareGolden(t, name, got) })
	}
}

func TestATemplateIsNoPartOfARun(t *testing.T) {
	plain, err := Expert(expertVector(), baseModel(), nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	shaped, err := Expert(expertVector(func(e *v1alpha1.ExpertVector) { e.Spec.Training.PodTemplate = special() }),
		baseModel(func(b *v1alpha1.BaseModel) { b.Spec.Runtime.PodTemplate = shared() }), nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	if plain.ID != shaped.ID {
		t.Error("a template trains again")
	}
	if plain.JobName == shaped.JobName {
		t.Error("the run cannot go on in another pod, because its Job has the same name")
	}
	unshaped, err := Decompose(baseModel(), settings)
	if err != nil {
		t.Fatal(err)
	}
	decompose, err := Decompose(baseModel(func(b *v1alpha1.BaseModel) { b.Spec.Runtime.PodTemplate = shared() }), settings)
	if err != nil {
		t.Fatal(err)
	}
	if unshaped.ID != decompose.ID {
		t.Error("a template decomposes again")
	}
}

// TestLabelsOfTheOperatorWin though the schema refuses them in a template.
func TestLabelsOfTheOperatorWin(t *testing.T) {
	base := baseModel(func(b *v1alpha1.BaseModel) {
		b.Spec.Runtime.PodTemplate = &v1alpha1.PodTemplate{Metadata: &v1alpha1.PodMetadata{
			Labels: map[string]v1alpha1.LabelValue{v1alpha1.LabelManagedBy: "somebody", v1alpha1.LabelRun: "none"},
		}}
	})
	run, err := Expert(expertVector(), base, nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	for _, labels := range []map[string]string{run.Job.Labels, run.Job.Spec.Template.Labels} {
		if labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy || labels[v1alpha1.LabelRun] != run.ID {
			t.Errorf("labels %v", labels)
		}
	}
}

func TestSecurityContext(t *testing.T) {
	restricted := func() *coreac.PodSecurityContextApplyConfiguration {
		return coreac.PodSecurityContext().WithRunAsNonRoot(true).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	}
	for _, tc := range []struct {
		name  string
		given *corev1.PodSecurityContext
		want  *coreac.PodSecurityContextApplyConfiguration
	}{
		{"the operator's", nil, restricted().WithRunAsUser(65532).WithRunAsGroup(65532).WithFSGroup(65532).
			WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch)},
		{"left to the platform", &corev1.PodSecurityContext{}, restricted()},
		{"as given", &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), FSGroup: ptr.To[int64](2000)},
			restricted().WithRunAsUser(1000).WithFSGroup(2000)},
		{"what is given is not filled in", &corev1.PodSecurityContext{
			RunAsNonRoot: new(false), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
		}, coreac.PodSecurityContext().WithRunAsNonRoot(false).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeUnconfined))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := securityContext(tc.given)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOneVolumeForAClaim has claims that the model and a data set use in a
// template too.
func TestOneVolumeForAClaim(t *testing.T) {
	claim := func(name string) *corev1.PersistentVolumeClaimVolumeSource {
		return &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}
	}
	expert := expertVector(func(e *v1alpha1.ExpertVector) {
		e.Spec.Training.Dataset.Train = v1alpha1.Dataset{
			PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: "train.jsonl"}, Format: v1alpha1.FormatGSM8K,
		}
		e.Spec.Training.PodTemplate = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{
			Volumes: []v1alpha1.PodVolume{
				{Name: "model", PersistentVolumeClaim: claim("tiny")}, {Name: "mine", PersistentVolumeClaim: claim("sets")},
				{Name: "again", PersistentVolumeClaim: claim("sets")},
			},
			VolumeMounts: []v1alpha1.PodVolumeMount{
				{Name: "model", MountPath: "/model"}, {Name: "mine", MountPath: "/mine"}, {Name: "again", MountPath: "/again"},
			},
		}}
	})
	run, err := Expert(expert, baseModel(), nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	pod := run.Job.Spec.Template.Spec
	var volumes, mounts []string
	for _, v := range pod.Volumes {
		if v.PersistentVolumeClaim != nil {
			volumes = append(volumes, *v.Name+"="+*v.PersistentVolumeClaim.ClaimName)
		}
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if *m.Name != volumeTmp {
			mounts = append(mounts, *m.Name+":"+*m.MountPath)
		}
	}
	if diff := cmp.Diff("data=tiny mine=sets", strings.Join(volumes, " ")); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("data:/data data:/model mine:/mine mine:/again mine:/dataset/train", strings.Join(mounts, " ")); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}
