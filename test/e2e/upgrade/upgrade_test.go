package upgrade

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/test/readme"
)

// Experts that are made with the version before, and policies that are served.
var (
	experts  = []string{"math", "reasoning", "undisturbed"}
	policies = []string{"prompt", "probe", "fewshot"}
)

// gated is a policy with a gate, of which the version before knows nothing.
const gated = "gated"

// Twins of expert undisturbed that are half done when versions change.
const (
	goingUp   = "going-up"
	goingBack = "going-back"
)

var _ = Describe("An upgrade", Ordered, func() {
	var (
		was     record
		asking  = &clients{}
		witness *witness
	)

	// nothingIsLost checks all that must be so whenever a change is over.
	nothingIsLost := func(ctx SpecContext) {
		GinkgoHelper()
		Expect(cmp.Diff(was, made(ctx, experts, policies))).To(BeEmpty(), "what was (-) and is (+)")
		answers := asking.all()
		by, byBefore := lost(answers)
		Expect(by).To(BeEmpty(), "of %d requests", len(answers))
		GinkgoWriter.Printf("%d requests, lost by pods of the version before that drain: %v\n", len(answers), byBefore)
		for _, a := range answers {
			if a.Lost != "" {
				continue
			}
			Expect(a.Set).To(Equal(was["policy "+a.Policy+": set"]), "%+v", a)
		}
		Expect(witness.wrongs()).To(BeEmpty())
	}

	// Both are there for all specs, and so end behind the last one.
	AfterAll(func() {
		_ = asking.ended() // What of it matters has been looked at.
		if witness != nil {
			witness.end()
		}
	})

	It("has a version before, which has trained and serves", func(ctx SpecContext) {
		kubectl(ctx, "", "apply", "--server-side", "-k", before("default"))
		kubectl(ctx, "", "-n", system, "rollout", "status", "deployment", "--timeout=120s")
		kubectl(ctx, samples(ctx)+document("objects.yaml"), "-n", namespace, "apply", "--server-side", "-f", "-")
		kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "basemodels,expertvectors", "--all", "--timeout=600s")
		serve(ctx, "before")
		was = made(ctx, experts, policies)
		GinkgoWriter.Println(was)
		Expect(was).To(And(HaveKey("policy probe: probe"), HaveKey("policy fewshot: search")))

		witness = witnessing(ctx)
		asking.ask(ctx, urls(ctx, policies...))
		eachIsAnswered(asking, time.Now(), ofBefore)
		nothingIsLost(ctx)
	}, SpecTimeout(15*time.Minute))

	It("trains nothing again and loses no request, and a run that is half done goes on", func(ctx SpecContext) {
		job := begin(ctx, witness, goingUp)
		for _, command := range commands("this version") {
			kubectl(ctx, "", words(command, filepath.Join(root, "config"))...)
		}
		serve(ctx, "dev")
		eachIsAnswered(asking, time.Now(), ofNow)
		nothingIsLost(ctx)
		goesOn(ctx, witness, goingUp, job, "dev")
		nothingIsLost(ctx)
	}, SpecTimeout(10*time.Minute))

	It("makes what the version before knows nothing of", func(ctx SpecContext) {
		witness.expect(gated, true)
		kubectl(ctx, document("newer.yaml"), "-n", namespace, "apply", "--server-side", "-f", "-")
		policies = append(policies, gated)
		serve(ctx, "dev")
		witness.expect(gated, false)
		policy := &v1alpha1.AdaptivePolicy{}
		get(ctx, gated, policy)
		Expect(policy.Status.Rollout.Evaluation.Gate.Questions).To(BeEquivalentTo(8))
		was = made(ctx, experts, policies)
		asking.ask(ctx, urls(ctx, gated))
		eachIsAnswered(asking, time.Now(), ofNow)
		nothingIsLost(ctx)
	}, SpecTimeout(6*time.Minute))

	It("goes back by the operator alone, and the same holds", func(ctx SpecContext) {
		job := begin(ctx, witness, goingBack)
		for _, command := range commands("the version before") {
			kubectl(ctx, "", words(command, before())...)
		}
		serve(ctx, "before")
		eachIsAnswered(asking, time.Now(), ofBefore)
		nothingIsLost(ctx)
		goesOn(ctx, witness, goingBack, job, "before")
		nothingIsLost(ctx)
	}, SpecTimeout(10*time.Minute))

	It("goes back with the kinds, too", func(ctx SpecContext) {
		kubectl(ctx, "", "apply", "--server-side", "-k", before("default"))
		// Each object is looked at once more, as the kinds are now.
		kubectl(ctx, "", "-n", namespace, "label", "t2", "--all", "kinds=before")
		began := time.Now()
		eachIsAnswered(asking, began, ofBefore)
		serve(ctx, "before")
		nothingIsLost(ctx)
	}, SpecTimeout(4*time.Minute))

	It("can be made once more, and what went with the newer kinds applied again", func(ctx SpecContext) {
		// The older kinds know of no gate, so that its evaluation is nobody's.
		job := ""
		for key := range was {
			if strings.HasPrefix(key, "Job "+gated+"-") {
				job = key
			}
		}
		Expect(was).To(HaveKey(job))
		delete(was, job)
		for _, command := range commands("this version") {
			kubectl(ctx, "", words(command, filepath.Join(root, "config"))...)
		}
		serve(ctx, "dev")
		Eventually(func() record { return made(ctx, experts, policies) }).ShouldNot(HaveKey(job))
		kubectl(ctx, document("newer.yaml"), "-n", namespace, "apply", "--server-side", "-f", "-")
		serve(ctx, "dev") // And nothing is evaluated: the set serves.
		eachIsAnswered(asking, time.Now(), ofNow)
		Expect(asking.ended()).To(Succeed())
		nothingIsLost(ctx)
		GinkgoWriter.Println(answeredBy(asking.all(), time.Time{}), witness.kinds())
		for _, kind := range []string{"*v1alpha1.BaseModel", "*v1alpha1.ExpertVector", "*v1alpha1.AdaptivePolicy", "*v1.Job", "*v1.Pod"} {
			Expect(witness.kinds()).To(HaveKey(kind), "it was watched")
		}
	}, SpecTimeout(6*time.Minute))
})

// samples are what config/samples of the version before has of a base model and of
// data sets.
func samples(ctx context.Context) string {
	GinkgoHelper()
	text := strings.ReplaceAll(kubectl(ctx, "", "kustomize", before("samples")), "t2-demo", namespace)
	var kept strings.Builder
	n := 0
	for document := range strings.SplitSeq(text, "\n---\n") {
		for _, kind := range []string{"ConfigMap", "PersistentVolumeClaim", "Job", "BaseModel"} {
			if strings.Contains("\n"+document, "\nkind: "+kind+"\n") {
				kept.WriteString(document + "\n---\n")
				n++
			}
		}
	}
	Expect(n).To(Equal(6), "three data sets, a volume with a model and the Job that puts it there, a base model")
	return kept.String()
}

func document(name string) string {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	Expect(err).NotTo(HaveOccurred())
	return string(text)
}

// urls are where policies answer within the cluster.
func urls(ctx context.Context, policies ...string) map[string]string {
	GinkgoHelper()
	all := map[string]string{}
	for _, name := range policies {
		service := &corev1.Service{}
		get(ctx, name, service)
		all[name] = "http://" + service.Spec.ClusterIP
	}
	return all
}

// commands are those that config/README.md prints for a change to a version.
func commands(to string) []string {
	GinkgoHelper()
	block, err := readme.Find(filepath.Join(root, "config"), "Upgrades, and versions side by side", "sh", "# "+to)
	Expect(err).NotTo(HaveOccurred())
	return block.Commands()
}

// words are the arguments of a command of kubectl, on the config of a version.
func words(command, config string) []string {
	GinkgoHelper()
	all := strings.Fields(strings.ReplaceAll(command, " config/", " "+config+"/"))
	Expect(all[0]).To(Equal("kubectl"))
	return all[1:]
}

// serve waits until every policy is served, by pods of a version's runtime alone.
func serve(ctx context.Context, tag string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		for _, name := range policies {
			policy := &v1alpha1.AdaptivePolicy{}
			g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, policy)).To(Succeed())
			var d appsv1.Deployment
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), &d)).To(Succeed())
			g.Expect(d.Spec.Template.Spec.Containers[0].Image).To(HaveSuffix(":"+tag), name)
			var pods corev1.PodList
			g.Expect(cluster.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPolicy: name})).To(Succeed())
			g.Expect(pods.Items).To(And(HaveLen(int(ptr.Deref(policy.Spec.Serving.Replicas, 1))), HaveEach(runtimeOf(tag))), name)
			g.Expect(holds(policy, v1alpha1.ConditionReady)).To(BeTrue(), "%s: %+v", name, policy.Status.Conditions)
			g.Expect(policy.Status.Conditions).To(ContainElement(And(
				HaveField("Type", v1alpha1.ConditionReady), HaveField("ObservedGeneration", policy.Generation))), name)
		}
	}).WithTimeout(5 * time.Minute).Should(Succeed())
}

// runtimeOf matches a pod of a version's runtime.
func runtimeOf(tag string) types.GomegaMatcher {
	return HaveField("Spec.Containers", ContainElement(HaveField("Image", HaveSuffix(":"+tag))))
}

// eachIsAnswered waits until each policy has answered in each manner, by a version's
// runtime, a request that was sent since.
func eachIsAnswered(asking *clients, since time.Time, version string) {
	GinkgoHelper()
	var all []types.GomegaMatcher
	for _, policy := range policies {
		for _, manner := range []string{keptOpen, fresh, streamed} {
			all = append(all, HaveKeyWithValue(strings.Join([]string{policy, manner, version}, " "), BeNumerically(">", 1)))
		}
	}
	Eventually(func() map[string]int { return answeredBy(asking.all(), since) }).Should(And(all...))
}

// begin begins a twin of expert undisturbed and holds it once a pod has made a few
// iterations of it, so that it cannot be over before the version changes. It returns
// the Job that made them.
func begin(ctx context.Context, witness *witness, name string) (job string) {
	GinkgoHelper()
	witness.expect(name, true)
	documents := strings.Split(document("objects.yaml"), "\n---\n")
	at := slices.IndexFunc(documents, func(d string) bool { return strings.Contains(d, "\n  name: undisturbed\n") })
	twin := strings.Replace(documents[at], "\n  name: undisturbed\n", "\n  name: "+name+"\n", 1)
	kubectl(ctx, twin, "-n", namespace, "apply", "--server-side", "-f", "-")
	Eventually(func() (string, error) {
		return try(ctx, "", "-n", namespace, "logs", "-l", v1alpha1.LabelExpert+"="+name, "-c", "train", "--tail=-1")
	}).WithPolling(100 * time.Millisecond).Should(ContainSubstring(`"iteration":2,`))
	hold(ctx, name, true)
	Eventually(func(g Gomega) {
		expert := &v1alpha1.ExpertVector{}
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, expert)).To(Succeed())
		g.Expect(expert.Status.Artifact).To(BeNil(), "it was over before it could be held")
		g.Expect(meta.FindStatusCondition(expert.Status.Conditions, v1alpha1.ConditionReady)).To(HaveField("Reason", v1alpha1.ReasonSuspended))
		var pods corev1.PodList
		g.Expect(cluster.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelExpert: name})).To(Succeed())
		g.Expect(pods.Items).To(BeEmpty())
		job = expert.Status.Runs[0].JobName
	}).Should(Succeed())
	return job
}

// hold suspends the training of an expert, or lets it go on.
func hold(ctx context.Context, name string, suspend bool) {
	GinkgoHelper()
	kubectl(ctx, "", "-n", namespace, "patch", "expertvector", name, "--type=merge", fmt.Sprintf(`-p={"spec":{"training":{"suspend":%t}}}`, suspend))
}

// goesOn lets a twin of expert undisturbed go on: a pod of a version's runtime continues
// what the other one had begun, in the same run, and it comes to the same.
func goesOn(ctx context.Context, witness *witness, name, firstJob, tag string) {
	GinkgoHelper()
	hold(ctx, name, false)
	kubectl(ctx, "", "-n", namespace, "wait", "--for=condition=Ready", "expertvector/"+name, "--timeout=300s")
	witness.expect(name, false)
	twin, undisturbed := &v1alpha1.ExpertVector{}, &v1alpha1.ExpertVector{}
	get(ctx, name, twin)
	get(ctx, "undisturbed", undisturbed)
	Expect(twin.Status.Runs).To(HaveLen(1))
	Expect(twin.Status.Runs[0].JobName).NotTo(Equal(firstJob), "its pods are of another version")
	Expect(twin.Status.Runs[0].Failures).To(BeNil())
	var pods corev1.PodList
	Expect(cluster.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelExpert: name})).To(Succeed())
	Expect(pods.Items).To(HaveExactElements(runtimeOf(tag)))
	Expect(kubectl(ctx, "", "-n", namespace, "logs", pods.Items[0].Name, "-c", "train", "--tail=-1")).To(ContainSubstring("Training was continued"))
	Expect(twin.Status.Artifact.Digest).To(Equal(undisturbed.Status.Artifact.Digest))
	Expect(twin.Status.Runs[0].StartTime.Before(&metav1.Time{Time: pods.Items[0].CreationTimestamp.Time})).To(BeTrue(), "the run began with the other version")
}
