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
		if diff := cmp.Diff(set, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		_ = json.NewEncoder(w).Encode(contract.ServingStatus{ExpertSetDigest: "sha256:1"})
	})
	got, err := c.PutExpertSet(t.Context(), pod, "secret", set)
	if err != nil || got.ExpertSetDigest != "sha256:1" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestARefusalSaysWhy(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"a serving status", `{"error":"digest of math differs"}`, "digest of math differs"},
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
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := serving(t, handler).Progress(t.Context(), pod); err == nil {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestASlowPodIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	c := serving(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	began := time.Now()
	_, err := c.ServingStatus(t.Context(), pod)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 5*timeout {
		t.Errorf("it took %v", took)
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
