package v1alpha1

// Disruption bounds evictions: what kubectl drain, autoscalers of nodes and upgrades of a
// cluster do to the pods of a policy. Rollouts of its own keep every pod until another
// one is ready.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.budget) || self.budget != 'None' || !has(self.maxUnavailable)",message="maxUnavailable is of the operator's PodDisruptionBudget, of which budget None makes none",fieldPath=".maxUnavailable"
type Disruption struct {
	// budget says whether the operator makes a PodDisruptionBudget for the pods: Managed,
	// or None, where you have one of your own: pods that two of them select are evicted by
	// nobody. Without it, Managed.
	// +optional
	Budget DisruptionBudget `json:"budget,omitempty"`
	// maxUnavailable is how many pods may be missing at a time because of evictions. Pods
	// that are not ready count, and may be evicted themselves. One replica is evicted and
	// missed until it is ready elsewhere: ask for two where that must not be. Without it, 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxUnavailable *int32 `json:"maxUnavailable,omitempty"`
}

// DisruptionBudget says who makes the PodDisruptionBudget of a policy's pods.
// +kubebuilder:validation:Enum=Managed;None
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type DisruptionBudget string

// Who makes the PodDisruptionBudget.
const (
	// BudgetManaged is the operator's.
	BudgetManaged DisruptionBudget = "Managed"
	// BudgetNone is none of the operator's.
	BudgetNone DisruptionBudget = "None"
)
