// Package v1alpha1 is the API of the Transformer² operator: three kinds that
// lead from a base model to an adapted answer.
//
// A BaseModel is fetched and its weight matrices are decomposed once, W =
// U·diag(σ)·Vᵀ. An ExpertVector scales the singular values for one skill; it is
// trained in the cluster or imported. An AdaptivePolicy serves the model and
// composes experts for each request.
//
// Everything that names a thing in the cluster (labels, annotations,
// finalizers, condition types and reasons) is a constant of this package.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +kubebuilder:ac:output:package=applyconfiguration
// +groupName=transformersquared.dev
package v1alpha1
