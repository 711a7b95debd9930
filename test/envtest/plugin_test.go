package envtest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/kubectl-t2/plugin"
)

// kubectlT2 runs the plugin against the API server, as this user.
func (w world) kubectlT2(ctx context.Context, as *rest.Config, args ...string) (stdout, stderr string, code int) {
	GinkgoHelper()
	var out, errors bytes.Buffer
	env := &plugin.Env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errors, Now: time.Now,
		Connect: func(context.Context, *plugin.Flags) (*plugin.Cluster, error) {
			return plugin.ConnectTo(as, w.namespace)
		},
	}
	code = plugin.Run(ctx, env, args)
	GinkgoWriter.Printf("$ kubectl t2 %s\n%s%s", strings.Join(args, " "), out.String(), errors.String())
	return out.String(), errors.String(), code
}

var _ = Describe("kubectl t2", func() {
	It("shows the tree and what holds it up, and waits for it", func(ctx SpecContext) {
		w := newWorld(ctx)
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		Expect(k8s.Create(ctx, w.expert("math"))).To(Succeed())
		Eventually(func(g Gomega) {
			out, errors, code := w.kubectlT2(ctx, config, "status", "--exit-code")
			g.Expect(errors).To(BeEmpty())
			g.Expect(code).To(Equal(1))
			g.Expect(out).To(MatchRegexp(`base tiny +✓ Succeeded`))
			g.Expect(out).To(ContainSubstring("42 matrices, 5376 singular values"))
			g.Expect(out).To(MatchRegexp(`└─ expert math +… [A-Z]\w+`))
		}).Should(Succeed())
		out, _, code := w.kubectlT2(ctx, config, "status", "basemodel/tiny", "--wait", "10s")
		Expect(code).To(BeZero(), out)
		w.finishTraining(ctx, "math", trained("c", "a", "b"))
		Expect(k8s.Create(ctx, w.expert("code"))).To(Succeed())
		Expect(k8s.Create(ctx, w.policy("served", "math", "code"))).To(Succeed())
		w.roll(ctx, "served")
		Eventually(func(g Gomega) {
			out, _, _ := w.kubectlT2(ctx, config, "status")
			g.Expect(out).To(MatchRegexp(`expert math +✓ Succeeded +0.7031 \(base 0.4688, \+0.2343\)`))
			g.Expect(out).To(MatchRegexp(`└─ policy served +… ExpertsNotReady Prompt  1/1 pods  1/2 experts`))
			g.Expect(out).To(MatchRegexp(`├─ math +✓ Served`))
			g.Expect(out).To(MatchRegexp(`└─ code +· NotReady`))
		}).Should(Succeed())
		_, errors, code := w.kubectlT2(ctx, config, "status", "policy/demo")
		Expect(code).To(Equal(1))
		Expect(errors).To(ContainSubstring("there is no AdaptivePolicy demo in namespace " + w.namespace))
	}, SpecTimeout(time.Minute))

	It("finds what would fail, and nothing once it is there", func(ctx SpecContext) {
		w := newWorld(ctx)
		out, errors, code := w.kubectlT2(ctx, config, "doctor", "--operator-namespace", w.namespace)
		Expect(errors).To(BeEmpty())
		Expect(code).To(Equal(1), out)
		for _, plural := range []string{"basemodels", "expertvectors", "adaptivepolicies"} {
			Expect(out).To(MatchRegexp(`✓ .*` + plural + `\.transformersquared\.dev, v1alpha1, with all fields of this plugin`))
		}
		Expect(out).To(ContainSubstring("there is no Deployment of it"))
		Expect(out).To(ContainSubstring("no node takes pods"))
		Expect(out).To(ContainSubstring("you can ask pods"))

		labels := map[string]string{v1alpha1.LabelName: v1alpha1.AppName, v1alpha1.LabelComponent: "manager"}
		manager := &appsv1.Deployment{ObjectMeta: w.meta("manager"), Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				ServiceAccountName: "manager", Containers: []corev1.Container{{Name: "manager", Image: "r.example/manager:v1"}},
			}},
		}}
		manager.Labels = labels
		Expect(k8s.Create(ctx, manager)).To(Succeed())
		manager.Status = appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
		Expect(k8s.Status().Update(ctx, manager)).To(Succeed())
		out, _, _ = w.kubectlT2(ctx, config, "doctor", "--operator-namespace", w.namespace)
		Expect(out).To(ContainSubstring("system:serviceaccount:" + w.namespace + ":manager may not, in namespace " + w.namespace))

		text, err := os.ReadFile(filepath.Join(root, "config", "rbac", "role.yaml"))
		Expect(err).NotTo(HaveOccurred())
		var role rbacv1.ClusterRole
		Expect(yaml.Unmarshal(text, &role)).To(Succeed())
		allowed := &rbacv1.Role{ObjectMeta: w.meta("manager"), Rules: role.Rules}
		Expect(k8s.Create(ctx, allowed)).To(Succeed())
		Expect(k8s.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: w.meta("manager"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "manager"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.namespace, Name: "manager"}},
		})).To(Succeed())
		class := &storagev1.StorageClass{
			ObjectMeta:  metav1.ObjectMeta{Name: w.namespace, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
			Provisioner: "example.com/none",
		}
		Expect(k8s.Create(ctx, class)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, class)).To(Succeed()) })
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}
		Expect(k8s.Create(ctx, node)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(k8s.Delete(ctx, node)).To(Succeed()) })
		Eventually(func(g Gomega) {
			out, errors, code := w.kubectlT2(ctx, config, "doctor", "--operator-namespace", w.namespace)
			g.Expect(errors).To(BeEmpty())
			g.Expect(code).To(BeZero(), out)
			g.Expect(out).To(MatchRegexp(`manager has the \d+ rights of its role`))
		}).Should(Succeed())
	}, SpecTimeout(time.Minute))

	It("says to somebody without rights what is missing", func(ctx SpecContext) {
		w := newWorld(ctx)
		nobody := rest.CopyConfig(config)
		nobody.Impersonate = rest.ImpersonationConfig{UserName: "eve", Groups: []string{"system:authenticated"}}
		_, errors, code := w.kubectlT2(ctx, nobody, "status")
		Expect(code).To(Equal(1))
		Expect(errors).To(ContainSubstring(`User "eve" cannot list resource`))
		out, errors, code := w.kubectlT2(ctx, nobody, "doctor")
		Expect(errors).To(BeEmpty())
		Expect(code).To(Equal(1), out)
		Expect(out).To(ContainSubstring("you cannot see bases, experts and policies: no right to get adaptivepolicies.transformersquared.dev"))
		Expect(out).To(ContainSubstring("name its namespace by --operator-namespace"))
	}, SpecTimeout(time.Minute))
})
