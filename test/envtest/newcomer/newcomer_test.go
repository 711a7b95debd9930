// Package newcomer does on a fresh API server what the project's README tells a
// newcomer to do, as it is printed there.
package newcomer

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/transformersquared/operator/controllers"
	"github.com/transformersquared/operator/test/readme"
)

var root = filepath.Join("..", "..", "..")

// cluster is an API server with nothing on it, and kubectl for it.
type cluster struct {
	kubeconfig, kubectl string
	clients             kubernetes.Interface
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set: make envtest runs these tests")
	}
	environment := &envtest.Environment{ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	config, err := environment.Start()
	check(t, err)
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	admin, err := environment.AddUser(envtest.User{Name: "newcomer", Groups: []string{"system:masters"}}, nil)
	check(t, err)
	kubeconfig, err := admin.KubeConfig()
	check(t, err)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, os.WriteFile(path, kubeconfig, 0o600))
	clients, err := kubernetes.NewForConfig(config)
	check(t, err)
	assets, err = filepath.Abs(assets)
	check(t, err)
	return cluster{kubeconfig: path, kubectl: assets, clients: clients}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a line of shell in the repository's root, as a newcomer would, and
// returns what it printed. It must succeed and say nothing on standard error,
// where kubectl and kustomize put their warnings.
func (c cluster) run(t *testing.T, line, stdin string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig, "PATH="+c.kubectl+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", line, err, out.String(), errOut.String())
	}
	if errOut.Len() > 0 {
		t.Errorf("%s warns:\n%s", line, errOut.String())
	}
	return out.String()
}

// install does what README says for a cluster of one's own.
func (c cluster) install(t *testing.T) {
	t.Helper()
	block, err := readme.Find(root, "On your own cluster", "sh", "kubectl apply")
	check(t, err)
	for _, line := range block.Commands() {
		if strings.HasPrefix(line, "kubectl") { // Images are for nodes; there are none here.
			c.run(t, line, "")
		}
	}
	c.run(t, "kubectl wait --for=condition=Established crd -l app.kubernetes.io/part-of=transformersquared --timeout=30s", "")
}

func TestSamplesApplyToAFreshCluster(t *testing.T) {
	c := newCluster(t)
	c.install(t)
	c.run(t, "kubectl apply -k config/samples", "")
	got := c.run(t, "kubectl -n t2-demo get t2,configmaps,jobs,pvc -o name | sort", "")
	want := `adaptivepolicy.transformersquared.dev/demo
basemodel.transformersquared.dev/tiny
configmap/demo-code
configmap/demo-math
configmap/demo-reasoning
expertvector.transformersquared.dev/code
expertvector.transformersquared.dev/math
expertvector.transformersquared.dev/reasoning
job.batch/demo-assets
persistentvolumeclaim/demo-assets
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on the cluster (-want +got):\n%s", diff)
	}
	c.run(t, "kubectl apply -k config/samples", "") // Once more changes nothing and warns of nothing.
	c.run(t, "kubectl apply --dry-run=server -f config/samples/paper", "")
}

// TestTheThreeKindsApplyAsPrinted replaces nothing but the digest that README
// leaves out.
func TestTheThreeKindsApplyAsPrinted(t *testing.T) {
	c := newCluster(t)
	c.install(t)
	block, err := readme.Find(root, "The three kinds", "yaml", "kind: BaseModel")
	check(t, err)
	manifests := strings.ReplaceAll(block.Text, "sha256:…", "sha256:"+strings.Repeat("0", 64))
	if strings.Contains(manifests, "…") {
		t.Fatalf("README's YAML leaves out more than a digest:\n%s", manifests)
	}
	c.run(t, "kubectl apply -f -", manifests)
	if got := strings.Fields(c.run(t, "kubectl get t2 -o name", "")); len(got) != 3 {
		t.Errorf("README shows three kinds, applied were %v", got)
	}
}

// TestUninstallingAsPrintedLeavesNothing has the operator running, as whoever
// follows README has: it is the operator that lets a BaseModel in use go.
func TestUninstallingAsPrintedLeavesNothing(t *testing.T) {
	c := newCluster(t)
	c.install(t)
	c.run(t, "kubectl apply -k config/samples", "")
	t.Setenv("KUBECONFIG", c.kubeconfig)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- controllers.Run(ctx, []string{"--metrics-bind-address=0", "--health-probe-bind-address=0"}, t.Output())
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the operator: %v", err)
		}
	}()
	c.run(t, "kubectl -n t2-demo wait --for=jsonpath='{.metadata.finalizers[0]}'=transformersquared.dev/in-use basemodel/tiny --timeout=60s", "")

	block, err := readme.Find(root, "On your own cluster", "sh", "kubectl delete")
	check(t, err)
	meanwhile, enough := context.WithCancel(t.Context())
	defer enough()
	go c.finalizeNamespaces(meanwhile)
	for _, line := range block.Commands() {
		// Before the last line the operator still runs: nothing may be left for it.
		if strings.Contains(line, "config/default") {
			if left := c.run(t, "kubectl get t2 --all-namespaces -o name --ignore-not-found", ""); left != "" {
				t.Errorf("before the operator goes there is still\n%s", left)
			}
			stop()
		}
		c.run(t, line+" --timeout=60s", "")
	}
	if left := c.run(t, "kubectl get crd,clusterroles,clusterrolebindings -l app.kubernetes.io/part-of=transformersquared -o name --ignore-not-found", ""); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	if left := c.run(t, "kubectl get namespace t2-system -o name --ignore-not-found", ""); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// finalizeNamespaces does what the namespace controller does at the end, until
// ctx ends; here there is none.
func (c cluster) finalizeNamespaces(ctx context.Context) {
	for ctx.Err() == nil {
		list, err := c.clients.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		for i := 0; err == nil && i < len(list.Items); i++ {
			if n := &list.Items[i]; n.Status.Phase == corev1.NamespaceTerminating {
				n.Spec.Finalizers = nil
				_, err = c.clients.CoreV1().Namespaces().Finalize(ctx, n, metav1.UpdateOptions{})
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
