package adaptivepolicy

import (
	"bytes"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/certs"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/runtime/contract"
)

// TestACertificateIsRenewedWhileAPolicyWaits for something, during which nothing else is applied:
// its pods answer, and are asked. The clock may also be set back.
func TestACertificateIsRenewedWhileAPolicyWaits(t *testing.T) {
	const day = 24 * time.Hour
	start := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		by      time.Duration
		renewed bool
	}{
		"at once":                {0, false},
		"when it is not due":     {certs.Lifetime - certs.RenewBefore - day, false},
		"when it is due":         {certs.Lifetime - certs.RenewBefore + time.Hour, true},
		"when it has ended":      {certs.Lifetime + day, true},
		"a clock ahead by a day": {day, false},
		"a clock back by a day":  {-day, true},
	} {
		t.Run(name, func(t *testing.T) {
			now := start
			p := policy(func(p *v1alpha1.AdaptivePolicy) { p.UID = "assistant" })
			c := clientOf(t, p)
			r := &Reconciler{
				Client: c, Live: c, Pods: podclient.New(), Settings: desired.Settings{AdminTLS: true}, Now: func() time.Time { return now },
			}
			first, err := r.adminSecret(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			now = start.Add(tc.by)
			if err := r.recallTrust(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			var is corev1.Secret
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: p.Namespace, Name: desired.AdminSecretName(p)}, &is); err != nil {
				t.Fatal(err)
			}
			if renewed := !bytes.Equal(is.Data[contract.AdminCertKey], first.Data[contract.AdminCertKey]); renewed != tc.renewed {
				t.Errorf("renewed: %v, want %v", renewed, tc.renewed)
			}
			if !bytes.Equal(is.Data[desired.AdminTokenKey], first.Data[desired.AdminTokenKey]) {
				t.Error("the token is another: pods that run do not know it")
			}
			if !r.Pods.Trusts(client.ObjectKeyFromObject(p), now, now.Add(certs.RenewBefore)) {
				t.Error("what is in the Secret is not trusted")
			}
		})
	}
}
