package podclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/runtime/contract"
)

var pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "serve-1"}}

// serving returns a Client whose pods are the handler.
func serving(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c := New()
	c.URL = func(_ *corev1.Pod, path string) (string, error) { return server.URL + path, nil }
	return c
}

func TestProgress(t *testing.T) {
	want := contract.Progress{Phase: "Training", Done: 3, Total: 40, Training: &contract.TrainProgress{Iteration: 3, Iterations: 40, BestScore: 0.5}}
	c := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != contract.PathProgress {
			t.Errorf("asked %s %s", r.Method, r.URL.Path)
		}
		_ = json.NewEncoder(w).Encode(want)
	})
	got, err := c.Progress(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// digestOfSet is that of the set in the test below: it is sent with it.
const digestOfSet = "sha256:20df8d3c803fa14e2e86568c5cc3b20d01744c2e03708b1394f4a7f18a0a0888"

func TestPutExpertSetShowsTheToken(t *testing.T) {
	set := contract.ExpertSet{Strategy: contract.StrategyFixed, Experts: []contract.ExpertRef{{Name: "math", Weight: 1}}}
	c := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("Authorization is %q", got)
		}
		var got contract.ExpertSet
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		want := set
		want.Called = digestOfSet
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(contract.ServingStatus{DesiredDigest: digest})
	})
	got, err := c.PutExpertSet(t.Context(), pod, "secret", set)
	if err != nil || got.DesiredDigest != digest {
		t.Errorf("got %+v, %v", got, err)
	}
}

// digest is one that could be of anything.
var digest = contract.DigestPrefix + strings.Repeat("1", 64)

func TestAServingStatusComesWhole(t *testing.T) {
	at := time.Date(2026, 11, 29, 17, 0, 0, 0, time.UTC)
	want := contract.ServingStatus{
		DesiredDigest: digest, ExpertSetDigest: digest, Loading: &contract.LoadingSet{Digest: digest, Since: at, Done: 1, Total: 2},
		Error: &contract.LoadError{Digest: digest, Reason: contract.ReasonExpertMissing, Message: "it is gone", Permanent: true},
		Experts: []contract.ServedExpert{
			{Name: "math", Digest: digest, State: contract.ExpertServed, Requests: 3},
			{Name: "law", State: contract.ExpertFailed, Error: &contract.LoadError{Reason: contract.ReasonExpertMissing, Message: "it is gone"}},
		},
		Requests: 5, Fallbacks: 1, LastAdaptation: &contract.Adaptation{Expert: "math"}, LastAdaptationTime: at,
	}
	got, err := serving(t, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(want) }).ServingStatus(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStatusesThatNoObjectCouldHold are valid JSON, and nothing that may go into
// the status of an object.
func TestStatusesThatNoObjectCouldHold(t *testing.T) {
	for name, body := range map[string]string{
		"no digest":           `{"expertSetDigest":"latest"}`,
		"a long one":          `{"desiredDigest":"` + strings.Repeat("a", 1<<16) + `"}`,
		"a negative count":    `{"requests":-1}`,
		"of an expert":        `{"experts":[{"name":"math","requests":-5}]}`,
		"a count that is one": `{"requests":1e300}`,
		"another type":        `{"experts":{"math":1}}`,
		"a list":              `[]`,
		"a text for an error": `{"error":"no"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := serving(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
			got, err := c.ServingStatus(t.Context(), pod)
			if err == nil || !strings.Contains(err.Error(), "serve-1") || len(err.Error()) > 300 {
				t.Errorf("got %+v, %v", got, err)
			}
			if diff := cmp.Diff(contract.ServingStatus{}, got); diff != "" {
				t.Errorf("something is left of it (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		code int
		want bool
	}{
		{http.StatusUnprocessableEntity, true}, {http.StatusUnauthorized, true}, {http.StatusForbidden, true}, {http.StatusConflict, true},
		{http.StatusTooManyRequests, false}, {http.StatusRequestTimeout, false},
		{http.StatusServiceUnavailable, false}, {http.StatusInternalServerError, false}, {http.StatusFound, false}, {http.StatusNoContent, false},
	} {
		c := serving(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tc.code) })
		_, err := c.PutExpertSet(t.Context(), pod, "", contract.ExpertSet{})
		if err == nil || Refused(err) != tc.want {
			t.Errorf("status %d: %v, refused %v", tc.code, err, Refused(err))
		}
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := New()
	c.URL = func(*corev1.Pod, string) (string, error) { return gone.URL, nil }
	if _, err := c.PutExpertSet(t.Context(), pod, "", contract.ExpertSet{}); err == nil || Refused(err) {
		t.Errorf("a pod that is gone: %v", err)
	}
}

func TestARefusalSaysWhy(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"a serving status", `{"error":{"digest":"sha256:1","reason":"DigestMismatch","message":"digest of math differs"}}`, "digest of math differs"},
		{"an error that is a text", `{"error":"wrong token"}`, "wrong token"},
		{"bytes that are no text", "\xff\xfe", "\uFFFD"},
		{"an OpenAI error", `{"error":{"message":"no such expert","type":"invalid"}}`, "no such expert"},
		{"text", "gateway is tired\n", "gateway is tired"},
		{"nothing", "", "409"},
		{"something large", strings.Repeat("x", 1<<21), "xxx"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusConflict)
				_, _ = io.WriteString(w, tc.body)
			})
			_, err := c.PutExpertSet(t.Context(), pod, "", contract.ExpertSet{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "serve-1") {
				t.Errorf("got %v, want %q and the pod's name", err, tc.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.org/", http.StatusFound)
		},
		"too much": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"phase":"`+strings.Repeat("x", maxBody)+`"}`)
		},
		"too much that would be enough": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{}`+strings.Repeat(" ", maxBody))
		},
		"too large a header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeader))
			_, _ = io.WriteString(w, `{}`)
		},
		"less than it said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := serving(t, handler).Progress(t.Context(), pod); err == nil {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestASlowPodIsGivenUp asks pods that do not answer, and one whose answer does
// not end.
func TestASlowPodIsGivenUp(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"nothing comes": func(http.ResponseWriter) {},
		"the answer stops": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"requests":`)
			w.(http.Flusher).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serving(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // Or the server does not see that the client goes.
				begin(w)
				<-r.Context().Done()
			})
			// The test's own context has no deadline.
			_, err := c.PutExpertSet(t.Context(), pod, "", contract.ExpertSet{})
			if !errors.Is(err, context.DeadlineExceeded) || Refused(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPodURL(t *testing.T) {
	for _, tc := range []struct{ ip, want string }{
		{"10.0.0.7", "http://10.0.0.7:8081/experts"},
		{"fd00::7", "http://[fd00::7]:8081/experts"},
	} {
		got, err := PodURL(&corev1.Pod{Status: corev1.PodStatus{PodIP: tc.ip}}, contract.PathExpertSet)
		if err != nil || got != tc.want {
			t.Errorf("got %q, %v, want %q", got, err, tc.want)
		}
	}
	if _, err := PodURL(pod, "/"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v", err)
	}
}
