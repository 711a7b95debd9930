package adaptivepolicy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
)

// tokenBytes is the length of an admin token before it is written in hex.
const tokenBytes = 32

// deployment is what serves a policy.
type deployment struct {
	object *appsv1.Deployment
	token  string
	// run is the label v1alpha1.LabelRun of the pods that serve the base as it is.
	run string
	// donors are the other bases whose experts are transferred: pods without their
	// volumes cannot take the expert set.
	donors []*v1alpha1.BaseModel
	// held says that the previous base is still served, and why nothing of the
	// new one is applied.
	held bool
}

// want is the number of pods that are asked for.
func (d deployment) want() int32 { return ptr.Deref(d.object.Spec.Replicas, 1) }

// template is the version of the pods that are asked for.
func (d deployment) template() string {
	return d.object.Spec.Template.Annotations[v1alpha1.AnnotationTemplate]
}

// serve applies what serves a policy: the token, the expert set, the Deployment
// and the Service.
func (r *Reconciler) serve(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, donors []*v1alpha1.BaseModel, chosen choice) (deployment, error) {
	run, err := desired.ServingRun(desired.ServeSpec(policy, base))
	if err != nil {
		return deployment{}, err
	}
	held, err := r.holds(ctx, policy, run, chosen)
	if err != nil || held {
		return deployment{held: held}, err
	}
	secret, err := r.adminSecret(ctx, policy)
	if err != nil {
		return deployment{}, err
	}
	set, err := desired.ExpertSet(policy, chosen.set)
	if err != nil {
		return deployment{}, err
	}
	if chosen.stable != nil {
		if err := desired.KeepingStable(set, *chosen.stable); err != nil {
			return deployment{}, err
		}
	}
	if err := r.Applier.Uncached().Apply(ctx, policy, &corev1.ConfigMap{}, set); err != nil {
		return deployment{}, err
	}
	if err := r.Applier.Apply(ctx, policy, &corev1.Service{}, desired.Service(policy)); err != nil {
		return deployment{}, err
	}
	config, err := desired.Deployment(policy, base, donors, secret.Data[desired.AdminTokenKey], r.Settings)
	if err != nil {
		return deployment{}, err
	}
	object := &appsv1.Deployment{}
	if err := r.Applier.Apply(ctx, policy, object, config); err != nil {
		return deployment{}, err
	}
	return deployment{object: object, token: string(secret.Data[desired.AdminTokenKey]), run: run, donors: donors}, nil
}

// holds reports whether the pods that run serve another base than the BaseModel
// has now, and go on doing so because not every expert fits the new one yet: a
// policy moves to a new base at once, with all its experts.
func (r *Reconciler) holds(ctx context.Context, policy *v1alpha1.AdaptivePolicy, run string, chosen choice) (bool, error) {
	if chosen.fits {
		return false, nil
	}
	var live appsv1.Deployment
	found, err := r.Applier.Look(ctx, client.ObjectKeyFromObject(policy), &live)
	if err != nil || !found {
		return false, err
	}
	was := live.Spec.Template.Labels[v1alpha1.LabelRun]
	return metav1.IsControlledBy(&live, policy) && was != "" && was != run, nil
}

func baseChanged(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) error {
	return status.Wait(v1alpha1.ReasonBaseChanged,
		"BaseModel %s has decomposition %s now; %s is served until every expert fits the new one",
		base.Name, base.Status.Decomposition.Digest, policy.Status.DecompositionDigest)
}

// adminSecret finds the Secret with the token that the pods ask for, or makes
// it; one that lost its token has a new one. Secrets are read from the API server by name: the operator may not list
// them, and its cache has none.
func (r *Reconciler) adminSecret(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: policy.Namespace, Name: desired.AdminSecretName(policy)}
	err := r.Live.Get(ctx, key, secret)
	if err == nil {
		if !metav1.IsControlledBy(secret, policy) {
			return nil, apply.NameTaken("Secret", key.Name)
		}
		if len(secret.Data[desired.AdminTokenKey]) > 0 {
			return secret, nil
		}
	} else if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading Secret %s: %w", key.Name, err)
	}
	token := make([]byte, tokenBytes)
	if _, err := rand.Read(token); err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	if err := r.Client.Apply(ctx, desired.AdminSecret(policy, hex.EncodeToString(token)),
		client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
		return nil, fmt.Errorf("applying Secret %s: %w", key.Name, err)
	}
	if err := r.Live.Get(ctx, key, secret); err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", key.Name, err)
	}
	return secret, nil
}
