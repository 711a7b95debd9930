package chart

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// server is an API server with nothing on it.
type server struct {
	environment *envtest.Environment
	clients     kubernetes.Interface
}

func newServer(t *testing.T) server {
	t.Helper()
	program(t, "HELM")
	program(t, "KUBEBUILDER_ASSETS")
	environment := &envtest.Environment{ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return server{environment, clients}
}

// kubeconfig is a file by which a user of these groups reaches the server.
func (s server) kubeconfig(t *testing.T, name string, groups ...string) string {
	t.Helper()
	user, err := s.environment.AddUser(envtest.User{Name: name, Groups: groups}, nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// must runs Helm, which must succeed.
func must(t *testing.T, args ...string) {
	t.Helper()
	if _, err := helm(t, args...); err != nil {
		t.Fatal(err)
	}
}

// kinds are the names of our CRDs that the server has.
func kinds(t *testing.T, kubeconfig string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "KUBECTL"), "--kubeconfig", kubeconfig, "get", "crd", "-o", "name")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// On an API server: nothing runs there, but it judges every object and every
// right, and Helm keeps its releases in it.
func TestInstalling(t *testing.T) {
	s := newServer(t)
	admin := s.kubeconfig(t, "admin", "system:masters")
	at := []string{"--kubeconfig", admin, "--namespace", "t2-system"}
	ctx := t.Context()

	must(t, append([]string{"install", "t2", chart, "--create-namespace"}, at...)...)
	secrets, err := s.clients.CoreV1().Secrets("t2-system").List(ctx, metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) != 1 {
		t.Fatalf("Helm keeps %d releases: %v", len(secrets.Items), err)
	}
	if size := len(secrets.Items[0].Data["release"]); size > corev1.MaxSecretSize*3/4 {
		t.Errorf("a release is %d bytes of the %d that a Secret holds: the CRDs leave too little", size, corev1.MaxSecretSize)
	}

	must(t, append([]string{
		"upgrade", "t2", chart, "--set", "replicas=2", "--set", "podDisruptionBudget.enabled=true", "--set", "adminTLS=true",
		"--set", "networkPolicies.enabled=true", "--set", "networkPolicies.namespaces={default}",
	}, at...)...)
	for namespace, want := range map[string]int{"t2-system": 1, "default": 2} {
		policies, err := s.clients.NetworkingV1().NetworkPolicies(namespace).List(ctx, metav1.ListOptions{})
		if err != nil || len(policies.Items) != want {
			t.Errorf("namespace %s has %d NetworkPolicies, want %d: %v", namespace, len(policies.Items), want, err)
		}
	}
	deployment, err := s.clients.AppsV1().Deployments("t2-system").Get(ctx, "t2-controller-manager", metav1.GetOptions{})
	if err != nil || *deployment.Spec.Replicas != 2 {
		t.Errorf("after the upgrade there is %+v: %v", deployment.Spec.Replicas, err)
	}

	must(t, append([]string{"uninstall", "t2"}, at...)...)
	if _, err := s.clients.AppsV1().Deployments("t2-system").Get(ctx, "t2-controller-manager", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after uninstalling, the Deployment is answered with %v", err)
	}
	if left := kinds(t, admin); strings.Count(left, "transformersquared.dev") != 3 {
		t.Errorf("after uninstalling, the kinds are\n%s", left)
	}
	must(t, append([]string{"install", "t2", chart}, at...)...)
	must(t, append([]string{"uninstall", "t2"}, at...)...)
	s.installsWithinANamespace(t)
}

// installsWithinANamespace installs as somebody who may do all in one namespace,
// and nothing elsewhere. The kinds are there.
func (s server) installsWithinANamespace(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	const namespace = "team-a"
	if _, err := s.clients.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	everything := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "everything"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}},
	}
	if _, err := s.clients.RbacV1().Roles(namespace).Create(ctx, everything, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "everything"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "everything"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "team"}},
	}
	if _, err := s.clients.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	at := []string{"--kubeconfig", s.kubeconfig(t, "team"), "--namespace", namespace}

	if _, err := helm(t, append([]string{"install", "t2", chart}, at...)...); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("somebody without rights in the cluster installs for all of it: %v", err)
	}
	if _, err := helm(t, append([]string{"uninstall", "t2", "--ignore-not-found"}, at...)...); err != nil {
		t.Log(err) // What was refused half-way is kept as failed.
	}
	must(t, append([]string{"install", "t2", chart, "--set", fmt.Sprintf("namespaces={%s}", namespace), "--set", "crds.install=false"}, at...)...)
	role, err := s.clients.RbacV1().Roles(namespace).Get(ctx, "t2-manager", metav1.GetOptions{})
	if err != nil || len(role.Rules) == 0 {
		t.Errorf("the operator's Role is %+v: %v", role, err)
	}
	must(t, append([]string{"uninstall", "t2"}, at...)...)
}

// CRDs that kubectl has made become the release's, as README.md says.
func TestCRDsAreTakenOver(t *testing.T) {
	s := newServer(t)
	admin := s.kubeconfig(t, "admin", "system:masters")
	cmd := exec.CommandContext(t.Context(), program(t, "KUBECTL"), "--kubeconfig", admin, "apply", "--server-side", "-k", filepath.Join(root, "config", "crd"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := []string{"install", "t2", chart, "--create-namespace", "--kubeconfig", admin, "--namespace", "t2-system"}
	if _, err := helm(t, at...); err == nil || !strings.Contains(err.Error(), "--take-ownership") && !strings.Contains(err.Error(), "ownership") {
		t.Errorf("CRDs of others are taken over unasked: %v", err)
	}
	must(t, append(at, "--take-ownership")...)
}
