package controllers

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
)

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		// want is how the settings differ from the defaults; wrong is in the error.
		want  func(*desired.Settings)
		wrong string
	}{
		{name: "none", want: func(*desired.Settings) {}},
		{
			name: "other images",
			args: []string{"--runtime-image=example.org/t2:1", "--judge-image", "example.org/judge:1", "--cuda-runtime-image=example.org/t2-cuda:1"},
			want: func(s *desired.Settings) {
				s.RuntimeImage, s.CUDARuntimeImage, s.JudgeImage = "example.org/t2:1", "example.org/t2-cuda:1", "example.org/judge:1"
			},
		},
		{
			name: "another GPU, whose taint is tolerated", args: []string{"--gpu-resource=nvidia.com/mig-3g.40gb"},
			want: func(s *desired.Settings) {
				s.GPUResource, s.GPUTolerations[0].Key = "nvidia.com/mig-3g.40gb", "nvidia.com/mig-3g.40gb"
			},
		},
		{
			name: "other nodes", args: []string{"--gpu-runtime-class=nvidia", "--gpu-toleration=pool=gpu:NoExecute", "--gpu-toleration=dedicated"},
			want: func(s *desired.Settings) {
				s.GPURuntimeClass = "nvidia"
				s.GPUTolerations = []corev1.Toleration{
					{Key: "pool", Operator: corev1.TolerationOpEqual, Value: "gpu", Effect: corev1.TaintEffectNoExecute},
					{Key: "dedicated", Operator: corev1.TolerationOpExists},
				}
			},
		},
		{name: "no toleration", args: []string{"--gpu-toleration="}, want: func(s *desired.Settings) { s.GPUTolerations = []corev1.Toleration{} }},
		{name: "a toleration of nothing", args: []string{"--gpu-toleration=:NoSchedule"}, wrong: `"" is not the key of a taint`},
		{name: "a toleration of a value that is none", args: []string{"--gpu-toleration=pool=a b"}, wrong: `"a b" is not the value of a taint`},
		{name: "a toleration of an effect that is none", args: []string{"--gpu-toleration=pool:Never"}, wrong: "it is NoSchedule, PreferNoSchedule or NoExecute"},
		{name: "no image of the runtime for CUDA", args: []string{"--cuda-runtime-image="}, wrong: "--cuda-runtime-image is empty"},
		{name: "no GPU", args: []string{"--gpu-resource="}, wrong: "--gpu-resource is empty"},
		{name: "a GPU of nobody", args: []string{"--gpu-resource=gpu"}, wrong: `--gpu-resource "gpu" is not the name`},
		{name: "a GPU with two names", args: []string{"--gpu-resource=a/b/c"}, wrong: `--gpu-resource "a/b/c" is not the name`},
		{name: "no image of the runtime", args: []string{"--runtime-image="}, wrong: "--runtime-image is empty"},
		{name: "no image of the judge", args: []string{"--judge-image="}, wrong: "--judge-image is empty"},
		{name: "an argument too many", args: []string{"--leader-elect", "true"}, wrong: `unexpected argument "true"`},
		{name: "a flag that is none", args: []string{"--replicas=2"}, wrong: "replicas"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := parse(tc.args, io.Discard)
			if tc.wrong != "" {
				if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("got %v, want wrong usage that says %q", err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := desired.Settings{
				RuntimeImage: DefaultRuntimeImage, CUDARuntimeImage: DefaultCUDARuntimeImage, JudgeImage: DefaultJudgeImage,
				GPUResource:    desired.DefaultGPUResource,
				GPUTolerations: []corev1.Toleration{{Key: desired.DefaultGPUResource, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
			}
			tc.want(&want)
			if diff := cmp.Diff(want, f.settings); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	for _, tc := range []struct {
		name, arg string
		want      []string
		wrong     string
	}{
		{name: "one", arg: "a", want: []string{"a"}},
		{name: "two", arg: "team-a, team-b", want: []string{"team-a", "team-b"}},
		{name: "all", arg: ""},
		{name: "one that is empty", arg: "a,", wrong: `"" is not the name of a namespace`},
		{name: "one that is no name", arg: "Team_A", wrong: `"Team_A" is not the name of a namespace`},
		{name: "one twice", arg: "a,b,a", wrong: `"a" is named twice`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := parse([]string{"--namespaces=" + tc.arg}, io.Discard)
			if tc.wrong != "" {
				if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("got %v, want wrong usage that says %q", err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, []string(f.namespaces)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			options := CacheOptions(f.namespaces...)
			if len(options.DefaultNamespaces) != len(tc.want) {
				t.Errorf("the cache has the namespaces %v, want %v", options.DefaultNamespaces, tc.want)
			}
			for object, by := range options.ByObject {
				if by.Namespaces != nil {
					t.Errorf("of %T other namespaces are read: %v", object, by.Namespaces)
				}
			}
		})
	}
}

func TestHelpIsNoMistake(t *testing.T) {
	var text strings.Builder
	if err := Run(t.Context(), []string{"-h"}, &text); err != nil {
		t.Errorf("got %v", err)
	}
	for _, flag := range []string{"-judge-image", "-cuda-runtime-image", "-gpu-resource", "-gpu-toleration taint", "-namespaces names"} {
		if !strings.Contains(text.String(), flag) {
			t.Errorf("%s is not named:\n%s", flag, &text)
		}
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v, want %v", err, flag.ErrHelp)
	}
}

// The cache holds of what a cluster has much of only what the operator made.
func TestTheCacheHoldsTheOperatorsOwn(t *testing.T) {
	own := apilabels.Set{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}
	options := CacheOptions()
	for object, by := range options.ByObject {
		switch object.(type) {
		case *batchv1.Job, *corev1.Pod, *appsv1.Deployment, *corev1.Service, *policyv1.PodDisruptionBudget:
			if by.Label == nil || !by.Label.Matches(own) || by.Label.Matches(apilabels.Set{}) {
				t.Errorf("of %T those are held: %v", object, by.Label)
			}
		case *corev1.ConfigMap:
			if by.Label != nil || by.Transform == nil {
				t.Errorf("of ConfigMaps, which users make, only those are held: %v", by.Label)
			}
		default:
			t.Errorf("%T has no case here", object)
		}
	}
}

func TestOfAConfigMapNameAndVersionAreHeld(t *testing.T) {
	full := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "sums", Namespace: "demo", UID: "uid", ResourceVersion: "7", Labels: map[string]string{"team": "a"},
		Annotations:   map[string]string{corev1.LastAppliedConfigAnnotation: strings.Repeat("x", 1<<10)},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}}
	want := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "sums", Namespace: "demo", UID: "uid", ResourceVersion: "7", Labels: map[string]string{"team": "a"},
	}}
	got, err := bare(full)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	gone := toolscache.DeletedFinalStateUnknown{Key: "demo/sums"}
	if got, err := bare(gone); err != nil || got != gone {
		t.Errorf("what tells that one is gone becomes %v, %v", got, err)
	}
}

func TestTheSchemeKnowsWhatTheOperatorWrites(t *testing.T) {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range []client.Object{
		&v1alpha1.BaseModel{}, &v1alpha1.ExpertVector{}, &v1alpha1.AdaptivePolicy{},
		&batchv1.Job{}, &appsv1.Deployment{}, &corev1.Service{}, &corev1.ConfigMap{}, &corev1.PersistentVolumeClaim{}, &corev1.Event{},
		&policyv1.PodDisruptionBudget{},
	} {
		if kinds, _, err := scheme.ObjectKinds(object); err != nil || len(kinds) != 1 {
			t.Errorf("%T is %v: %v", object, kinds, err)
		}
	}
}
