package podclient

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/certs"
	"github.com/transformersquared/operator/runtime/contract"
)

var assistant = types.NamespacedName{Namespace: "demo", Name: "assistant"}

// securePod is one of assistant's that is asked by HTTPS.
func securePod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: assistant.Namespace, Name: "pod", Labels: map[string]string{v1alpha1.LabelPolicy: assistant.Name},
			Annotations: map[string]string{v1alpha1.AnnotationAdminScheme: v1alpha1.AdminSchemeHTTPS},
		},
		Status: corev1.PodStatus{PodIP: "10.0.0.7"},
	}
}

func issue(t *testing.T, now time.Time, name string, have map[string][]byte) map[string][]byte {
	t.Helper()
	data, _, err := certs.Renew(now, name, have)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// serve answers by HTTPS with what get returns then.
func serve(t *testing.T, get func() map[string][]byte) (address string, shown *[]string) {
	t.Helper()
	shown = &[]string{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*shown = append(*shown, r.Header.Get("Authorization"))
		_ = json.NewEncoder(w).Encode(contract.ServingStatus{})
	}))
	s.Config.SetKeepAlivesEnabled(false)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(get()[contract.AdminCertKey], get()[contract.AdminPrivateKey])
		return &pair, err
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, shown
}

func at(url string) *Client {
	c := New()
	c.URL = func(_ *corev1.Pod, path string) (string, error) { return url + path, nil }
	return c
}

func TestAPodWithAnAnnotationIsAskedByHTTPS(t *testing.T) {
	secure := securePod()
	plain := securePod()
	plain.Annotations = nil
	for want, pod := range map[string]*corev1.Pod{"https://10.0.0.7:8081/experts": secure, "http://10.0.0.7:8081/experts": plain} {
		if got, err := PodURL(pod, contract.PathExpertSet); err != nil || got != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

// Who is not known is asked nothing, and shown no token.
func TestOnlyThePodsOfAPolicyAreTold(t *testing.T) {
	now := time.Now()
	good, other := issue(t, now, assistant.Name, nil), issue(t, now, "other", nil)
	ended := issue(t, now.Add(-certs.Lifetime-time.Hour), assistant.Name, nil)
	for _, tc := range []struct {
		name  string
		pod   map[string][]byte
		trust map[string][]byte
		wrong string
	}{
		{"the policy's certificate", good, good, ""},
		{"one that nobody knows", issue(t, now, assistant.Name, nil), good, ". The policy's Secret does not have the certificate that the pod shows"},
		{"one of another policy", other, other, "certificate is valid for other, not assistant"},
		{"one that has ended", ended, ended, "certificate has expired"},
		{"nothing is known", good, nil, "it is not known yet which certificate it has"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, shown := serve(t, func() map[string][]byte { return tc.pod })
			c := at(url)
			if tc.trust != nil {
				if err := c.Trust(assistant, tc.trust[contract.AdminTrustKey]); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.PutExpertSet(t.Context(), securePod(), "token", contract.ExpertSet{})
			switch {
			case tc.wrong == "" && (err != nil || len(*shown) != 1 || (*shown)[0] != "Bearer token"):
				t.Errorf("it is told %v, %v", *shown, err)
			case tc.wrong != "" && (err == nil || len(*shown) != 0):
				t.Errorf("it is told %v, %v", *shown, err)
			case tc.wrong != "" && !strings.Contains(err.Error(), tc.wrong):
				t.Errorf("got %v, want one that says %q", err, tc.wrong)
			}
		})
	}
}

// A pod that answers by HTTP though it should not is not asked again in that way.
func TestThereIsNoWayBackToHTTP(t *testing.T) {
	asked := 0
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer plain.Close()
	c := at(strings.Replace(plain.URL, "http://", "https://", 1))
	if err := c.Trust(assistant, issue(t, time.Now(), assistant.Name, nil)[contract.AdminTrustKey]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ServingStatus(t.Context(), securePod()); err == nil || asked != 0 {
		t.Errorf("got %v after %d requests", err, asked)
	}
}

// A renewal breaks no call, whichever certificate a pod has by then.
func TestARenewalBreaksNoCall(t *testing.T) {
	now := time.Now()
	first := issue(t, now.Add(-certs.Lifetime+certs.RenewBefore), assistant.Name, nil)
	second := issue(t, now, assistant.Name, first)
	pod := first
	url, _ := serve(t, func() map[string][]byte { return pod })
	c := at(url)
	ask := func(when string) {
		t.Helper()
		if _, err := c.ServingStatus(t.Context(), securePod()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	if err := c.Trust(assistant, first[contract.AdminTrustKey]); err != nil {
		t.Fatal(err)
	}
	ask("before")
	if err := c.Trust(assistant, second[contract.AdminTrustKey]); err != nil {
		t.Fatal(err)
	}
	ask("while the pod has the first")
	pod = second
	ask("when it has the second")
	// Once the first is trusted no more, who still has it is refused.
	third := issue(t, now, assistant.Name, map[string][]byte{
		contract.AdminCertKey: second[contract.AdminCertKey], contract.AdminPrivateKey: second[contract.AdminPrivateKey],
	})
	if err := c.Trust(assistant, third[contract.AdminTrustKey]); err != nil {
		t.Fatal(err)
	}
	pod = first
	if _, err := c.ServingStatus(t.Context(), securePod()); err == nil {
		t.Error("a certificate is taken that is trusted no more")
	}
}

func TestTrustInNothingIsAnError(t *testing.T) {
	c := New()
	if err := c.Trust(assistant, []byte("nonsense")); err == nil || c.Trusts(assistant, time.Now(), time.Now()) {
		t.Errorf("got %v", err)
	}
}

// Policies come and go: those that nobody asks any more are forgotten.
func TestWhoIsNotAskedIsForgotten(t *testing.T) {
	c := New()
	text := issue(t, time.Now(), "x", nil)[contract.AdminTrustKey]
	gone := types.NamespacedName{Namespace: "demo", Name: "gone"}
	for _, p := range []types.NamespacedName{gone, assistant} {
		if err := c.Trust(p, text); err != nil {
			t.Fatal(err)
		}
	}
	c.trust.policies[gone].used = time.Now().Add(-2 * forgetAfter)
	if err := c.Trust(types.NamespacedName{Namespace: "demo", Name: "new"}, text); err != nil {
		t.Fatal(err)
	}
	if c.Trusts(gone, time.Now(), time.Now()) || !c.Trusts(assistant, time.Now(), time.Now()) {
		t.Error("the wrong ones are forgotten")
	}
}

// TestACertificateThatIsNotValidIsTold, because nobody renewed it or because a clock is wrong; and
// the pod is asked again once it has another.
func TestACertificateThatIsNotValidIsTold(t *testing.T) {
	const day = 24 * time.Hour
	start := time.Now()
	for name, tc := range map[string]struct {
		by   time.Duration
		says string // Empty where it is valid.
	}{
		"at once":                    {0, ""},
		"a clock ahead by a day":     {day, ""},
		"in time":                    {certs.Lifetime - time.Minute, ""},
		"after its end":              {certs.Lifetime + time.Minute, "certificate has expired"},
		"a clock that is back a day": {-day, "is before"},
	} {
		t.Run(name, func(t *testing.T) {
			first := issue(t, start, assistant.Name, nil)
			var pod atomic.Pointer[map[string][]byte]
			pod.Store(&first)
			url, shown := serve(t, func() map[string][]byte { return *pod.Load() })
			now := start.Add(tc.by)
			c := at(url)
			c.Now = func() time.Time { return now }
			if err := c.Trust(assistant, first[contract.AdminTrustKey]); err != nil {
				t.Fatal(err)
			}
			_, err := c.PutExpertSet(t.Context(), securePod(), "token", contract.ExpertSet{})
			if tc.says == "" {
				if err != nil || !c.Trusts(assistant, now, now) {
					t.Errorf("got %v", err)
				}
				return
			}
			for _, phrase := range []string{"asking pod ", tc.says, "compare the clocks", "delete the pod"} {
				if err == nil || !strings.Contains(err.Error(), phrase) {
					t.Errorf("got %v, want it to say %q", err, phrase)
				}
			}
			if len(*shown) != 0 || Refused(err) || c.Trusts(assistant, now, now) {
				t.Errorf("it was told %q, or refused (%v)", *shown, err)
			}
			second := issue(t, now, assistant.Name, first)
			if err := c.Trust(assistant, second[contract.AdminTrustKey]); err != nil {
				t.Fatal(err)
			}
			pod.Store(&second) // As the kubelet does.
			if _, err := c.PutExpertSet(t.Context(), securePod(), "token", contract.ExpertSet{}); err != nil || len(*shown) != 1 {
				t.Errorf("when it was renewed: %v", err)
			}
		})
	}
}
