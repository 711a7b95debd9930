package podclient

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/certs"
)

// forgetAfter is when a policy whose pods nobody has asked is forgotten: it may be gone.
const forgetAfter = time.Hour

// trust knows which certificates the pods of policies may show.
type trust struct {
	mu       sync.Mutex
	policies map[types.NamespacedName]*trusted
}

// trusted makes the calls to the pods of one policy.
type trusted struct {
	certificates []byte // PEM
	parsed       []*x509.Certificate
	http         *http.Client
	used         time.Time
}

// Secured reports whether a pod's admin port speaks HTTPS: pods that began before the
// operator asked for it do not, and say so by having no annotation.
func Secured(pod *corev1.Pod) bool {
	return pod.Annotations[v1alpha1.AnnotationAdminScheme] == v1alpha1.AdminSchemeHTTPS
}

// Trust lets the pods of a policy show one of these certificates (PEM), made out to the
// policy's name, and no other. What was trusted before is not any more.
func (c *Client) Trust(policy types.NamespacedName, certificates []byte) error {
	c.trust.mu.Lock()
	defer c.trust.mu.Unlock()
	now := c.now()
	had := c.trust.policies[policy]
	if had != nil && bytes.Equal(had.certificates, certificates) {
		had.used = now
		return nil
	}
	roots := x509.NewCertPool()
	parsed := certs.Parse(certificates)
	for _, one := range parsed {
		roots.AddCert(one)
	}
	if len(parsed) == 0 {
		return fmt.Errorf("the certificates of policy %s: there is none", policy)
	}
	if had != nil {
		had.http.CloseIdleConnections()
	}
	for key, other := range c.trust.policies {
		if now.Sub(other.used) > forgetAfter {
			other.http.CloseIdleConnections()
			delete(c.trust.policies, key)
		}
	}
	if c.trust.policies == nil {
		c.trust.policies = map[types.NamespacedName]*trusted{}
	}
	c.trust.policies[policy] = &trusted{
		certificates: bytes.Clone(certificates), parsed: parsed, used: now,
		http: client(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: policy.Name, Time: c.now}),
	}
	return nil
}

// Trusts reports whether it is known what the pods of a policy may show, and one of it is
// valid all that time.
func (c *Client) Trusts(policy types.NamespacedName, from, until time.Time) bool {
	c.trust.mu.Lock()
	defer c.trust.mu.Unlock()
	known := c.trust.policies[policy]
	return known != nil && slices.ContainsFunc(known.parsed, func(c *x509.Certificate) bool {
		return !from.Before(c.NotBefore) && until.Before(c.NotAfter)
	})
}

// distrusted adds to an error of a certificate that is not valid now, or is none that the Secret
// has, what to do; others it leaves alone.
func distrusted(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w. The policy's Secret does not have the certificate that the pod shows; the kubelet brings the one that it has to the pod within minutes; "+
			"if this stays, delete the pod", err)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != x509.Expired {
		return err
	}
	return fmt.Errorf("%w. The certificate in the policy's Secret is renewed in time, and the kubelet brings it to the pod within minutes; "+
		"if this stays, compare the clocks of the nodes, or delete the pod", err)
}

// caller returns what makes calls to a pod. One that should speak HTTPS is never asked in
// another way.
func (c *Client) caller(pod *corev1.Pod) (*http.Client, error) {
	if !Secured(pod) {
		return c.HTTP, nil
	}
	c.trust.mu.Lock()
	defer c.trust.mu.Unlock()
	policy := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.LabelPolicy]}
	known := c.trust.policies[policy]
	if known == nil {
		return nil, fmt.Errorf("asking pod %s: it is not known yet which certificate it has", pod.Name)
	}
	known.used = c.now()
	return known.http, nil
}
