package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RolloutCanary has a new expert set answer a growing share of the conversations before it
// answers all. It is loaded beside the set that serves, in the same pods. Which conversations
// it answers depends on what they begin with and on the set alone, so that none goes back
// while the share grows. The first set of a policy, and one for another decomposition, has
// nothing beside it and serves at once.
type RolloutCanary struct {
	// steps in their order. Each lasts from when every pod divides the conversations so.
	// Behind the last one the new set serves.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.map(s, s.percent).isSorted() && self.all(i, self.exists_one(j, j.percent == i.percent))",message="each step must have a larger percent than the one before"
	Steps []CanaryStep `json:"steps,omitempty"`
	// abort says when the new set is withdrawn; with the defaults of its fields without it.
	// A change judges the same numbers anew.
	// +optional
	Abort *CanaryAbort `json:"abort,omitempty"`
}

// CanaryStep is a share of the conversations, for a time.
type CanaryStep struct {
	// percent of the conversations that the new set answers.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent,omitempty"`
	// minutes that the step lasts.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=40320
	Minutes int32 `json:"minutes,omitempty"`
}

// CanaryAbort says when a new set is withdrawn: at any moment of the canary, once it has
// answered enough requests. Errors are answers of status 500 and more, and streams that broke
// off by the pods' fault.
// +kubebuilder:validation:MinProperties=1
type CanaryAbort struct {
	// maxErrorRate is the share of its requests that may be errors, 0 to 1; any share
	// without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="maxErrorRate must be at most 1"
	MaxErrorRate Decimal `json:"maxErrorRate,omitempty"`
	// maxErrorIncrease is how far that share may be above the one of the set that serves,
	// over the same time, 0 to 1: "0.05" without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="maxErrorIncrease must be at most 1"
	MaxErrorIncrease Decimal `json:"maxErrorIncrease,omitempty"`
	// minRequests is how many requests it must have answered, or failed, before it is
	// judged: 20 without it. Where fewer come, the steps go on by the clock.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MinRequests int32 `json:"minRequests,omitempty"`
}

// RolloutObserve has a new expert set choose beside the one that serves, and answer nothing:
// how often it would have chosen otherwise is in the status. It comes before a canary, and
// nothing that it finds keeps the set from serving.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.minutes) || has(self.requests)",message="say how long: minutes, requests, or both"
type RolloutObserve struct {
	// minutes that it lasts at most, from when every pod has loaded the new set.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=40320
	Minutes int32 `json:"minutes,omitempty"`
	// requests that are compared, all pods together: with as many it ends.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Requests int32 `json:"requests,omitempty"`
	// percent of the conversations whose requests are compared, each of which costs what
	// pass 1 costs: 10 without it. Where requests wait, they come first, and what is not
	// compared for their sake is counted.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent,omitempty"`
}

// TrialState says how far a canary or an observation is.
// +kubebuilder:validation:Enum=Loading;Running;Passed;Aborted
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type TrialState string

// States of a trial.
const (
	// TrialLoading says that a pod has yet to load the new set, or to divide the
	// conversations as the step says.
	TrialLoading TrialState = "Loading"
	// TrialRunning says that all pods do.
	TrialRunning TrialState = "Running"
	// TrialPassed says that it has ended, with nothing against the new set.
	TrialPassed TrialState = "Passed"
	// TrialAborted says that the new set was withdrawn: the one before serves on.
	TrialAborted TrialState = "Aborted"
)

// CanaryStatus is how far a canary is, and what it has counted: of the candidate, or of
// stable before it served.
type CanaryStatus struct {
	// candidateDigest is the set that is tried.
	// +required
	CandidateDigest Digest `json:"candidateDigest,omitempty"`
	// stableDigest is the one that serves, or did then.
	// +required
	StableDigest Digest `json:"stableDigest,omitempty"`
	// state of it.
	// +required
	State TrialState `json:"state,omitempty"`
	// step of spec.rollout.canary.steps, counted from 1.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	Step int32 `json:"step,omitempty"`
	// percent of the conversations that the new set answers.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent int32 `json:"percent,omitempty"`
	// since is when every pod first did as the step says.
	// +optional
	Since metav1.Time `json:"since,omitempty,omitzero"`
	// stable counts the requests that the set before has answered meanwhile.
	// +required
	Stable SideStatus `json:"stable,omitzero"`
	// candidate counts those of the new set.
	// +required
	Candidate SideStatus `json:"candidate,omitzero"`
	// counted is when that was written last.
	// +optional
	Counted metav1.Time `json:"counted,omitempty,omitzero"`
	// pods have what each has counted, so that nothing is forgotten when one goes; of more
	// than 64, the first by name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Pods []TrialPod `json:"pods,omitempty"`
}

// SideStatus counts the requests of one side, all pods together. What a pod counted within
// the last minute before it went may be missing.
type SideStatus struct {
	// requests that were answered or have failed.
	// +required
	// +kubebuilder:validation:Minimum=0
	Requests *int64 `json:"requests,omitempty"`
	// errors are those that have failed.
	// +required
	// +kubebuilder:validation:Minimum=0
	Errors *int64 `json:"errors,omitempty"`
	// fallbacks are those for which pass 1 chose no expert.
	// +required
	// +kubebuilder:validation:Minimum=0
	Fallbacks *int64 `json:"fallbacks,omitempty"`
	// firstTokenMilliseconds is the mean time to the first token, both passes, of those
	// that were answered.
	// +optional
	// +kubebuilder:validation:Minimum=0
	FirstTokenMilliseconds *int64 `json:"firstTokenMilliseconds,omitempty"`
	// right is how many answers clients have marked right, as they see it now; not there
	// where none is marked.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Right *int64 `json:"right,omitempty"`
	// wrong is how many they have marked wrong.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Wrong *int64 `json:"wrong,omitempty"`
}

// TrialPod is what one pod has counted, or those together that have gone.
type TrialPod struct {
	// name of the pod; "gone" for those that have.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// since is when it began to count.
	// +optional
	Since metav1.Time `json:"since,omitempty,omitzero"`
	// counts of a canary are requests, errors, fallbacks and milliseconds to the first
	// tokens of the set that serves, then of the new one, and then the answers that clients
	// have marked right and wrong, of both; those of an observation what was compared,
	// different, failed and dropped.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=4
	// +kubebuilder:validation:MaxItems=12
	Counts []int64 `json:"counts,omitempty"`
}

// ObserveStatus is how far an observation is, and what it has found: of the candidate, or
// of stable before it served.
type ObserveStatus struct {
	// candidateDigest is the set that chooses beside.
	// +required
	CandidateDigest Digest `json:"candidateDigest,omitempty"`
	// stableDigest is the one that serves, or did then.
	// +required
	StableDigest Digest `json:"stableDigest,omitempty"`
	// state of it.
	// +required
	State TrialState `json:"state,omitempty"`
	// since is when every pod had first loaded the new set.
	// +optional
	Since metav1.Time `json:"since,omitempty,omitzero"`
	// compared is how many choices were compared.
	// +required
	// +kubebuilder:validation:Minimum=0
	Compared *int64 `json:"compared,omitempty"`
	// different is how many of them were others.
	// +required
	// +kubebuilder:validation:Minimum=0
	Different *int64 `json:"different,omitempty"`
	// differentShare is the share of those, 0 to 1.
	// +optional
	DifferentShare Score `json:"differentShare,omitempty"`
	// failed is how often the new set could not choose.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Failed *int64 `json:"failed,omitempty"`
	// dropped is how many were left out, as requests waited.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Dropped *int64 `json:"dropped,omitempty"`
	// pairs are the most frequent choices that were others, by pods that are there.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Pairs []DecisionPair `json:"pairs,omitempty"`
	// counted is when that was written last.
	// +optional
	Counted metav1.Time `json:"counted,omitempty,omitzero"`
	// pods have what each has counted, so that nothing is forgotten when one goes; of more
	// than 64, the first by name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Pods []TrialPod `json:"pods,omitempty"`
}

// DecisionPair is what both sets chose for the same requests.
type DecisionPair struct {
	// stable is the choice of the set that serves: an expert, several joined by +, or base.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Stable string `json:"stable,omitempty"`
	// candidate is that of the new one.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Candidate string `json:"candidate,omitempty"`
	// requests is how many there were.
	// +required
	// +kubebuilder:validation:Minimum=1
	Requests int64 `json:"requests,omitempty"`
}
