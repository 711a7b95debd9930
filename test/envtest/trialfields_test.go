package envtest

import (
	"cmp"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// trialRows are of a policy whose set serves: how the next one is to be tried changes nothing
// of it.
var trialRows = []policyRow{
	{"rollout.observe.minutes", nothing, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = cmp.Or(p.Spec.Rollout, &v1alpha1.RolloutSpec{}) // Without its gate it would have another set.
		p.Spec.Rollout.Observe = &v1alpha1.RolloutObserve{Minutes: 5}
	}},
	{"rollout.observe.requests", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Rollout.Observe.Requests = 100 }},
	{"rollout.observe.percent", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Rollout.Observe.Percent = 50 }},
	{"rollout.canary.steps[].percent", nothing, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout.Canary = &v1alpha1.RolloutCanary{Steps: []v1alpha1.CanaryStep{{Percent: 10, Minutes: 5}}}
	}},
	{"rollout.canary.steps[].minutes", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Rollout.Canary.Steps[0].Minutes = 10 }},
	{"rollout.canary.abort.maxErrorRate", nothing, func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout.Canary.Abort = &v1alpha1.CanaryAbort{MaxErrorRate: "0.1"}
	}},
	{"rollout.canary.abort.maxErrorIncrease", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Rollout.Canary.Abort.MaxErrorIncrease = "0.1" }},
	{"rollout.canary.abort.minRequests", nothing, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Rollout.Canary.Abort.MinRequests = 50 }},
}
