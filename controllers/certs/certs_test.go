package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"math/rand/v2"
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
	if n := len(Parse(have[contract.AdminTrustKey])); n > maxTrusted {
		t.Errorf("%d certificates are trusted", n)
	}
	if err := shows(t, start, "assistant", have[contract.AdminTrustKey], have); err != nil {
		t.Error(err)
	}
}

// TestPodsAreTrustedForYears renews each day what is due, brings it to pods only weeks later, and
// sets the clock back or forward by a day now and then: who asks always takes what a pod shows
// that has what was there then, and makes a new one as often as one is due, and once more where
// the clock has gone back behind its beginning.
func TestPodsAreTrustedForYears(t *testing.T) {
	const (
		years   = 5
		late    = 25 // Days until pods have what was renewed.
		between = 40 // Days between two jumps of the clock.
	)
	r := rand.New(rand.NewPCG(1, 2))
	now := start
	type version struct {
		have map[string][]byte
		day  int
	}
	have, _ := renew(t, now, "assistant", nil)
	pod := version{have, 0}
	coming := []version{}
	made := 1
	for d := 1; d < years*365; d++ {
		now = now.Add(day)
		if d%between == 0 {
			now = now.Add([]time.Duration{-day, day}[r.IntN(2)])
		}
		next, changed := renew(t, now, "assistant", have)
		if changed && !bytes.Equal(next[contract.AdminCertKey], have[contract.AdminCertKey]) {
			made++
			coming = append(coming, version{next, d})
		}
		have = next
		for len(coming) > 0 && d-coming[0].day >= late {
			pod, coming = coming[0], coming[1:]
		}
		for who, shown := range map[string]map[string][]byte{"a pod that is late": pod.have, "a pod that starts": have} {
			if err := shows(t, now, "assistant", have[contract.AdminTrustKey], shown); err != nil {
				t.Fatalf("day %d, %s: %v", d, who, err)
			}
		}
	}
	renewals := years * 365 * int(day) / int(Lifetime-RenewBefore)
	if made < renewals || made > renewals+renewals/4+1 {
		t.Errorf("%d certificates were made in %d years, want about %d", made, years, renewals)
	}
}

// TestAClockThatJumps just after a certificate was made: back by a day nobody takes it, so that
// another is made at once, and when the clock is right again, both are taken.
func TestAClockThatJumps(t *testing.T) {
	first, _ := renew(t, start, "assistant", nil)
	back, changed := renew(t, start.Add(-day), "assistant", first)
	if !changed || shows(t, start.Add(-day), "assistant", back[contract.AdminTrustKey], back) != nil {
		t.Fatal("a certificate of the future is kept")
	}
	right, _ := renew(t, start.Add(time.Minute), "assistant", back)
	for name, pod := range map[string]map[string][]byte{"has the first": first, "has the second": back} {
		if err := shows(t, start.Add(time.Minute), "assistant", right[contract.AdminTrustKey], pod); err != nil {
			t.Errorf("a pod that %s: %v", name, err)
		}
	}
	ahead, changed := renew(t, start.Add(day), "assistant", first)
	if changed {
		t.Error("a clock that is a day ahead replaces a new certificate")
	}
	if err := shows(t, start.Add(day), "assistant", ahead[contract.AdminTrustKey], first); err != nil {
		t.Error(err)
	}
	// Ahead beyond its end, and right again: what was trusted before is trusted again with what
	// is in use, as pods have by then what was made.
	late, _ := renew(t, start.Add(Lifetime+day), "assistant", first)
	again, _ := renew(t, start.Add(time.Hour), "assistant", late)
	for name, pod := range map[string]map[string][]byte{"starts": again} {
		if err := shows(t, start.Add(time.Hour), "assistant", again[contract.AdminTrustKey], pod); err != nil {
			t.Errorf("a pod that %s: %v", name, err)
		}
	}
}
