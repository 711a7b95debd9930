package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
)

const root = "../../../.."

// TestTheRoleIsTheOperators: hack/generate.sh copies it.
func TestTheRoleIsTheOperators(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "config", "rbac", "role.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(b), string(roleYAML)); diff != "" {
		t.Errorf("role.yaml is not config/rbac's: run make generate\n%s", diff)
	}
	rights, err := needed()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []right{{"batch", "jobs", "", "create"}, {v1alpha1.GroupName, "basemodels", "status", "patch"}, {"", "secrets", "", "get"}} {
		if !slices.Contains(rights, want) {
			t.Errorf("%s is not among the %d rights", want, len(rights))
		}
	}
}

// parsed are the CRDs of config/crd, which take a second to parse.
var parsed = sync.OnceValues(func() (list []*unstructured.Unstructured, err error) {
	for _, k := range kinds {
		b, err := os.ReadFile(filepath.Join(root, "config", "crd", "bases", v1alpha1.GroupName+"_"+k.plural+".yaml"))
		if err != nil {
			return nil, err
		}
		crd := &unstructured.Unstructured{}
		if b, err = yaml.YAMLToJSON(b); err == nil {
			err = crd.UnmarshalJSON(b) // With numbers as the API server sends them.
		}
		if err != nil {
			return nil, err
		}
		list = append(list, crd)
	}
	return list, nil
})

// crds are those of config/crd, established.
func crds(t *testing.T) []client.Object {
	t.Helper()
	list, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	var objects []client.Object
	for _, crd := range list {
		crd = crd.DeepCopy()
		set(t, crd, []any{map[string]any{"type": "Established", "status": "True"}}, "status", "conditions")
		objects = append(objects, crd)
	}
	return objects
}

func set(t *testing.T, u *unstructured.Unstructured, value any, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(u.Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

// healthy is a cluster where nothing fails.
func healthy(t *testing.T) []client.Object {
	return append(crds(t),
		&appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "t2-controller-manager", Namespace: "t2-system", Labels: map[string]string{v1alpha1.LabelName: v1alpha1.AppName, v1alpha1.LabelComponent: componentManager}},
			Spec: appsv1.DeploymentSpec{Replicas: new(int32(1)), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				ServiceAccountName: "t2-controller-manager",
				Containers:         []corev1.Container{{Image: "r.example/manager:v1", Args: []string{"--leader-elect", "--runtime-image=r.example/t2:v1", "--cuda-runtime-image", "r.example/t2-cuda:v1", "--judge-image=r.example/judge:v1"}}},
			}}},
			Status: appsv1.DeploymentStatus{ReadyReplicas: 1},
		},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast", Annotations: map[string]string{annotationDefaultClass: "true"}}, Provisioner: "p.example", VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer)},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: "p.example", VolumeBindingMode: new(storagev1.VolumeBindingImmediate)},
		node("a"), node("b"),
	)
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{}}}
}

func base(name string, change func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	b := &v1alpha1.BaseModel{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "team", UID: "u-1"}}
	if change != nil {
		change(b)
	}
	return b
}

func claim(name string, phase corev1.PersistentVolumeClaimPhase, class string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "team", Labels: map[string]string{v1alpha1.LabelBaseModel: "tiny"}, Annotations: map[string]string{v1alpha1.AnnotationOwner: "u-1"}},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: phase, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")}},
	}
}

// access answers reviews: nobody may what is denied.
type access struct {
	denied []string
	// forbidden are the kinds of which nothing may be read or asked.
	forbidden []string
}

func (a access) patient(t *testing.T, objects []client.Object) Patient {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	may := func(r *authorizationv1.ResourceAttributes) bool {
		return !slices.Contains(a.denied, right{r.Group, r.Resource, r.Subresource, r.Verb}.String())
	}
	refuse := func(obj any) error {
		for _, kind := range a.forbidden {
			if strings.HasSuffix(fmt.Sprintf("%T", obj), "."+kind) || isUnstructured(obj, kind) {
				return apierrors.NewForbidden(schema.GroupResource{Resource: strings.ToLower(kind)}, "x", fmt.Errorf("no right"))
			}
		}
		return nil
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.CreateOption) error {
			switch r := obj.(type) {
			case *authorizationv1.SelfSubjectAccessReview:
				r.Status.Allowed = may(r.Spec.ResourceAttributes)
			case *authorizationv1.SubjectAccessReview:
				if r.Spec.User != "system:serviceaccount:t2-system:t2-controller-manager" || r.Spec.ResourceAttributes.Namespace != "team" {
					t.Errorf("asked of %s in %s", r.Spec.User, r.Spec.ResourceAttributes.Namespace)
				}
				r.Status.Allowed = may(r.Spec.ResourceAttributes)
			default:
				t.Errorf("the doctor creates a %T", obj)
			}
			return refuse(obj)
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if err := refuse(obj); err != nil {
				return err
			}
			return c.Get(ctx, key, obj, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := refuse(list); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
	}).Build()
	return Patient{Client: c, Namespace: "team", Version: func(context.Context) (*version.Info, error) {
		return &version.Info{Major: "1", Minor: "37+", GitVersion: "v1.37.2"}, nil
	}}
}

func isUnstructured(obj any, kind string) bool {
	u, ok := obj.(*unstructured.Unstructured)
	return ok && u.GetKind() == kind
}

func TestNothingFailsInAHealthyCluster(t *testing.T) {
	findings, err := Examine(t.Context(), access{}.patient(t, healthy(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Level != OK {
			t.Errorf("%+v", f)
		}
	}
	if Worst(findings) != OK || len(findings) < 10 {
		t.Errorf("%s of %d findings", Worst(findings), len(findings))
	}
}

func TestFindings(t *testing.T) {
	cuda := func(b *v1alpha1.BaseModel) { b.Spec.Runtime.Backend = v1alpha1.BackendCUDA }
	without := func(objects []client.Object, kind string) []client.Object {
		return slices.DeleteFunc(objects, func(o client.Object) bool { return strings.HasSuffix(fmt.Sprintf("%T", o), "."+kind) })
	}
	deployment := func(objects []client.Object, change func(*appsv1.Deployment)) []client.Object {
		for _, o := range objects {
			if d, ok := o.(*appsv1.Deployment); ok {
				change(d)
			}
		}
		return objects
	}
	for _, test := range []struct {
		name     string
		access   access
		objects  func([]client.Object) []client.Object
		minor    string
		operator string
		level    Level
		says     string
	}{
		{name: "an old server", minor: "32", level: Failed, says: "older than 1.33"},
		{name: "a new server", minor: "99", level: Note, says: "newer than"},
		{name: "a strange server", minor: "x", level: Unknown, says: "none that is known"},
		{name: "no CRDs", objects: func(o []client.Object) []client.Object { return without(o, "Unstructured") }, level: Failed, says: "basemodels.transformersquared.dev is not installed"},
		{name: "a CRD that is not established", objects: func(o []client.Object) []client.Object {
			set(t, o[1].(*unstructured.Unstructured), []any{}, "status", "conditions")
			return o
		}, level: Failed, says: "expertvectors.transformersquared.dev is not established"},
		{name: "an older CRD", objects: func(o []client.Object) []client.Object {
			crd := o[2].(*unstructured.Unstructured)
			versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
			unstructured.RemoveNestedField(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "spec", "properties", "rollout")
			set(t, crd, versions, "spec", "versions")
			return o
		}, level: Warning, says: "older than this plugin: it lacks spec.rollout"},
		{name: "a newer CRD", objects: func(o []client.Object) []client.Object {
			crd := o[0].(*unstructured.Unstructured)
			versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
			if err := unstructured.SetNestedField(versions[0].(map[string]any), "string", "schema", "openAPIV3Schema", "properties", "spec", "properties", "storage", "properties", "later", "type"); err != nil {
				t.Fatal(err)
			}
			set(t, crd, versions, "spec", "versions")
			return o
		}, level: Note, says: "does not know spec.storage.later"},
		{name: "a CRD of another version", objects: func(o []client.Object) []client.Object {
			set(t, o[0].(*unstructured.Unstructured), []any{}, "spec", "versions")
			return o
		}, level: Failed, says: "does not serve v1alpha1"},
		{name: "CRDs that may not be read", access: access{forbidden: []string{"CustomResourceDefinition"}}, level: OK, says: "you may not read its schema"},
		{name: "no operator", objects: func(o []client.Object) []client.Object { return without(o, "Deployment") }, level: Failed, says: "there is no Deployment of it"},
		{name: "no operator there", operator: "elsewhere", level: Failed, says: "in namespace elsewhere"},
		{name: "an operator that may not be seen", access: access{forbidden: []string{"DeploymentList"}}, level: Unknown, says: "you may not look at it"},
		{name: "an operator scaled to zero", objects: func(o []client.Object) []client.Object {
			return deployment(o, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
		}, level: Failed, says: "scaled to zero"},
		{name: "an operator that is not ready", objects: func(o []client.Object) []client.Object {
			return deployment(o, func(d *appsv1.Deployment) {
				d.Status = appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota"}}}
			})
		}, level: Failed, says: "has no ready pod: exceeded quota"},
		{name: "an operator of other namespaces", objects: func(o []client.Object) []client.Object {
			return deployment(o, func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Args = []string{"--namespaces=a,b"}
			})
		}, level: Failed, says: "looks at the namespaces a,b alone, not at team"},
		{name: "an operator without a right", access: access{denied: []string{"create jobs.batch"}}, level: Failed, says: "may not, in namespace team: create jobs.batch"},
		{name: "reviews that are not ours to make", access: access{forbidden: []string{"SubjectAccessReview"}}, level: Unknown, says: "you may not look at it"},
		{name: "a user who may only read", access: access{denied: []string{"create pods/portforward"}}, level: Warning, says: "you cannot ask pods: no right to create pods/portforward"},
		{name: "a user who may nothing", access: access{denied: []string{"list basemodels." + v1alpha1.GroupName}}, level: Failed, says: "you cannot see bases, experts and policies"},
		{name: "no default class", objects: func(o []client.Object) []client.Object { return without(o, "StorageClass") }, level: Failed, says: "no storage class is the default"},
		{name: "a class that is not there", objects: func(o []client.Object) []client.Object {
			return append(o, base("tiny", func(b *v1alpha1.BaseModel) { b.Spec.Storage.StorageClassName = "gone" }))
		}, level: Failed, says: "BaseModel tiny asks for the storage class gone"},
		{name: "a claim that is not there", objects: func(o []client.Object) []client.Object {
			return append(o, base("tiny", func(b *v1alpha1.BaseModel) { b.Spec.Storage.ExistingClaim = "gone" }))
		}, level: Failed, says: "uses the claim gone, which is not there"},
		{name: "a claim that waits for a pod", objects: func(o []client.Object) []client.Object {
			return append(o, base("tiny", nil), claim("tiny", corev1.ClaimPending, "fast"))
		}, level: Note, says: "no volume before its first pod starts"},
		{name: "a claim that waits for ever", objects: func(o []client.Object) []client.Object {
			return append(o, base("tiny", nil), claim("tiny", corev1.ClaimPending, "now"))
		}, level: Warning, says: "claim tiny of BaseModel tiny has no volume yet"},
		{name: "a lost claim", objects: func(o []client.Object) []client.Object {
			return append(o, base("tiny", nil), claim("tiny", corev1.ClaimLost, "now"))
		}, level: Failed, says: "has lost its volume"},
		{name: "a volume for one node", objects: func(o []client.Object) []client.Object {
			p := &v1alpha1.AdaptivePolicy{ObjectMeta: metav1.ObjectMeta{Name: "demo", Namespace: "team"}}
			p.Spec.BaseModelRef.Name, p.Spec.Serving.Replicas = "tiny", new(int32(3))
			return append(o, base("tiny", nil), p)
		}, level: Warning, says: "so the 3 pods of policy demo must all fit on that one of 2 nodes"},
		{name: "a GPU that no node has", objects: func(o []client.Object) []client.Object { return append(o, base("tiny", cuda)) }, level: Failed, says: "BaseModel tiny asks for nvidia.com/gpu, which no node offers"},
		{name: "a GPU", objects: func(o []client.Object) []client.Object {
			n := node("gpu")
			n.Status.Allocatable["nvidia.com/gpu"] = resource.MustParse("2")
			return append(o, base("tiny", cuda), n)
		}, level: OK, says: "which 1 of 3 nodes offer"},
		{name: "a runtime class that is not there", objects: func(o []client.Object) []client.Object {
			return append(deployment(o, func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Args = []string{"--gpu-runtime-class=nvidia"}
			}), base("tiny", cuda))
		}, level: Failed, says: "the runtime class nvidia (--gpu-runtime-class), which is not there"},
		{name: "a runtime class", objects: func(o []client.Object) []client.Object {
			return append(deployment(o, func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Args = []string{"--gpu-runtime-class=nvidia"}
			}), base("tiny", cuda), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "nvidia"}})
		}, level: OK, says: "the runtime class nvidia is there"},
		{name: "a claim's template that is not there", objects: func(o []client.Object) []client.Object {
			return append(o, base("tiny", func(b *v1alpha1.BaseModel) {
				b.Spec.Runtime.GPU = &v1alpha1.GPU{ResourceClaimTemplateName: "one-gpu"}
			}))
		}, level: Failed, says: "the ResourceClaimTemplate one-gpu, which is not there"},
		{name: "an image that cannot be pulled", objects: func(o []client.Object) []client.Object {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "team", Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}}}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Image: "r.example/t2:v1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}}}}
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "gone"}}
			return append(o, p)
		}, level: Failed, says: "pod p cannot have r.example/t2:v1: ImagePullBackOff not found"},
		{name: "a model's artifact that a node cannot pull", objects: func(o []client.Object) []client.Object {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "team", Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}}}
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "r.example/models/tiny@sha256:77"}}}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Image: "r.example/t2:v1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "ErrImagePull", Message: "r.example/models/tiny@sha256:77 not found",
			}}}}
			return append(o, p)
		}, level: Failed, says: "pod p cannot mount r.example/models/tiny@sha256:77: ErrImagePull"},
		{name: "images that nobody publishes", objects: func(o []client.Object) []client.Object {
			return deployment(o, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Args = nil })
		}, level: Note, says: "no registry has the images"},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects := healthy(t)
			if test.objects != nil {
				objects = test.objects(objects)
			}
			p := test.access.patient(t, objects)
			p.Operator = test.operator
			if test.minor != "" {
				p.Version = func(context.Context) (*version.Info, error) {
					return &version.Info{Major: "1", Minor: test.minor, GitVersion: "v1." + test.minor + ".0"}, nil
				}
			}
			findings, err := Examine(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(findings, func(f Finding) bool {
				return f.Level == test.level && strings.Contains(f.What, test.says) && (f.Do != "" || f.Level == OK || f.Level == Note || test.minor == "x")
			}) {
				t.Errorf("no finding %s %q with what to do among", test.level, test.says)
				for _, f := range findings {
					t.Errorf("  %+v", f)
				}
			}
		})
	}
}
