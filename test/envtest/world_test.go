package envtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/runtime/contract"
)

// registry knows where the runtime of each pod answers.
type registry struct {
	mu   sync.Mutex
	urls map[string]string // namespace/name → URL
}

var pods = &registry{urls: map[string]string{}}

var errNobody = errors.New("connection refused: nobody is there")

func (r *registry) client() *podclient.Client {
	c := podclient.New()
	c.URL = func(pod *corev1.Pod, path string) (string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		url, ok := r.urls[pod.Namespace+"/"+pod.Name]
		if !ok {
			return "", errNobody
		}
		return url + path, nil
	}
	return c
}

// listen makes a pod answer with a handler.
func (r *registry) listen(pod *corev1.Pod, handler http.Handler) {
	server := httptest.NewServer(handler)
	DeferCleanup(server.Close)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls[pod.Namespace+"/"+pod.Name] = server.URL
}

// progressing answers as a Job's pod does.
func progressing(progress contract.Progress) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != contract.PathProgress {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(progress)
	})
}

// server answers as `t2 serve` does: it takes sets from whoever shows the token.
type server struct {
	mu      sync.Mutex
	token   string
	refuse  string
	status  contract.ServingStatus
	offered []contract.ExpertSet
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.URL.Path != contract.PathExpertSet:
		http.NotFound(w, r)
		return
	case r.Method == http.MethodPut && r.Header.Get("Authorization") != "Bearer "+s.token:
		http.Error(w, `{"error":"wrong token"}`, http.StatusUnauthorized)
		return
	case r.Method == http.MethodPut && s.refuse != "":
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(contract.ServingStatus{ExpertSetDigest: s.status.ExpertSetDigest, Error: &contract.LoadError{Message: s.refuse}})
		return
	case r.Method == http.MethodPut:
		var set contract.ExpertSet
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		set.Called = "" // It is as the digest of the rest.
		s.load(set)
	}
	_ = json.NewEncoder(w).Encode(s.status)
}

func (s *server) load(set contract.ExpertSet) {
	digest, err := set.Digest()
	if err != nil {
		panic(err) // A set that came as JSON can be written as JSON.
	}
	s.offered = append(s.offered, set)
	s.status.ExpertSetDigest, s.status.Experts = digest, nil
	s.loadBeside(set.Candidate)
	for _, e := range set.Refs() {
		s.status.Experts = append(s.status.Experts, contract.ServedExpert{Name: e.Name, Digest: e.Digest})
	}
}

func (s *server) change(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *server) sets() []contract.ExpertSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]contract.ExpertSet(nil), s.offered...)
}

// world is one namespace and what Kubernetes would do in it.
type world struct{ namespace string }

func newWorld(ctx context.Context) world {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t2-", Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted",
	}}}
	Expect(k8s.Create(ctx, ns)).To(Succeed())
	return world{namespace: ns.Name}
}

func (w world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: w.namespace}
}

func (w world) get(ctx context.Context, name string, into client.Object) {
	GinkgoHelper()
	Expect(k8s.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: name}, into)).To(Succeed())
}

// job waits for the one Job of an object that is not being deleted.
func (w world) job(ctx context.Context, label, name string) *batchv1.Job {
	GinkgoHelper()
	return w.jobThat(ctx, label, name, func(*batchv1.Job) bool { return true })
}

// openJob waits for the one Job of an object that is not over.
func (w world) openJob(ctx context.Context, label, name string) *batchv1.Job {
	GinkgoHelper()
	return w.jobThat(ctx, label, name, func(job *batchv1.Job) bool { return len(job.Status.Conditions) == 0 })
}

func (w world) jobThat(ctx context.Context, label, name string, fits func(*batchv1.Job) bool) *batchv1.Job {
	GinkgoHelper()
	component := v1alpha1.ComponentTrain
	switch label {
	case v1alpha1.LabelBaseModel:
		component = v1alpha1.ComponentDecompose
	case v1alpha1.LabelSearch:
		component = v1alpha1.ComponentAdapt
	case v1alpha1.LabelProbe:
		component = v1alpha1.ComponentProbe
	case v1alpha1.LabelEvaluation:
		component = v1alpha1.ComponentEvaluate
	}
	var found *batchv1.Job
	Eventually(func(g Gomega) {
		var list batchv1.JobList
		g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace),
			client.MatchingLabels{label: name, v1alpha1.LabelComponent: component})).To(Succeed())
		found = nil
		for i := range list.Items {
			if list.Items[i].DeletionTimestamp.IsZero() && fits(&list.Items[i]) {
				g.Expect(found).To(BeNil(), "two Jobs at a time")
				found = &list.Items[i]
			}
		}
		g.Expect(found).NotTo(BeNil(), "no Job for %s", name)
	}).Should(Succeed())
	return found
}

// pod makes a pod of a Job as the Job controller would: admission, the
// restricted Pod Security standard among it, judges it.
func (w world) pod(ctx context.Context, job *batchv1.Job, suffix string) *corev1.Pod {
	GinkgoHelper()
	pod := &corev1.Pod{ObjectMeta: w.meta(job.Name + "-" + suffix), Spec: *job.Spec.Template.Spec.DeepCopy()}
	pod.Labels = job.Spec.Template.Labels
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
	Expect(k8s.Create(ctx, pod)).To(Succeed())
	return pod
}

// setPod writes a pod's status, as the kubelet would.
func (w world) setPod(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, statuses ...corev1.ContainerStatus) {
	GinkgoHelper()
	w.get(ctx, pod.Name, pod)
	pod.Status.Phase = phase
	pod.Status.PodIP, pod.Status.PodIPs = "127.0.0.1", []corev1.PodIP{{IP: "127.0.0.1"}}
	pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses = nil, nil
	ready := corev1.ConditionTrue
	for _, s := range statuses {
		if s.State.Running == nil {
			ready = corev1.ConditionFalse
		}
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	for _, s := range statuses {
		if pod.Spec.InitContainers != nil && pod.Spec.InitContainers[0].Name == s.Name {
			pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, s)
		} else {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, s)
		}
	}
	Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
}

func works(container string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: container, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}
}

func waits(container, reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: container, Image: "t2", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message},
	}}
}

func ended(container string, code int32, reason string, result *contract.Termination) corev1.ContainerStatus {
	GinkgoHelper()
	message := ""
	if result != nil {
		text, err := json.Marshal(result)
		Expect(err).NotTo(HaveOccurred())
		message = string(text)
	}
	return corev1.ContainerStatus{Name: container, State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message, FinishedAt: metav1.Now()},
	}}
}

// setJob ends a Job, as the Job controller would.
func (w world) setJob(ctx context.Context, job *batchv1.Job, condition batchv1.JobConditionType, reason string, failures int32) {
	GinkgoHelper()
	w.get(ctx, job.Name, job)
	now := metav1.Now()
	if job.Status.StartTime == nil { // It starts once: the API server refuses another second.
		job.Status.StartTime = &now
	}
	job.Status.Failed = failures
	before := batchv1.JobFailureTarget
	switch condition {
	case "":
	case batchv1.JobComplete:
		before = batchv1.JobSuccessCriteriaMet
		job.Status.Succeeded, job.Status.CompletionTime = 1, &now
		fallthrough
	default:
		for _, c := range []batchv1.JobConditionType{before, condition} {
			job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
				Type: c, Status: corev1.ConditionTrue, Reason: reason, Message: reason, LastTransitionTime: now,
			})
		}
	}
	Expect(k8s.Status().Update(ctx, job)).To(Succeed())
}

// collect does what the garbage collector does for Jobs that are deleted in the
// foreground: their pods go, then they go.
func (w world) collect(ctx context.Context) {
	GinkgoHelper()
	var jobs batchv1.JobList
	Expect(k8s.List(ctx, &jobs, client.InNamespace(w.namespace))).To(Succeed())
	for i := range jobs.Items {
		job := &jobs.Items[i]
		if job.DeletionTimestamp.IsZero() {
			continue
		}
		var list corev1.PodList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
		for j := range list.Items {
			if metav1.IsControlledBy(&list.Items[j], job) {
				w.removePod(ctx, &list.Items[j])
			}
		}
		job.Finalizers = nil
		Expect(client.IgnoreNotFound(k8s.Update(ctx, job))).To(Succeed())
	}
}

func (w world) removePod(ctx context.Context, pod *corev1.Pod) {
	GinkgoHelper()
	err := k8s.Delete(ctx, pod, client.GracePeriodSeconds(0))
	if !apierrors.IsNotFound(err) {
		Expect(err).NotTo(HaveOccurred())
	}
}

func digest(digit string) string { return contract.DigestPrefix + strings.Repeat(digit, 64) }

// decomposed is the result of a fetch and decomposition.
func decomposed(model, factors string) *contract.Termination {
	return &contract.Termination{
		Model: &contract.ModelResult{
			Digest: digest(model), SizeBytes: 5_000_000, FileCount: 4,
			Architecture: contract.Architecture{Family: "llama", Layers: 6, HiddenSize: 128, Parameters: 1_300_000, VocabularySize: 512, ContextLength: 512},
		},
		Decomposition: &contract.DecompositionManifest{
			Digest: digest(factors), BaseDigest: digest(model), Matrices: 42, SingularValues: 5376, MaxRelativeError: 1.2e-7,
		},
	}
}

// trained is the result of a training.
func trained(z, model, factors string) *contract.Termination {
	return &contract.Termination{Expert: &contract.ExpertResult{
		Digest: digest(z), SizeBytes: 21_504, BaseDigest: digest(model), DecompositionDigest: digest(factors),
		Training: &contract.TrainProgress{Iteration: 40, Iterations: 40, Reward: 0.25, KL: 0.01, ValidationScore: 0.6875, BestScore: 0.7031, BaselineScore: 0.4688},
	}}
}

func (w world) base(name string) *v1alpha1.BaseModel {
	return &v1alpha1.BaseModel{ObjectMeta: w.meta(name), Spec: v1alpha1.BaseModelSpec{
		Source: v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "assets", Path: "model"}},
	}}
}

func (w world) expert(name string) *v1alpha1.ExpertVector {
	set := func() v1alpha1.Dataset {
		return v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "sums", Key: "train.jsonl"}, Format: v1alpha1.FormatGSM8K}
	}
	return &v1alpha1.ExpertVector{ObjectMeta: w.meta(name), Spec: v1alpha1.ExpertVectorSpec{
		BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: name, Description: "all of " + name,
		Training: &v1alpha1.TrainingSpec{
			Dataset:   v1alpha1.TrainingDataset{Train: set(), Validation: set()},
			Objective: v1alpha1.Objective{Reinforce: &v1alpha1.ReinforceObjective{Reward: v1alpha1.RewardNumeric}},
		},
	}}
}

func (w world) policy(name string, experts ...string) *v1alpha1.AdaptivePolicy {
	p := &v1alpha1.AdaptivePolicy{ObjectMeta: w.meta(name), Spec: v1alpha1.AdaptivePolicySpec{
		BaseModelRef: v1alpha1.LocalRef{Name: "tiny"},
	}}
	for _, e := range experts {
		p.Spec.Experts = append(p.Spec.Experts, v1alpha1.PolicyExpert{Name: e})
	}
	return p
}

func (w world) dataset(ctx context.Context, content string) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("sums"), Data: map[string]string{"train.jsonl": content}})).To(Succeed())
}

// decompose makes a BaseModel and has it decomposed.
func (w world) decompose(ctx context.Context, name string) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, w.base(name))).To(Succeed())
	w.finishDecompose(ctx, name, decomposed("a", "b"))
	w.becomes(ctx, &v1alpha1.BaseModel{ObjectMeta: w.meta(name)}, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
}

func (w world) finishDecompose(ctx context.Context, name string, result *contract.Termination) {
	GinkgoHelper()
	job := w.openJob(ctx, v1alpha1.LabelBaseModel, name)
	pod := w.pod(ctx, job, "done")
	w.setPod(ctx, pod, corev1.PodSucceeded,
		ended("fetch", 0, "Completed", &contract.Termination{Model: result.Model}), ended("decompose", 0, "Completed", result))
	w.setJob(ctx, job, batchv1.JobComplete, "", 0)
}

// train makes an ExpertVector and has it trained to the artifact z.
func (w world) train(ctx context.Context, expert *v1alpha1.ExpertVector, z string) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, expert)).To(Succeed())
	w.finishTraining(ctx, expert.Name, trained(z, "a", "b"))
	w.becomes(ctx, &v1alpha1.ExpertVector{ObjectMeta: w.meta(expert.Name)}, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
}

func (w world) finishTraining(ctx context.Context, name string, result *contract.Termination) {
	GinkgoHelper()
	w.finish(ctx, v1alpha1.LabelExpert, name, "train", result)
}

// finish ends the open Job of an object well, with what its container leaves.
func (w world) finish(ctx context.Context, label, name, container string, result *contract.Termination) {
	GinkgoHelper()
	job := w.openJob(ctx, label, name)
	pod := w.pod(ctx, job, "done")
	w.setPod(ctx, pod, corev1.PodSucceeded, ended(container, 0, "Completed", result))
	w.setJob(ctx, job, batchv1.JobComplete, "", 0)
}

// jobs counts the Jobs of an object.
func (w world) jobs(ctx context.Context, label, name string) int {
	GinkgoHelper()
	var list batchv1.JobList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels{label: name})).To(Succeed())
	return len(list.Items)
}

// deployed waits for a policy's Deployment.
func (w world) deployed(ctx context.Context, name string) *appsv1.Deployment {
	GinkgoHelper()
	d := &appsv1.Deployment{}
	Eventually(func() error {
		return k8s.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: name}, d)
	}).Should(Succeed())
	return d
}

// expertSet is what pods of a policy that start take.
func (w world) expertSet(ctx context.Context, policy string) contract.ExpertSet {
	GinkgoHelper()
	var configMap corev1.ConfigMap
	w.get(ctx, policy+"-experts", &configMap)
	var set contract.ExpertSet
	Expect(json.Unmarshal([]byte(configMap.Data[contract.ExpertSetKey]), &set)).To(Succeed())
	Expect(set.Digest()).To(Equal(set.Called))
	set.Called = ""
	return set
}

// roll does what the Deployment controller and the kubelet do: count pods as
// the Deployment asks for, ready, each with a server that has the Secret's token.
func (w world) roll(ctx context.Context, name string) []*server {
	GinkgoHelper()
	servers := w.startPods(ctx, w.deployed(ctx, name), "")
	w.setDeployment(ctx, name)
	return servers
}

// startPods makes as many ready pods as a Deployment asks for, as it asks for them,
// each of which refuses every expert set with these words, if there are any.
func (w world) startPods(ctx context.Context, d *appsv1.Deployment, refuse string) []*server {
	GinkgoHelper()
	var secret corev1.Secret
	w.get(ctx, d.Name+"-admin", &secret)
	var servers []*server
	for i := range *d.Spec.Replicas {
		pod := &corev1.Pod{ObjectMeta: w.meta(fmt.Sprintf("%s-%d-%d", d.Name, d.Generation, i)), Spec: *d.Spec.Template.Spec.DeepCopy()}
		pod.Labels, pod.Annotations = d.Spec.Template.Labels, d.Spec.Template.Annotations
		Expect(k8s.Create(ctx, pod)).To(Succeed())
		s := &server{token: string(secret.Data["token"]), refuse: refuse}
		pods.listen(pod, s)
		servers = append(servers, s)
		w.setPod(ctx, pod, corev1.PodRunning, works("serve"))
	}
	return servers
}

// podsOf are the pods of a policy.
func (w world) podsOf(ctx context.Context, policy string) []corev1.Pod {
	GinkgoHelper()
	var list corev1.PodList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels{v1alpha1.LabelPolicy: policy})).To(Succeed())
	return list.Items
}

// setDeployment says that the Deployment has all its pods, ready.
func (w world) setDeployment(ctx context.Context, name string) {
	GinkgoHelper()
	Eventually(func() error {
		d := w.deployed(ctx, name)
		n := *d.Spec.Replicas
		d.Status = appsv1.DeploymentStatus{
			ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
			TerminatingReplicas: ptr.To[int32](0),
		}
		return k8s.Status().Update(ctx, d)
	}).Should(Succeed())
}
