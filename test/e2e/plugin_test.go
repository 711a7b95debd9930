package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// kubectlT2 is the plugin as people run it, found by kubectl on PATH, on what the chain has
// made and with real pods to ask.
func kubectlT2() {
	run := func(ctx SpecContext, args ...string) (stdout, stderr string, code int) {
		GinkgoHelper()
		cmd := exec.CommandContext(ctx, os.Getenv("KUBECTL"), append([]string{"t2"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(os.Getenv("KUBECTL_T2"))+string(os.PathListSeparator)+os.Getenv("PATH"))
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		err := cmd.Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		} else {
			Expect(err).NotTo(HaveOccurred())
		}
		GinkgoWriter.Printf("$ kubectl t2 %s\n%s%s", strings.Join(args, " "), out.String(), complaints.String())
		return out.String(), complaints.String(), code
	}
	// t2 is run in the suite's namespace, for what must succeed.
	t2 := func(ctx SpecContext, args ...string) string {
		GinkgoHelper()
		out, complaints, code := run(ctx, append(args, "-n", namespace)...)
		Expect(code).To(BeZero(), complaints)
		return out
	}
	short := func(d v1alpha1.Digest) string { return strings.TrimPrefix(string(d), "sha256:")[:12] }
	percent := func(s v1alpha1.Score) string {
		GinkgoHelper()
		share, err := strconv.ParseFloat(string(s), 64)
		Expect(err).NotTo(HaveOccurred())
		return fmt.Sprintf("%.1f %%", 100*share)
	}
	var math *v1alpha1.ExpertVector
	var policy *v1alpha1.AdaptivePolicy
	BeforeAll(func(ctx SpecContext) {
		Expect(os.Getenv("KUBECTL_T2")).To(HaveSuffix("kubectl-t2"), "make e2e builds it and says where")
		math, policy = &v1alpha1.ExpertVector{ObjectMeta: named("math")}, &v1alpha1.AdaptivePolicy{ObjectMeta: named("demo")}
		for _, o := range []client.Object{math, policy} {
			Expect(cluster.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
		}
	})

	It("shows the tree of what is served, with its scores and digests", func(ctx SpecContext) {
		out := t2(ctx, "status", "policy/demo", "--exit-code")
		Expect(out).To(MatchRegexp(`policy demo +✓ Serving +Prompt  1/1 pods  %s experts  set %s`, policy.Status.ExpertSummary, short(policy.Status.ExpertSetDigest)))
		Expect(out).To(MatchRegexp(`─ math +✓ Served +%s \(base %s, \+[0-9.]+\)  %s`, math.Status.Score, math.Status.BaselineScore, short(math.Status.Artifact.Digest)))
		out = t2(ctx, "status")
		Expect(out).To(MatchRegexp(`(?m)^base tiny +✓ Succeeded +llama, 1.\dM parameters`))
		Expect(out).To(MatchRegexp(`─ expert math +✓ Succeeded`))
		_, complaints, code := run(ctx, "status", "policy/none", "-n", namespace)
		Expect(code).To(Equal(1))
		Expect(complaints).To(ContainSubstring("there is no AdaptivePolicy none in namespace " + namespace))
	})

	It("finds the learning curve of an expert in the volume, by a pod that serves", func(ctx SpecContext) {
		out := t2(ctx, "curve", "math")
		Expect(out).To(HavePrefix("Expert math: base %s, best %s after iteration ", percent(math.Status.BaselineScore), percent(math.Status.Score)))
		Expect(out).To(And(ContainSubstring("●"), MatchRegexp(`from pod \S+, which has %s in its volume`, short(math.Status.Artifact.Digest))))
		file := filepath.Join(GinkgoT().TempDir(), "math.json")
		t2(ctx, "curve", "math", "--output", file)
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		var curve contract.Curve
		Expect(json.Unmarshal(text, &curve)).To(Succeed())
		Expect(curve.Points).NotTo(BeEmpty())
	})

	It("explains what a prompt would get, and what a request got", func(ctx SpecContext) {
		out := t2(ctx, "explain", "demo", question)
		Expect(out).To(MatchRegexp(`(?m)^Answers +math\nWhy +pass 1 finds the label "math" most likely \(0\.\d{4}\)\nStrategy +Prompt$`))
		Expect(out).To(ContainSubstring(string(policy.Status.ExpertSetDigest)))

		answer, err := complete(ctx, namespace, "demo", "demo", question)
		Expect(err).NotTo(HaveOccurred())
		out = t2(ctx, "explain", "demo", "--request", answer.ID)
		Expect(out).To(MatchRegexp(`(?m)^Request +\S+, answered as %s$`, answer.ID))
		Expect(out).To(MatchRegexp(`(?m)^Answered by +math$`))
		Expect(out).To(MatchRegexp(`(?m)^Pod +demo-\S+$`))
		_, complaints, code := run(ctx, "explain", "demo", "--request", "chatcmpl-none", "-n", namespace)
		Expect(code).To(Equal(1))
		Expect(complaints).To(ContainSubstring("chatcmpl-none"))
	})

	It("finds nothing that would fail, and what would once it is there", func(ctx SpecContext) {
		out := t2(ctx, "doctor")
		Expect(out).To(And(ContainSubstring(", 0 failed, "), MatchRegexp(`✓ Operator +`), MatchRegexp(`✓ Storage +`), MatchRegexp(`(?m)^✓ Operator's rights +\S+ has the \d+ rights of its role`)))

		base := &v1alpha1.BaseModel{ObjectMeta: named("nowhere"), Spec: v1alpha1.BaseModelSpec{
			Source:  v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "demo-assets", Path: "model"}},
			Storage: v1alpha1.StorageSpec{StorageClassName: "none"},
		}}
		Expect(cluster.Create(ctx, base)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "", "-n", namespace, "delete", "basemodel", base.Name, "--timeout=60s")
		})
		out, _, code := run(ctx, "doctor", "-n", namespace)
		Expect(code).To(Equal(1))
		Expect(out).To(ContainSubstring("BaseModel nowhere asks for the storage class none, which is not there"))
	})
}
