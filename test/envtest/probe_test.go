package envtest

import (
	"context"
	"encoding/json"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// fitted is the result of a Job that fitted a probe.
func fitted(digit string, labels ...string) *contract.Termination {
	return &contract.Termination{Device: "cpu (avx512, 2 threads)", Probe: &contract.ProbeResult{
		Digest: digest(digit), SizeBytes: 2048, BaseDigest: digest("a"), Labels: labels, Examples: 480, Least: 0.8125,
		Evaluation: contract.ProbeEvaluation{Prompts: 96, Accuracy: 0.96875, Unsure: 0.0521, LogLoss: 0.1234, CalibrationError: 0.021},
		Seconds:    3.4,
	}}
}

// losesProbe makes a server answer that it serves all of the set but its probe, which it does not
// find.
func (s *server) losesProbe() {
	set := s.offered[len(s.offered)-1]
	desired, err := set.Digest()
	Expect(err).NotTo(HaveOccurred())
	wrong := contract.LoadError{Digest: set.Probe.Digest, Reason: contract.ReasonExpertMissing, Message: "the probe is not in its place"}
	s.status = contract.ServingStatus{
		DesiredDigest: desired, ExpertSetDigest: digest("9"),
		Error: &contract.LoadError{Digest: desired, Reason: wrong.Reason, Message: wrong.Message},
		Probe: &contract.ServedProbe{Digest: set.Probe.Digest, State: contract.ExpertFailed, Error: &wrong},
	}
	for _, e := range set.Experts {
		s.status.Experts = append(s.status.Experts, contract.ServedExpert{Name: e.Name, Digest: e.Digest, State: contract.ExpertServed})
	}
}

var _ = Describe("A policy of strategy Probe", func() {
	var w world
	var policy *v1alpha1.AdaptivePolicy
	BeforeEach(func(ctx SpecContext) {
		w = newWorld(ctx)
		policy = w.policy("assistant", "math", "code")
		policy.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyProbe}
		w.dataset(ctx, "{}")
		w.decompose(ctx, "tiny")
		w.train(ctx, w.expert("math"), "1")
		w.train(ctx, w.expert("code"), "2")
	})
	set := func(ctx context.Context) contract.ExpertSet { return w.expertSet(ctx, "assistant") }
	// serves waits for a set with this probe, or for one without any.
	serves := func(ctx SpecContext, probe string, experts ...string) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			s := set(ctx)
			if probe == "" {
				g.Expect(s.Strategy).To(Equal(contract.StrategyPrompt))
				g.Expect(s.Probe).To(BeNil())
			} else {
				g.Expect(s.Strategy).To(Equal(contract.StrategyProbe))
				g.Expect(s.Probe).To(HaveValue(Equal(contract.ProbeRef{Digest: digest(probe)})))
			}
			g.Expect(slices.Collect(func(yield func(string) bool) {
				for _, e := range s.Experts {
					yield(e.Name)
				}
			})).To(Equal(experts))
		}).Should(Succeed())
	}
	finish := func(ctx SpecContext, result *contract.Termination) {
		GinkgoHelper()
		w.finish(ctx, v1alpha1.LabelProbe, "assistant", "probe", result)
	}
	probed := func(ctx SpecContext) []*server {
		GinkgoHelper()
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		servers := w.roll(ctx, "assistant")
		finish(ctx, fitted("f", "code", "math"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		return servers
	}
	jobs := func(ctx context.Context) int { return w.jobs(ctx, v1alpha1.LabelProbe, "assistant") }
	specOf := func(job *batchv1.Job) contract.ProbeSpec {
		GinkgoHelper()
		var spec contract.ProbeSpec
		container := job.Spec.Template.Spec.Containers[0]
		Expect(container.Args).To(Equal([]string{"probe"}))
		Expect(json.Unmarshal([]byte(container.Env[0].Value), &spec)).To(Succeed())
		return spec
	}
	current := func(ctx SpecContext, status metav1.ConditionStatus, reason, message string) {
		GinkgoHelper()
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Conditions).To(ContainElement(And(
				HaveField("Type", v1alpha1.ConditionProbeCurrent), HaveField("Status", status),
				HaveField("Reason", reason), HaveField("Message", ContainSubstring(message)))))
		}).Should(Succeed())
	}

	It("goes from its YAML to a probe that chooses", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelProbe, "assistant")
		spec := specOf(job)
		Expect(spec.BaseDigest).To(Equal(digest("a")))
		Expect(spec.Sets).To(ConsistOf(HaveField("Skill", "code"), HaveField("Skill", "math")))
		Expect(spec.Sets[0].Dataset).To(And(HaveField("Format", contract.FormatGSM8K), HaveField("Digest", HavePrefix("sha256:"))))

		By("the base is asked meanwhile, and the status says how far it is")
		servers := w.roll(ctx, "assistant")
		serves(ctx, "", "math", "code")
		pod := w.pod(ctx, job, "runs")
		pods.listen(pod, progressing(contract.Progress{Phase: "Reading", Done: 100, Total: 576, EstimatedRemainingSeconds: 4}))
		w.setPod(ctx, pod, corev1.PodRunning, works("probe"))
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Probe).NotTo(BeNil())
			g.Expect(policy.Status.Probe.Progress).To(HaveValue(HaveField("Summary", "Reading 100/576")))
		}).Should(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonFitting).Message).To(
			And(ContainSubstring("Reading 100/576, about 4 s left"), ContainSubstring("the base is asked")))
		current(ctx, metav1.ConditionFalse, v1alpha1.ReasonProbeNotReady, "the base is asked")

		By("it is served without a restart, and stays when the operator starts anew")
		w.setPod(ctx, pod, corev1.PodSucceeded, ended("probe", 0, "Completed", fitted("f", "code", "math")))
		w.setJob(ctx, job, batchv1.JobComplete, "", 0)
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		serves(ctx, "f", "math", "code")
		Expect(servers[0].sets()[len(servers[0].sets())-1]).To(Equal(set(ctx)))
		current(ctx, metav1.ConditionTrue, v1alpha1.ReasonCurrent, "fitted to 480 training prompts of the policy's experts, and finds the skill of 96.9 % of 96 others")
		probe := policy.Status.Probe
		Expect(probe).To(HaveValue(And(
			HaveField("State", v1alpha1.ExpertServed), HaveField("Digest", v1alpha1.Digest(digest("f"))), HaveField("BaseDigest", v1alpha1.Digest(digest("a"))),
			HaveField("Labels", []string{"code", "math"}), HaveField("Untaught", BeEmpty()),
			HaveField("Prompts", int32(480)), HaveField("HeldOutPrompts", HaveValue(Equal(int32(96)))),
			HaveField("Accuracy", v1alpha1.Score("0.9688")), HaveField("Unsure", v1alpha1.Score("0.0521")), HaveField("CalibrationError", v1alpha1.Score("0.0210")),
			HaveField("LogLoss", v1alpha1.Decimal("0.1234")), HaveField("Threshold", v1alpha1.Score("0.8125")),
			HaveField("DurationSeconds", HaveValue(Equal(int64(3)))), HaveField("Progress", BeNil()),
		)))
		Expect(probe.Runs).To(ConsistOf(And(HaveField("ID", probe.RunID), HaveField("Result", "Succeeded"), HaveField("Device", "cpu (avx512, 2 threads)"))))

		operator.stop()
		operator = start()
		version := policy.ResourceVersion
		Consistently(func(g Gomega) {
			g.Expect(jobs(ctx)).To(Equal(1))
			w.get(ctx, "assistant", policy)
			g.Expect(policy.ResourceVersion).To(Equal(version), "nothing is written")
		}).Should(Succeed())
	})

	It("serves the probe that it has while another one is fitted to other experts", func(ctx SpecContext) {
		probed(ctx)
		was := policy.Status.Probe.RunID
		w.train(ctx, w.expert("law"), "3")
		Consistently(func() int { return jobs(ctx) }).Should(Equal(1))

		By("an expert more can be named at once, and is chosen once it is known")
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "law"})
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		serves(ctx, "f", "math", "code", "law")
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(Equal(1))
		Expect(specOf(w.openJob(ctx, v1alpha1.LabelProbe, "assistant")).Sets).To(HaveLen(3))
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonPending).Message).To(ContainSubstring("the probe of before is served"))
		current(ctx, metav1.ConditionFalse, v1alpha1.ReasonProbeStale, "does not know law")
		finish(ctx, fitted("e", "code", "law", "math"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		serves(ctx, "e", "math", "code", "law")
		current(ctx, metav1.ConditionTrue, v1alpha1.ReasonCurrent, "")
		Expect(policy.Status.Probe.RunID).NotTo(Equal(was))
		Expect(policy.Status.Probe.Runs).To(HaveLen(2))

		By("what an expert has learnt is nothing to it, nor what it is called")
		math := w.expert("math")
		w.get(ctx, "math", math)
		math.Spec.Description, math.Spec.Training.Seed = "sums", new(int64(9))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			g.Expect(w.openJob(ctx, v1alpha1.LabelExpert, "math")).NotTo(BeNil())
		}).Should(Succeed())
		w.finishTraining(ctx, "math", trained("7", "a", "b"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Probe).To(And(HaveField("Digest", v1alpha1.Digest(digest("e"))), HaveField("Runs", HaveLen(2))))

		By("an expert less is told by the probe that knows it, until another is fitted")
		policy.Spec.Experts = policy.Spec.Experts[1:]
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		serves(ctx, "e", "code", "law")
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(Equal(1))
		finish(ctx, fitted("d", "code", "law"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		serves(ctx, "d", "code", "law")
	})

	It("is fitted again when training data change, and not when only its own bounds do", func(ctx SpecContext) {
		probed(ctx)
		policy.Spec.Strategy.Probe = &v1alpha1.ProbeStrategy{MinProbability: "0.5"}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func() float64 { return set(ctx).MinProbability }).Should(Equal(0.5))
		Expect(jobs(ctx)).To(Equal(1))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		others := &corev1.ConfigMap{ObjectMeta: w.meta("others"), Data: map[string]string{"chats.jsonl": "{}"}}
		policy.Spec.Strategy.Probe.Others = &v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "others", Key: "chats.jsonl"}, Format: v1alpha1.FormatPairs}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonDatasetNotFound).Message).To(
			And(ContainSubstring("spec.strategy.probe.others: ConfigMap others"), ContainSubstring("the probe of before is served")))
		Expect(k8s.Create(ctx, others)).To(Succeed())
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(Equal(1))
		finish(ctx, fitted("e", "code", "math", "others"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)

		By("it stands where its prompts cannot be read any more")
		Expect(k8s.Delete(ctx, others)).To(Succeed())
		touch(ctx, w, policy)
		Consistently(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Probe.Digest).To(Equal(v1alpha1.Digest(digest("e"))))
			g.Expect(policy.Status.Conditions).To(ContainElement(And(HaveField("Type", "Ready"), HaveField("Status", metav1.ConditionTrue))))
		}).Should(Succeed())
	})

	It("ends the Job of another that is not asked for any more", func(ctx SpecContext) {
		probed(ctx)
		policy.Spec.Strategy.Probe = &v1alpha1.ProbeStrategy{MaxPrompts: 64}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Probe.Runs).To(HaveLen(2))
		}).Should(Succeed())
		policy.Spec.Strategy.Probe = nil
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func() int { w.collect(ctx); return jobs(ctx) }).Should(BeZero())
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Probe).To(And(HaveField("Digest", v1alpha1.Digest(digest("f"))),
			HaveField("Runs", HaveExactElements(HaveField("Result", "Superseded"), HaveField("Result", "Succeeded")))))
		serves(ctx, "f", "math", "code")
	})

	It("says why no probe can be fitted, and is served all the same", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		job := w.openJob(ctx, v1alpha1.LabelProbe, "assistant")
		pod := w.pod(ctx, job, "failed")
		w.setPod(ctx, pod, corev1.PodFailed, ended("probe", contract.ExitPermanent, "Error", &contract.Termination{
			Reason: contract.ReasonInvalidDataset, Permanent: true, Message: `label "code" has 1 examples: two at least are needed`,
		}))
		w.setJob(ctx, job, batchv1.JobFailed, "PodFailurePolicy", 1)
		message := w.becomes(ctx, policy, metav1.ConditionFalse, contract.ReasonInvalidDataset).Message
		Expect(message).To(And(ContainSubstring("two at least are needed"), ContainSubstring("delete Job "+job.Name), ContainSubstring("the base is asked")))
		serves(ctx, "", "math", "code")
		w.roll(ctx, "assistant")
		Eventually(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Conditions).To(ContainElement(And(HaveField("Type", v1alpha1.ConditionAvailable), HaveField("Status", metav1.ConditionTrue),
				HaveField("Message", ContainSubstring("without a probe")))))
		}).Should(Succeed())
	})

	It("says when there is nothing to fit it to", func(ctx SpecContext) {
		policy.Spec.Experts = policy.Spec.Experts[:1]
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonProbeUnfittable).Message).To(ContainSubstring("spec.strategy.probe.others"))
		Expect(jobs(ctx)).To(BeZero())
	})

	It("is fitted while experts are trained, and waits for those that are not there", func(ctx SpecContext) {
		policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: "law"})
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonExpertNotFound)
		Consistently(func() int { return jobs(ctx) }).Should(BeZero())
		Expect(k8s.Create(ctx, w.expert("law"))).To(Succeed())
		Expect(specOf(w.openJob(ctx, v1alpha1.LabelProbe, "assistant")).Sets).To(HaveLen(3))
		finish(ctx, fitted("f", "code", "law", "math"))
		serves(ctx, "f", "math", "code")
		w.roll(ctx, "assistant")
		w.finishTraining(ctx, "law", trained("3", "a", "b"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		serves(ctx, "f", "math", "code", "law")
		Expect(jobs(ctx)).To(Equal(1))
	})

	It("is fitted again when pods do not find it", func(ctx SpecContext) {
		pod := probed(ctx)[0]
		was := w.job(ctx, v1alpha1.LabelProbe, "assistant")
		pod.change(func(s *server) { s.losesProbe() })
		touch(ctx, w, policy)
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonProbeLost).Message).To(ContainSubstring("the probe is not in its place"))
		Eventually(func(g Gomega) {
			touch(ctx, w, policy) // Else pods are asked in a while.
			w.collect(ctx)
			var list batchv1.JobList
			g.Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			g.Expect(list.Items).NotTo(ContainElement(HaveField("UID", was.UID)))
		}).Should(Succeed())
		Expect(w.openJob(ctx, v1alpha1.LabelProbe, "assistant").Labels[v1alpha1.LabelRun]).To(Equal(was.Labels[v1alpha1.LabelRun]))
		pod.change(func(s *server) { s.finds() })
		finish(ctx, fitted("f", "code", "math"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Probe).To(And(HaveField("State", v1alpha1.ExpertServed), HaveField("Runs", ConsistOf(HaveField("Retries", HaveValue(Equal(int32(1))))))))
	})

	It("learns from what the gate has found out, once, and serves meanwhile", func(ctx SpecContext) {
		evaluated := func(result *contract.Termination) {
			GinkgoHelper()
			w.finish(ctx, v1alpha1.LabelEvaluation, "assistant", "evaluate", result)
		}
		taught := func(digit string) *contract.Termination {
			t := fitted(digit, "code", "math")
			t.Probe.Lesson = &contract.ProbeLesson{
				Questions: 40, Weight: 0.25, Before: contract.LessonScore{Right: 0.55, CalibrationError: 0.3}, After: contract.LessonScore{Right: 0.8, CalibrationError: 0.1},
			}
			return t
		}
		fits := func(runs int) contract.ProbeSpec {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				w.collect(ctx)
				w.get(ctx, "assistant", policy)
				g.Expect(policy.Status.Probe.Runs).To(HaveLen(runs))
				g.Expect(jobs(ctx)).To(Equal(1))
			}).Should(Succeed())
			return specOf(w.openJob(ctx, v1alpha1.LabelProbe, "assistant"))
		}
		evaluates := func(runs int) {
			GinkgoHelper()
			Eventually(func(g Gomega) {
				w.collect(ctx)
				w.get(ctx, "assistant", policy)
				g.Expect(policy.Status.Rollout.Runs).To(HaveLen(runs))
			}).Should(Succeed())
		}
		Expect(k8s.Create(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("questions"), Data: map[string]string{"test.jsonl": "{}", "general.jsonl": "{}"}})).To(Succeed())
		policy.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: gate()}
		Expect(k8s.Create(ctx, policy)).To(Succeed())

		By("the first probe is of prompts alone, and so is the set that is evaluated")
		Expect(specOf(w.openJob(ctx, v1alpha1.LabelProbe, "assistant")).Answers).To(BeNil())
		w.roll(ctx, "assistant")
		Expect(w.jobs(ctx, v1alpha1.LabelEvaluation, "assistant")).To(BeZero())
		finish(ctx, fitted("f", "code", "math"))
		evaluated(scored(2, 10, -1, 20, -1, 30))

		By("the set that has passed serves while the probe learns from that")
		answers := fits(2).Answers
		Expect(answers).To(HaveValue(And(HaveField("ID", policy.Status.Rollout.Evaluation.AnswersID), HaveField("Digest", digest("e")),
			HaveField("Experts", []contract.EvaluatedExpert{{Name: "code", Skill: "code"}, {Name: "math", Skill: "math"}}))))
		serves(ctx, "f", "math", "code")
		Expect(w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonPending).Message).To(ContainSubstring("the probe of before is served"))
		Expect(policy.Status.Rollout.Summary).To(Equal("Passed +0.20"))
		current(ctx, metav1.ConditionTrue, v1alpha1.ReasonCurrent, "fitted to 480 training prompts")
		Expect(policy.Status.Probe.Answers).To(BeNil())

		By("the set with the probe that has learnt is evaluated, and follows")
		finish(ctx, taught("7"))
		evaluates(2)
		serves(ctx, "f", "math", "code")
		evaluated(scored(2, 10, 20, 30, 30, 30))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		serves(ctx, "7", "math", "code")
		Expect(policy.Status.Probe.Answers).To(HaveValue(Equal(v1alpha1.ProbeAnswers{
			ID: answers.ID, Digest: v1alpha1.Digest(digest("e")), Experts: []string{"code", "math"}, Questions: new(int32(40)), Weight: "0.2500",
			Accuracy: "0.8000", CalibrationError: "0.1000", PromptsAccuracy: "0.5500", PromptsCalibrationError: "0.3000",
		})))
		current(ctx, metav1.ConditionTrue, v1alpha1.ReasonCurrent, "it sends 80 % of such to one that answers right, and would send 55 % by the prompts alone")

		By("what is found out of the same experts once more is known already, whenever the operator starts")
		Expect(policy.Status.Rollout.Evaluation.AnswersID).To(Equal(answers.ID))
		operator.stop()
		operator = start()
		version := policy.ResourceVersion
		Consistently(func(g Gomega) {
			w.get(ctx, "assistant", policy)
			g.Expect(policy.ResourceVersion).To(Equal(version), "nothing is written")
		}).Should(Succeed())

		By("an expert that is trained anew is evaluated with the probe there is, which then learns again")
		math := w.expert("math")
		w.get(ctx, "math", math)
		math.Spec.Training.Seed = new(int64(9))
		Expect(k8s.Update(ctx, math)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			g.Expect(w.openJob(ctx, v1alpha1.LabelExpert, "math")).NotTo(BeNil())
		}).Should(Succeed())
		w.finishTraining(ctx, "math", trained("8", "a", "b"))
		evaluates(3)
		Expect(policy.Status.Probe.Runs).To(HaveLen(2))
		evaluated(scored(2, 10, 30, 35, 30, 30))
		again := fits(3).Answers
		Expect(again.ID).NotTo(Equal(answers.ID))
		serves(ctx, "7", "math", "code")

		By("a probe that comes out as it was makes no other set, and nothing is evaluated")
		finish(ctx, taught("7"))
		w.becomes(ctx, policy, metav1.ConditionTrue, v1alpha1.ReasonServing)
		Expect(policy.Status.Probe.Answers.ID).To(Equal(again.ID))
		Expect(policy.Status.Rollout.Runs).To(HaveLen(3))
		Expect(w.expertSet(ctx, "assistant").Experts[0].Digest).To(Equal(digest("8")))
	})

	It("lets the answers of a set that fails teach the next one, which may pass", func(ctx SpecContext) {
		Expect(k8s.Create(ctx, &corev1.ConfigMap{ObjectMeta: w.meta("questions"), Data: map[string]string{"test.jsonl": "{}", "general.jsonl": "{}"}})).To(Succeed())
		policy.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: gate()}
		Expect(k8s.Create(ctx, policy)).To(Succeed())
		w.openJob(ctx, v1alpha1.LabelProbe, "assistant")
		w.roll(ctx, "assistant")
		finish(ctx, fitted("f", "code", "math"))
		w.finish(ctx, v1alpha1.LabelEvaluation, "assistant", "evaluate", scored(2, 10, -1, 8, -1, 30))
		Eventually(func(g Gomega) {
			w.collect(ctx)
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Probe.Runs).To(HaveLen(2))
			g.Expect(jobs(ctx)).To(Equal(1))
		}).Should(Succeed())
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonPending) // Nobody has to do anything yet.
		Expect(policy.Status.Rollout.Summary).To(Equal("Failed -0.04"))
		Expect(w.expertSet(ctx, "assistant").Experts).To(BeEmpty())

		By("it has learnt nothing, so that the verdict stands")
		finish(ctx, fitted("f", "code", "math"))
		w.becomes(ctx, policy, metav1.ConditionFalse, v1alpha1.ReasonEvaluationFailed)
		Expect(policy.Status.Rollout.Runs).To(HaveLen(1))
	})

	It("is forgotten with its strategy", func(ctx SpecContext) {
		probed(ctx)
		policy.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt}
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		Eventually(func(g Gomega) {
			w.collect(ctx)
			g.Expect(jobs(ctx)).To(BeZero())
			w.get(ctx, "assistant", policy)
			g.Expect(policy.Status.Probe).To(BeNil())
			g.Expect(policy.Status.Conditions).NotTo(ContainElement(HaveField("Type", v1alpha1.ConditionProbeCurrent)))
		}).Should(Succeed())
		serves(ctx, "", "math", "code")
	})
})
