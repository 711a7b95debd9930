package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

var start = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// renew is Renew of what there is, which it must not change.
func renew(t *testing.T, now time.Time, name string, have map[string][]byte) (map[string][]byte, bool) {
	t.Helper()
	before := maps.Clone(have)
	want, changed, err := Renew(now, name, have)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(before, have, bytes.Equal) {
		t.Error("what there is was changed")
	}
	if changed == maps.EqualFunc(have, want, bytes.Equal) {
		t.Errorf("changed: %v", changed)
	}
	return want, changed
}

// shows says how somebody who trusts a bundle judges the certificate that a pod shows.
func shows(t *testing.T, now time.Time, name string, trusted []byte, pod map[string][]byte) error {
	t.Helper()
	pair, err := tls.X509KeyPair(pod[contract.AdminCertKey], pod[contract.AdminPrivateKey])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
	return err
}

func TestACertificateIsMadeAndKept(t *testing.T) {
	made, changed := renew(t, start, "assistant", nil)
	if !changed {
		t.Error("nothing was made")
	}
	for at, now := range map[string]time.Time{
		"at once": start, "on a node whose clock is behind": start.Add(-50 * time.Minute), "after two months": start.Add(Lifetime - RenewBefore - time.Minute),
	} {
		if err := shows(t, now, "assistant", made[contract.AdminTrustKey], made); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	if _, changed := renew(t, start.Add(Lifetime-RenewBefore-time.Minute), "assistant", made); changed {
		t.Error("it is replaced before it is due")
	}
	for at, err := range map[string]error{
		"under another name": shows(t, start, "other", made[contract.AdminTrustKey], made),
		"after its end":      shows(t, start.Add(Lifetime+time.Minute), "assistant", made[contract.AdminTrustKey], made),
		"before its time":    shows(t, start.Add(-2*time.Hour), "assistant", made[contract.AdminTrustKey], made),
	} {
		if err == nil {
			t.Errorf("it is taken %s", at)
		}
	}
}

// Kubelets bring another certificate to pods at their leisure: until the first one ends,
// both are taken.
func TestARenewalOverlaps(t *testing.T) {
	first, _ := renew(t, start, "assistant", nil)
	due := start.Add(Lifetime - RenewBefore)
	second, changed := renew(t, due, "assistant", first)
	if !changed || bytes.Equal(first[contract.AdminCertKey], second[contract.AdminCertKey]) {
		t.Fatal("it is not replaced when it is due")
	}
	for name, pod := range map[string]map[string][]byte{"a pod that has the first": first, "a pod that has the second": second} {
		if err := shows(t, start.Add(Lifetime-time.Minute), "assistant", second[contract.AdminTrustKey], pod); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Those that were told nothing yet refuse the second: it is told before pods have it.
	if err := shows(t, due, "assistant", first[contract.AdminTrustKey], second); err == nil {
		t.Error("who trusts the first takes the second")
	}
	if _, changed := renew(t, due.Add(time.Hour), "assistant", second); changed {
		t.Error("it is replaced again")
	}
	later, changed := renew(t, start.Add(Lifetime+day), "assistant", second)
	if !changed || bytes.Contains(later[contract.AdminTrustKey], first[contract.AdminCertKey]) {
		t.Error("one that has ended is still trusted")
	}
	if !bytes.Equal(later[contract.AdminCertKey], second[contract.AdminCertKey]) {
		t.Error("the end of the first replaces the second")
	}
}

func TestWhatIsBrokenIsReplaced(t *testing.T) {
	good, _ := renew(t, start, "assistant", nil)
	other, _ := renew(t, start, "assistant", nil)
	for name, change := range map[string]func(map[string][]byte){
		"no certificate":     func(d map[string][]byte) { delete(d, contract.AdminCertKey) },
		"no key":             func(d map[string][]byte) { delete(d, contract.AdminPrivateKey) },
		"the key of another": func(d map[string][]byte) { d[contract.AdminPrivateKey] = other[contract.AdminPrivateKey] },
		"a certificate that is none": func(d map[string][]byte) {
			d[contract.AdminCertKey] = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := maps.Clone(good)
			change(bad)
			got, changed := renew(t, start.Add(time.Hour), "assistant", bad)
			if !changed {
				t.Fatal("it is kept")
			}
			if err := shows(t, start.Add(time.Hour), "assistant", got[contract.AdminTrustKey], got); err != nil {
				t.Error(err)
			}
			// Pods may still have the good one.
			if err := shows(t, start.Add(time.Hour), "assistant", got[contract.AdminTrustKey], good); err != nil {
				t.Errorf("pods that have the one before: %v", err)
			}
		})
	}
	t.Run("nothing to trust", func(t *testing.T) {
		bad := maps.Clone(good)
		bad[contract.AdminTrustKey] = []byte("nonsense")
		got, changed := renew(t, start, "assistant", bad)
		if !changed || !bytes.Equal(got[contract.AdminCertKey], good[contract.AdminCertKey]) {
			t.Error("the certificate itself was replaced, or nothing was")
		}
		if err := shows(t, start, "assistant", got[contract.AdminTrustKey], good); err != nil {
			t.Error(err)
		}
	})
	t.Run("another name", func(t *testing.T) {
		got, changed := renew(t, start, "other", good)
		if !changed || shows(t, start, "other", got[contract.AdminTrustKey], got) != nil {
			t.Error("the certificate of another name is kept")
		}
	})
	t.Run("a clock that was ahead", func(t *testing.T) {
		got, changed := renew(t, start.Add(-10*day), "assistant", good)
		if !changed || shows(t, start.Add(-10*day), "assistant", got[contract.AdminTrustKey], got) != nil {
			t.Error("a certificate of the future is kept")
		}
	})
}

// What is trusted stays bounded, whatever happens to the Secret.
func TestTrustIsBounded(t *testing.T) {
	have := map[string][]byte{}
	for range 3 * maxTrusted {
		delete(have, contract.AdminPrivateKey)
		have, _ = renew(t, start, "assistant", have)
	}
	if n := len(parse(have[contract.AdminTrustKey])); n > maxTrusted {
		t.Errorf("%d certificates are trusted", n)
	}
	if err := shows(t, start, "assistant", have[contract.AdminTrustKey], have); err != nil {
		t.Error(err)
	}
}
