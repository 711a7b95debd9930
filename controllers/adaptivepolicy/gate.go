package adaptivepolicy

import (
	"cmp"
	"math/big"

	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
)

// minGain is how far an expert's score must be above its base's. Where whole sets are
// evaluated, what is asked of them is not asked of each expert, too.
func minGain(policy *v1alpha1.AdaptivePolicy) v1alpha1.Gain {
	gate := desired.Gate(policy)
	if gate == nil || desired.Evaluates(policy) && rational(gate.MinGain).Sign() > 0 {
		return "0"
	}
	return cmp.Or(gate.MinGain, "0")
}

// gained reports whether an expert's score is as far above its base's as the policy
// asks.
func gained(policy *v1alpha1.AdaptivePolicy, expert *v1alpha1.ExpertVector) bool {
	return above(expert, minGain(policy))
}

// above reports whether an expert's score is as far above its base's as is asked. An
// expert of which no scores are known was imported: whoever made it has judged it. The
// numbers are compared as they are written.
func above(expert *v1alpha1.ExpertVector, asked v1alpha1.Gain) bool {
	gain, known := status.Gain(expert)
	least, ok := new(big.Rat).SetString(string(asked))
	if !known || !ok {
		return true
	}
	return gain.Cmp(least) >= 0
}

// belowGate says what is wrong with an expert that is not good enough. One that
// the policy only selects is left out: nobody asked for it by name.
func belowGate(c *candidate, policy *v1alpha1.AdaptivePolicy) error {
	if !c.named {
		return nil
	}
	score, baseline := c.expert.Status.Score, c.expert.Status.BaselineScore
	if !status.IsReady(c.expert) {
		return status.Wait(v1alpha1.ReasonExpertsNotReady,
			"ExpertVector %s is not served: its validation score %s less the base model's %s is below %s (spec.rollout.gate.minGain). Waiting for its next run: %s",
			c.name, score, baseline, minGain(policy), status.Explain(c.expert))
	}
	return status.Stall(v1alpha1.ReasonBelowBaseline,
		"ExpertVector %s is not served: its validation score %s less the base model's %s is below %s (spec.rollout.gate.minGain); "+
			"train it otherwise, take it out of spec.experts, or set minGain to \"-1\" to serve it all the same",
		c.name, score, baseline, minGain(policy))
}

// contextFits makes sure that the model was made for sequences as long as the
// policy asks for: a pod would refuse to start.
func contextFits(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) error {
	asked, model := ptr.Deref(policy.Spec.Serving.ContextLength, 0), base.Status.Architecture
	if model == nil || model.ContextLength == 0 || asked <= model.ContextLength {
		return nil
	}
	return status.Stall(v1alpha1.ReasonContextTooLong,
		"spec.serving.contextLength is %d, but BaseModel %s was made for %d tokens; set it to %d or less, or take it out",
		asked, base.Name, model.ContextLength, model.ContextLength)
}
