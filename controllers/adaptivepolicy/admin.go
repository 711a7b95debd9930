package adaptivepolicy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/certs"
	"github.com/transformersquared/operator/controllers/desired"
)

// tokenBytes is the length of an admin token before it is written in hex.
const tokenBytes = 32

// adminSecret finds the Secret with the token that the pods ask for, or makes it; one that
// lost its token has a new one. Where pods are asked by HTTPS, it has their certificate,
// which is replaced in time and trusted from then on. Secrets are read from the API server
// by name: the operator may not list them, and its cache has none.
func (r *Reconciler) adminSecret(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (*corev1.Secret, error) {
	secret, err := r.readAdminSecret(ctx, policy)
	if err != nil {
		return nil, err
	}
	want, changed := map[string][]byte{desired.AdminTokenKey: secret.Data[desired.AdminTokenKey]}, false
	if len(want[desired.AdminTokenKey]) == 0 {
		token := make([]byte, tokenBytes)
		if _, err := rand.Read(token); err != nil {
			return nil, fmt.Errorf("making a token: %w", err)
		}
		want[desired.AdminTokenKey], changed = []byte(hex.EncodeToString(token)), true
	}
	if r.Settings.AdminTLS {
		pair, renewed, err := certs.Renew(r.now().Time, policy.Name, secret.Data)
		if err != nil {
			return nil, err
		}
		maps.Copy(want, pair)
		changed = changed || renewed
	}
	if changed {
		if err := r.Client.Apply(ctx, desired.AdminSecret(policy, want), client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership); err != nil {
			return nil, fmt.Errorf("applying Secret %s: %w", desired.AdminSecretName(policy), err)
		}
		if secret, err = r.readAdminSecret(ctx, policy); err != nil {
			return nil, err
		}
	}
	return secret, r.trust(policy, secret)
}

// readAdminSecret reads the Secret; one without content if it is not there.
func (r *Reconciler) readAdminSecret(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: policy.Namespace, Name: desired.AdminSecretName(policy)}
	switch err := r.Live.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return &corev1.Secret{}, nil
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s: %w", key.Name, err)
	case !metav1.IsControlledBy(secret, policy):
		return nil, apply.NameTaken(policy, "Secret", secret)
	}
	return secret, nil
}

// trust lets the pods of a policy show the certificates of its Secret, if it has some.
func (r *Reconciler) trust(policy *v1alpha1.AdaptivePolicy, secret *corev1.Secret) error {
	certificates := secret.Data[desired.AdminTrustKey]
	if len(certificates) == 0 {
		return nil
	}
	return r.Pods.Trust(client.ObjectKeyFromObject(policy), certificates)
}

// recallTrust does so where nothing else is applied: after a restart it is not known yet, and
// a certificate is renewed also while a policy waits for something, for months perhaps, or who
// asks its pods could not any more.
func (r *Reconciler) recallTrust(ctx context.Context, policy *v1alpha1.AdaptivePolicy) error {
	now := r.now().Time
	if r.Pods.Trusts(client.ObjectKeyFromObject(policy), now, now.Add(certs.RenewBefore)) {
		return nil
	}
	if r.Settings.AdminTLS {
		_, err := r.adminSecret(ctx, policy)
		return err
	}
	secret, err := r.readAdminSecret(ctx, policy)
	if err != nil {
		return err
	}
	return r.trust(policy, secret)
}
