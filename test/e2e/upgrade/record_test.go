package upgrade

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/e2e/kube"
)

// record is what no upgrade may change, by what it is: digests, runs, and the Jobs
// and volumes by UID.
type record map[string]string

// made is the record of the experts and policies named, of the base and of all that
// was made for them.
func made(ctx context.Context, experts, policies []string) record {
	GinkgoHelper()
	r := record{}
	base := &v1alpha1.BaseModel{}
	get(ctx, "tiny", base)
	r["base: model"] = string(base.Status.Artifact.Digest)
	r["base: decomposition"] = string(base.Status.Decomposition.Digest)
	r["base: runs"] = runs(base.Status.Runs)
	of := map[string]bool{"": true} // Jobs without an expert are the base's and the policies'.
	for _, name := range experts {
		expert := &v1alpha1.ExpertVector{}
		get(ctx, name, expert)
		a := expert.Status.Artifact
		of[name] = true
		r["expert "+name+": artifact"] = fmt.Sprintf("%s of run %s, recipe %s, in %s", a.Digest, a.RunID, a.Recipe, a.URI)
		r["expert "+name+": scores"] = fmt.Sprintf("%s, base %s", expert.Status.Score, expert.Status.BaselineScore)
		r["expert "+name+": chain"] = fmt.Sprintf("%s, %s", expert.Status.BaseDigest, expert.Status.DecompositionDigest)
		r["expert "+name+": runs"] = runs(expert.Status.Runs)
	}
	for _, name := range policies {
		policy := &v1alpha1.AdaptivePolicy{}
		get(ctx, name, policy)
		r["policy "+name+": set"] = string(policy.Status.ExpertSetDigest)
		r["policy "+name+": chain"] = fmt.Sprintf("%s, %s", policy.Status.BaseDigest, policy.Status.DecompositionDigest)
		for _, e := range policy.Status.Experts {
			r["policy "+name+": expert "+e.Name] = fmt.Sprintf("%s %s", e.State, e.Digest)
		}
		if s := policy.Status.FewShot; s != nil {
			r["policy "+name+": search"] = fmt.Sprintf("%s, recipe %s, weights %v, runs %s", s.RunID, s.Recipe, s.Weights, runs(s.Runs))
		}
		if s := policy.Status.Probe; s != nil {
			r["policy "+name+": probe"] = fmt.Sprintf("%s of run %s, recipe %s, runs %s", s.Digest, s.RunID, s.Recipe, runs(s.Runs))
		}
	}
	var jobs batchv1.JobList
	Expect(cluster.List(ctx, &jobs, client.InNamespace(namespace), ours)).To(Succeed())
	for _, job := range jobs.Items {
		if of[job.Labels[v1alpha1.LabelExpert]] && works(&job) {
			r["Job "+job.Name] = string(job.UID)
		}
	}
	var claims corev1.PersistentVolumeClaimList
	Expect(cluster.List(ctx, &claims, client.InNamespace(namespace), ours)).To(Succeed())
	for _, claim := range claims.Items {
		r["claim "+claim.Name] = string(claim.UID)
	}
	return r
}

// ours selects what the operator makes.
var ours = client.MatchingLabels{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}

// works reports whether a Job makes something. One that tidies up a volume, which a
// newer operator does, makes nothing.
func works(job *batchv1.Job) bool {
	return job.Labels[v1alpha1.LabelComponent] != v1alpha1.ComponentCollect
}

func runs(of []v1alpha1.RunStatus) string {
	var all []string
	for _, run := range of {
		all = append(all, fmt.Sprintf("%s %s by %s, %v to %v", run.ID, run.Result, run.JobName, run.StartTime, run.CompletionTime))
	}
	return strings.Join(all, "; ")
}

func get(ctx context.Context, name string, object client.Object) {
	GinkgoHelper()
	Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)).To(Succeed())
}

func holds(o kube.Conditioned, condition string) bool {
	return kube.Condition(o, condition).Status == metav1.ConditionTrue
}
