package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// StatusConditions gives the conditions for reading and writing.
func (b *BaseModel) StatusConditions() *[]metav1.Condition { return &b.Status.Conditions }

// SetObservedGeneration records the generation that the conditions are about.
func (b *BaseModel) SetObservedGeneration(generation int64) {
	b.Status.ObservedGeneration = generation
}

// StatusConditions gives the conditions for reading and writing.
func (e *ExpertVector) StatusConditions() *[]metav1.Condition { return &e.Status.Conditions }

// SetObservedGeneration records the generation that the conditions are about.
func (e *ExpertVector) SetObservedGeneration(generation int64) {
	e.Status.ObservedGeneration = generation
}

// StatusConditions gives the conditions for reading and writing.
func (p *AdaptivePolicy) StatusConditions() *[]metav1.Condition { return &p.Status.Conditions }

// SetObservedGeneration records the generation that the conditions are about.
func (p *AdaptivePolicy) SetObservedGeneration(generation int64) {
	p.Status.ObservedGeneration = generation
}
