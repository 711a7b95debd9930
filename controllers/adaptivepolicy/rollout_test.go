package adaptivepolicy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// gated is a policy whose sets are evaluated, with one guard.
func gated(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	questions := func(name string) v1alpha1.Dataset {
		return v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: name, Key: "test.jsonl"}, Format: v1alpha1.FormatPairs}
	}
	gate := questions("questions")
	p := policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{
			Dataset: &gate, Reward: v1alpha1.RewardExactMatch, MinGain: "0.05",
			Guards: []v1alpha1.RolloutGuard{{Name: "general", Dataset: questions("general"), Reward: v1alpha1.RewardExactMatch, MaxLoss: "0.02"}},
		}}
		p.Status.Rollout = &v1alpha1.RolloutStatus{}
	})
	for _, c := range change {
		c(p)
	}
	return p
}

// stableOf is a set of the expert math of before.
func stableOf(digits string) *desired.StableSet {
	return &desired.StableSet{
		DecompositionDigest: digest("b"), Since: metav1.Unix(1_000_000, 0),
		Set: contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
			{Name: "math", Skill: "math", Digest: string(digest(digits))},
		}},
	}
}

// scores are those of 64 questions.
func scores(base, stable, candidate, won, lost int) contract.SetScores {
	return contract.SetScores{Questions: 64, Base: base, Stable: stable, Candidate: candidate, Won: won, Lost: lost, DatasetDigest: string(digest("d"))}
}

// evaluatedAs is what the status has of an evaluation with these scores.
func evaluatedAs(t *testing.T, p *v1alpha1.AdaptivePolicy, before *contract.ExpertSet, chosen choice, sets ...contract.SetScores) {
	t.Helper()
	result := &contract.EvaluationResult{Digest: string(digest("e")), Sets: sets, Experts: make([]int, len(chosen.set.Experts)), Seconds: 12.4}
	if err := acceptEvaluation(p, desired.Run{ID: "run", Recipe: "recipe"}, before, chosen, result, nil); err != nil {
		t.Fatal(err)
	}
}

// TestAGateJudgesAsItIsWritten is the table of what a gate lets pass.
func TestAGateJudgesAsItIsWritten(t *testing.T) {
	chosen := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	for _, tc := range []struct {
		name            string
		minGain         v1alpha1.Gain
		maxLoss         v1alpha1.Decimal
		first           bool
		gate, guard     contract.SetScores
		passes          bool
		summary, reason string
	}{
		{"a gain as large as is asked", "0.0625", "", false, scores(10, 20, 24, 6, 2), scores(9, 30, 30, 1, 1), true, "Passed +0.06", ""},
		{"a gain that is too small", "0.0626", "", false, scores(10, 20, 24, 6, 2), scores(9, 30, 30, 1, 1), false, "Failed +0.06", "minGain"},
		{"none is asked, and it is the same", "", "", false, scores(10, 20, 20, 0, 0), scores(9, 30, 30, 0, 0), true, "Passed +0.00", ""},
		{"none is asked, and it is worse", "", "", false, scores(10, 20, 19, 0, 1), scores(9, 30, 30, 0, 0), false, "Failed -0.02", "minGain"},
		{"a loss is let pass", "-1", "", false, scores(10, 20, 0, 0, 20), scores(9, 30, 30, 0, 0), true, "Passed -0.31", ""},
		{"a guard loses as much as it may", "", "0.03125", false, scores(10, 20, 24, 6, 2), scores(9, 30, 28, 0, 2), true, "Passed +0.06", ""},
		{"a guard loses too much", "", "0.0311", false, scores(10, 20, 24, 6, 2), scores(9, 30, 28, 0, 2), false, "Failed +0.06", "guard general"},
		{"a guard may lose nothing", "", "", false, scores(10, 20, 24, 6, 2), scores(9, 30, 29, 0, 1), false, "Failed +0.06", "guards[0].maxLoss"},
		{"the first set is compared with the base", "0.2", "", true, scores(10, 0, 24, 14, 0), scores(30, 0, 30, 0, 0), true, "Passed +0.22", ""},
		{"the first set is worse than the base", "", "", true, scores(24, 0, 20, 0, 4), scores(30, 0, 30, 0, 0), false, "Failed -0.06", "the base model answers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := gated(func(p *v1alpha1.AdaptivePolicy) {
				p.Spec.Rollout.Gate.MinGain, p.Spec.Rollout.Gate.Guards[0].MaxLoss = tc.minGain, tc.maxLoss
			})
			reference := stableOf("9")
			before := &reference.Set
			if tc.first {
				reference, before = nil, nil
			}
			evaluatedAs(t, p, before, chosen, tc.gate, tc.guard)
			got := judged(p, evaluated{}, reference)
			if got.promoted != tc.passes || got.failed == tc.passes || got.summary != tc.summary || !strings.Contains(got.message, tc.reason) {
				t.Errorf("got %+v", got)
			}
			if _, stalled := got.problem.(*status.Stalled); stalled == tc.passes { //nolint:errorlint // It is as judged made it.
				t.Errorf("the problem is %v", got.problem)
			}
		})
	}
}

// TestARolloutGoesOnFromWhatIsThere walks through all that an operator may find when it
// starts: what the ConfigMap keeps and what the status says of evaluations.
func TestARolloutGoesOnFromWhatIsThere(t *testing.T) {
	chosen := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	waiting := choose(policy(), readyBase(), found(expert("math"), expert("code", training)))
	before := stableOf("9")
	asked := &desired.StableSet{Set: chosen.set, DecompositionDigest: digest("b")}
	pass := func(e evaluated) func(*v1alpha1.AdaptivePolicy) (stage, error) {
		return func(p *v1alpha1.AdaptivePolicy) (stage, error) {
			evaluatedAs(t, p, &before.Set, chosen, scores(10, 20, 30, 10, 0), scores(9, 30, 30, 0, 0))
			return judged(p, e, before), nil
		}
	}
	for _, tc := range []struct {
		name      string
		stage     func(*v1alpha1.AdaptivePolicy) (stage, error)
		promoted  bool
		reason    string
		problem   string
		condition bool
	}{
		{"what is asked for serves", func(p *v1alpha1.AdaptivePolicy) (stage, error) { return promoted(p.Status.Rollout, chosen), nil }, true, v1alpha1.ReasonPromoted, "", true},
		{"experts are awaited", func(*v1alpha1.AdaptivePolicy) (stage, error) { return awaiting(before), nil }, false, v1alpha1.ReasonAwaitingExperts, "", false},
		{"the evaluation goes on", func(p *v1alpha1.AdaptivePolicy) (stage, error) {
			return evaluating(p.Status.Rollout, status.Wait(v1alpha1.ReasonEvaluating, "Evaluating the expert set"), before), nil
		}, false, v1alpha1.ReasonEvaluating, v1alpha1.ReasonEvaluating, false},
		{"the evaluation cannot be made", func(p *v1alpha1.AdaptivePolicy) (stage, error) {
			return evaluating(p.Status.Rollout, status.Stall(contract.ReasonInvalidDataset, "no record can be used"), before), nil
		}, false, contract.ReasonInvalidDataset, contract.ReasonInvalidDataset, false},
		{"it has only just passed", pass(evaluated{fresh: true}), false, v1alpha1.ReasonEvaluated, v1alpha1.ReasonEvaluated, false},
		{"it has passed, as the status has it", pass(evaluated{}), true, v1alpha1.ReasonPromoted, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := gated()
			s, err := tc.stage(p)
			if err != nil {
				t.Fatal(err)
			}
			if s.promoted != tc.promoted || s.reason != tc.reason || (s.problem == nil) != (tc.problem == "") {
				t.Errorf("got %+v", s)
			}
			if s.problem != nil && !strings.HasPrefix(s.problem.Error(), tc.problem+": ") {
				t.Errorf("the problem is %v", s.problem)
			}
			stable := before
			if s.promoted {
				stable = asked
			}
			s.write(p, stable, *asked)
			if got := status.Holds(p, v1alpha1.ConditionRolledOut); got != tc.condition {
				t.Errorf("it is rolled out: %v", got)
			}
			if got := p.Status.Rollout.Candidate != nil; got == tc.promoted {
				t.Errorf("there is a candidate: %v", got)
			}
			was := p.Status.Rollout.DeepCopy()
			later, next := *stable, *asked
			later.Since, next.Since = metav1.Unix(2_000_000, 0), metav1.Unix(2_000_000, 0)
			if s.write(p, &later, next); !cmp.Equal(was, p.Status.Rollout) {
				t.Error("looked at later, the status is another")
			}
		})
	}
	if !awaits(waiting.problem) || awaits(chosen.problem) || awaits(unfittable(chosen)) || awaits(status.Stall("X", "y")) {
		t.Error("what passes by itself is awaited, and nothing else")
	}
}

// TestPodsAreOfferedTheStableSetMeanwhile, and experts of which they are offered less say so.
func TestPodsAreOfferedTheStableSetMeanwhile(t *testing.T) {
	chosen := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	before := stableOf("9")
	got := chosen.withhold(before, before)
	if diff := cmp.Diff(before.Set, got.set); diff != "" || got.digest != setDigest(before.Set) || !got.fits || got.stable != before {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var states []string
	for _, e := range expertStatuses(got, []observation{serving("p", got.digest)}) {
		states = append(states, strings.TrimSpace(e.Name+" "+string(e.State)+" "+string(e.Digest)))
	}
	if diff := cmp.Diff([]string{"math Held " + string(digest("9")), "code Held"}, states); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Before there is one the base answers.
	got = chosen.withhold(nil, nil)
	if len(got.set.Experts) != 0 || got.set.Experts == nil || !got.fits || got.stable != nil {
		t.Errorf("without a stable set pods are offered %+v", got.set)
	}
	// A stable set of another decomposition cannot be computed: what runs goes on.
	other := stableOf("9")
	other.DecompositionDigest = digest("7")
	if got = chosen.withhold(other, nil); got.fits || len(got.set.Experts) != 0 {
		t.Errorf("with a stable set of another decomposition pods are offered %+v", got.set)
	}
	for _, c := range chosen.candidates {
		if c.held || c.offered != "" {
			t.Error("what was chosen is changed by what is offered")
		}
	}
}

// TestTheStableSetIsFoundAgain whatever an end of the operator has left.
func TestTheStableSetIsFoundAgain(t *testing.T) {
	before, later := stableOf("9"), stableOf("8")
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	none := contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{}}
	for _, tc := range []struct {
		name string
		data map[string]string
		want string
	}{
		{"nothing is there", nil, ""},
		{"only the base served", map[string]string{contract.ExpertSetKey: text(none)}, ""},
		{"a set served before there was a gate", map[string]string{contract.ExpertSetKey: text(before.Set)}, setDigest(before.Set)},
		{"a set was promoted", map[string]string{contract.ExpertSetKey: text(later.Set), desired.StableSetKey: text(later)}, setDigest(later.Set)},
		{"somebody damaged it", map[string]string{contract.ExpertSetKey: text(before.Set), desired.StableSetKey: "{"}, setDigest(before.Set)},
		{"somebody damaged all", map[string]string{contract.ExpertSetKey: "[", desired.StableSetKey: "{"}, ""},
	} {
		got := ""
		if s := keptSet(tc.data, digest("b")); s != nil {
			got = setDigest(s.Set)
			if s.DecompositionDigest != digest("b") || s.Since.IsZero() {
				t.Errorf("%s: %+v", tc.name, s)
			}
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestAResultThatMakesNoSenseIsNone: a runtime of another version, say.
func TestAResultThatMakesNoSenseIsNone(t *testing.T) {
	chosen := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	good := func() *contract.EvaluationResult {
		return &contract.EvaluationResult{
			Digest: string(digest("e")), Sets: []contract.SetScores{scores(1, 2, 3, 1, 0), scores(1, 2, 3, 1, 0)}, Experts: []int{1, 2},
		}
	}
	for name, change := range map[string]func(*contract.EvaluationResult){
		"no digest":          func(r *contract.EvaluationResult) { r.Digest = "" },
		"a data set less":    func(r *contract.EvaluationResult) { r.Sets = r.Sets[:1] },
		"an expert less":     func(r *contract.EvaluationResult) { r.Experts = r.Experts[:1] },
		"no questions":       func(r *contract.EvaluationResult) { r.Sets[0] = contract.SetScores{} },
		"more than all":      func(r *contract.EvaluationResult) { r.Sets[1].Candidate = 65 },
		"won more than had":  func(r *contract.EvaluationResult) { r.Sets[1].Won = 4 },
		"lost more than are": func(r *contract.EvaluationResult) { r.Sets[1].Lost = 62 },
	} {
		p, r := gated(), good()
		change(r)
		if err := acceptEvaluation(p, desired.Run{}, nil, chosen, r, jobNamed()); err == nil || p.Status.Rollout.Evaluation != nil {
			t.Errorf("%s is accepted", name)
		}
	}
	p := gated()
	if err := acceptEvaluation(p, desired.Run{ID: "run"}, nil, chosen, good(), jobNamed()); err != nil {
		t.Fatal(err)
	}
	if got := p.Status.Rollout.Evaluation; got.Gate.StableScore != "" || got.Gate.Score != "0.0469" || got.Experts[1].Score != "0.0312" || got.StableDigest != "" {
		t.Errorf("got %+v", got)
	}
}

func jobNamed() *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "assistant-0123abcd"}}
}

// rolloutMessages are those of evaluations.
func rolloutMessages(t *testing.T) []statustest.Message {
	t.Helper()
	chosen := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	before := stableOf("9")
	var all []statustest.Message
	add := func(name string, err error) { all = append(all, statustest.Of(name, status.Ready{}, err)) }
	p := gated()
	p.Status.Rollout.Progress = &v1alpha1.EvaluationProgress{Summary: "Evaluating 12/64", EstimatedRemainingSeconds: new(int64(42))}
	doing := func() error {
		return status.Wait(v1alpha1.ReasonEvaluating, "%s", describeEvaluation(p.Status.Rollout.Progress))
	}
	add("an expert set is evaluated, and a pod says how far", evaluating(p.Status.Rollout, doing(), before).problem)
	p.Status.Rollout.Progress = nil
	add("the first expert set is evaluated", evaluating(p.Status.Rollout, doing(), nil).problem)
	serves := func(name string, s stage) {
		all = append(all, statustest.Of(name, status.Ready{Reason: s.reason, Message: s.message}, nil))
	}
	serves("an expert set served before there was a gate", promoted(p.Status.Rollout, chosen))
	evaluatedAs(t, p, &before.Set, chosen, scores(10, 20, 30, 10, 0), scores(9, 30, 30, 0, 0))
	serves("an expert set serves", promoted(p.Status.Rollout, chosen))
	add("an expert set has passed", judged(p, evaluated{fresh: true}, before).problem)
	evaluatedAs(t, p, &before.Set, chosen, scores(10, 20, 19, 3, 4), scores(9, 30, 20, 0, 10))
	add("an expert set has not passed, nor its guard", judged(p, evaluated{}, before).problem)
	evaluatedAs(t, p, nil, chosen, scores(10, 0, 9, 0, 1), scores(9, 0, 9, 0, 0))
	add("the first expert set has not passed", judged(p, evaluated{}, nil).problem)
	add("an evaluation says nothing", acceptEvaluation(p, desired.Run{}, nil, chosen, nil, jobNamed()))
	return all
}

// TestBitFlipsOfAStableSet, of which every bit flips: what is no set any more is known by that, and
// what the ConfigMap offers to pods that start takes its place; nothing panics. Other numbers
// in it are not noticed: the API server's store has checksums.
func TestBitFlipsOfAStableSet(t *testing.T) {
	stable, other := stableOf("9"), stableOf("8")
	text, err := json.Marshal(stable)
	if err != nil {
		t.Fatal(err)
	}
	offered, err := json.Marshal(other.Set)
	if err != nil {
		t.Fatal(err)
	}
	fell := 0
	for bit := range 8 * len(text) {
		damaged := slices.Clone(text)
		damaged[bit/8] ^= 1 << (bit % 8)
		kept := keptSet(map[string]string{desired.StableSetKey: string(damaged), contract.ExpertSetKey: string(offered)}, digest("b"))
		if kept == nil || len(kept.Set.Experts) != 1 {
			t.Fatalf("bit %d: %+v", bit, kept)
		}
		if kept.Set.Experts[0].Digest == other.Set.Experts[0].Digest {
			fell++
		}
	}
	for length := range len(text) {
		if kept := keptSet(map[string]string{desired.StableSetKey: string(text[:length]), contract.ExpertSetKey: string(offered)}, digest("b")); kept.Set.Experts[0].Digest != other.Set.Experts[0].Digest {
			t.Errorf("cut to %d bytes: %+v", length, kept)
		}
	}
	if fell < len(text) {
		t.Errorf("%d of %d damages were found", fell, 8*len(text))
	}
}

// What is held back does not answer, and what the policy does not ask for any more may.
func TestWhoAnswersWhileExpertsAreHeld(t *testing.T) {
	experts := []v1alpha1.PolicyExpertStatus{{Name: "new", State: v1alpha1.ExpertHeld}}
	before := &v1alpha1.RolloutSet{Experts: []v1alpha1.RolloutExpert{{Name: "math"}, {Name: "code"}}}
	for name, tc := range map[string]struct {
		rollout *v1alpha1.RolloutStatus
		says    string
	}{
		"by the set before":  {&v1alpha1.RolloutStatus{Stable: before}, "by the set before, of 2 experts"},
		"nothing was before": {&v1alpha1.RolloutStatus{}, "by the base weights"},
		"no rollout":         {nil, "by the base weights"},
	} {
		policy := &v1alpha1.AdaptivePolicy{Status: v1alpha1.AdaptivePolicyStatus{Experts: experts, Rollout: tc.rollout}}
		if got := answersWith(policy); !strings.HasPrefix(got, tc.says) {
			t.Errorf("%s: it says %q", name, got)
		}
	}
}
