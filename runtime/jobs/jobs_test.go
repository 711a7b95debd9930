package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// environment returns a getenv and the path of the termination message.
func environment(t *testing.T, vars map[string]string) (getenv func(string) string, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "termination-log")
	return func(name string) string {
		if name == contract.EnvTerminationLog {
			return log
		}
		return vars[name]
	}, log
}

// device is what the jobs of these tests compute on.
const device = "abacus (10 beads)"

func TestHowAJobEnds(t *testing.T) {
	expert := contract.Termination{Expert: &contract.ExpertResult{Digest: "sha256:x"}}
	boom := errors.New("boom")
	tests := []struct {
		name      string
		managed   bool
		cancelled bool
		idle      bool // No backend was opened.
		err       error
		want      contract.Termination
		wantCode  int
	}{
		{name: "success", managed: true, want: expert},
		{name: "success at a desk", want: expert},
		{name: "an unclassified failure is retried", managed: true, err: boom, wantCode: contract.ExitFailed,
			want: contract.Termination{Reason: contract.ReasonInternal, Message: "boom"}},
		{name: "a permanent failure says so", managed: true, err: failure.Permanent(contract.ReasonInvalidDataset, boom), wantCode: contract.ExitPermanent,
			want: contract.Termination{Reason: contract.ReasonInvalidDataset, Message: "boom", Permanent: true}},
		{name: "a permanent failure at a desk is a failure", err: failure.Permanent(contract.ReasonInvalidDataset, boom), wantCode: contract.ExitFailed,
			want: contract.Termination{Reason: contract.ReasonInvalidDataset, Message: "boom", Permanent: true}},
		{name: "a wrong specification at a desk is wrong usage", err: failure.Permanent(contract.ReasonUsage, boom), wantCode: contract.ExitUsage,
			want: contract.Termination{Reason: contract.ReasonUsage, Message: "boom", Permanent: true}},
		{name: "an interruption is its own kind", managed: true, cancelled: true, err: context.Canceled, wantCode: contract.ExitInterrupted,
			want: contract.Termination{Reason: contract.ReasonInterrupted, Message: "context canceled"}},
		{name: "what fails for an interruption is one", managed: true, cancelled: true, err: boom, wantCode: contract.ExitInterrupted,
			want: contract.Termination{Reason: contract.ReasonInterrupted, Message: "boom"}},
		{name: "a permanent failure stays one when interrupted", managed: true, cancelled: true, err: failure.Permanent(contract.ReasonUsage, boom), wantCode: contract.ExitPermanent,
			want: contract.Termination{Reason: contract.ReasonUsage, Message: "boom", Permanent: true}},
		{name: "a failure before anything computes", managed: true, idle: true, err: boom, wantCode: contract.ExitFailed,
			want: contract.Termination{Reason: contract.ReasonInternal, Message: "boom"}},
		{name: "an interruption at a desk is a failure", cancelled: true, err: context.Canceled, wantCode: contract.ExitFailed,
			want: contract.Termination{Reason: contract.ReasonInterrupted, Message: "context canceled"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			getenv, log := environment(t, nil)
			var stdout bytes.Buffer
			err := Run(ctx, Options{
				Name: "test", Managed: test.managed, AdminAddress: "127.0.0.1:0", JSON: true,
				Stdout: &stdout, Stderr: io.Discard, Getenv: getenv,
			}, func(_ context.Context, p *Progress) (contract.Termination, error) {
				if !test.idle {
					p.Device(device)
				}
				if test.cancelled {
					cancel()
				}
				if test.err != nil {
					return contract.Termination{}, test.err
				}
				return expert, nil
			})
			var exit *ExitError
			switch {
			case errors.As(err, &exit):
				if exit.Code != test.wantCode || !errors.Is(err, test.err) {
					t.Errorf("Run = %v with status %d, want %v with %d", err, exit.Code, test.err, test.wantCode)
				}
			case err != nil || test.wantCode != 0:
				t.Errorf("Run = %v, want status %d", err, test.wantCode)
			}
			var printed contract.Termination
			if err := json.Unmarshal(stdout.Bytes(), &printed); err != nil {
				t.Fatal(err)
			}
			if !test.idle {
				test.want.Device = device
			}
			if diff := cmp.Diff(test.want, printed); diff != "" {
				t.Errorf("standard output differs (-want +got):\n%s", diff)
			}
			written, err := os.ReadFile(log)
			if !test.managed {
				if err == nil {
					t.Errorf("a termination message was written: %s", written)
				}
				return
			}
			var told contract.Termination
			if err := errors.Join(err, json.Unmarshal(written, &told)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, told); diff != "" {
				t.Errorf("the termination message differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTerminationMessagesFit(t *testing.T) {
	files := make([]contract.FileEntry, 500)
	for i := range files {
		files[i] = contract.FileEntry{Path: fmt.Sprintf("file-%d", i), SHA256: strings.Repeat("a", 64)}
	}
	for _, message := range []string{"short", strings.Repeat("x", 5000), strings.Repeat("é", 5000), strings.Repeat("\x00", 5000), strings.Repeat("\"\\", 3000)} {
		body, err := EncodeTermination(contract.Termination{
			Reason: contract.ReasonInternal, Message: message, Permanent: true,
			Decomposition: &contract.DecompositionManifest{Digest: "sha256:x", Files: files},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got contract.Termination
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%.40q: not JSON: %v", message, err)
		}
		if len(body) > contract.MaxTerminationBytes || got.Message == "" || !utf8.ValidString(got.Message) || got.Decomposition.Files != nil {
			t.Errorf("%.40q: %d bytes, message of %d bytes", message, len(body), len(got.Message))
		}
		if got.Message != message && !strings.HasSuffix(got.Message, ellipsis) {
			t.Errorf("%.40q: the cut is not marked", message)
		}
	}
	if len(files) != 500 {
		t.Error("the caller's manifest was changed")
	}
}

type testSpec struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

func TestSpecificationsAreReadStrictly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(file, []byte(`{"name": "file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, file, env string
		want            testSpec
		wantErr         string
	}{
		{name: "from the environment", env: `{"name": "env", "count": 2}`, want: testSpec{"env", 2}},
		{name: "from a file, which comes first", file: file, env: `{"name": "env"}`, want: testSpec{"file", 7}},
		{name: "what is left out keeps its value", env: `{"name": "env"}`, want: testSpec{"env", 7}},
		{name: "no JSON", env: `{`, wantErr: contract.EnvSpec},
		{name: "an unknown field", env: `{"title": "x"}`, wantErr: "title"},
		{name: "two objects", env: `{} {}`, wantErr: "exactly one"},
		{name: "a missing file", file: "/nonexistent", wantErr: "/nonexistent"},
		{name: "too much", env: `{"name": "` + strings.Repeat("x", maxSpecBytes) + `"}`, wantErr: "longer than"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			getenv, _ := environment(t, map[string]string{contract.EnvSpec: test.env})
			got, err := LoadSpecOver(testSpec{Count: 7}, test.file, getenv)
			if test.wantErr != "" {
				if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error is %v (%s, permanent %v), want %q in it", err, reason, permanent, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("specification differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManagedMeansASpecificationFromTheEnvironment(t *testing.T) {
	with, _ := environment(t, map[string]string{contract.EnvSpec: "{}"})
	without, _ := environment(t, nil)
	if !Managed("", with) || Managed("spec.json", with) || Managed("", without) {
		t.Error("Managed is wrong")
	}
	if !HasSpec("", with) || !HasSpec("spec.json", without) || HasSpec("", without) {
		t.Error("HasSpec is wrong")
	}
}

func TestProgressEstimatesFromThePaceOfThePhase(t *testing.T) {
	now := time.Unix(1000, 0)
	p := NewProgress()
	p.now = func() time.Time { return now }
	if got := p.Snapshot().EstimatedRemainingSeconds; got != -1 {
		t.Errorf("before anything is done: %d s left, want unknown", got)
	}
	p.Phase("Training", 10, 40) // continued
	now = now.Add(30 * time.Second)
	if got := p.Snapshot().EstimatedRemainingSeconds; got != -1 {
		t.Errorf("before the first unit: %d s left, want unknown", got)
	}
	p.Done(20)
	p.Label("Validating")
	want := contract.Progress{Phase: "Validating", Done: 20, Total: 40, EstimatedRemainingSeconds: 60}
	if diff := cmp.Diff(want, p.Snapshot()); diff != "" {
		t.Errorf("after 10 units in 30 s (-want +got):\n%s", diff)
	}
	p.Remaining(90 * time.Second)
	if got := p.Snapshot().EstimatedRemainingSeconds; got != 90 {
		t.Errorf("told 90 s: %d s left", got)
	}
	p.Phase("Saving", 0, 0)
	if got := p.Snapshot().EstimatedRemainingSeconds; got != -1 {
		t.Errorf("in a new phase: %d s left, want unknown", got)
	}
}

func TestAdminListenerAnswers(t *testing.T) {
	p := NewProgress()
	p.Registry().MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "t2_example"}))
	p.Phase("Training", 0, 4)
	p.Training(contract.TrainProgress{Iteration: 1, BestScore: -1})
	server := httptest.NewServer(Handler(p))
	defer server.Close()
	get := func(path string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		contract.PathHealth: "ok", contract.PathReady: "ok", contract.PathMetrics: "t2_example 0",
	} {
		if code, body := get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s answered %d %.200s", path, code, body)
		}
	}
	_, body := get(contract.PathProgress)
	var got contract.Progress
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.Snapshot(), got); diff != "" {
		t.Errorf("progress differs (-want +got):\n%s", diff)
	}
	if code, _ := get("/nothing"); code != http.StatusNotFound {
		t.Errorf("an unknown path answered %d", code)
	}
}

func TestAnAddressInUseDoesNotFailTheJob(t *testing.T) {
	p := NewProgress()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	serveAdmin(t.Context(), "256.0.0.1:1", p, logger)()
	if !strings.Contains(log.String(), "could not start") {
		t.Errorf("log is %q", log.String())
	}
	serveAdmin(t.Context(), "127.0.0.1:0", p, logger)() // starts and stops
}

func TestBarLines(t *testing.T) {
	tests := []struct {
		state contract.Progress
		want  string
	}{
		{contract.Progress{Phase: "Loading", EstimatedRemainingSeconds: -1}, "Loading     "},
		{contract.Progress{Phase: "Decomposing", Done: 1, Total: 2, EstimatedRemainingSeconds: 61},
			"Decomposing  [============            ] 1/2  1m1s left"},
		{contract.Progress{Phase: "Training", Done: 9, Total: 4, EstimatedRemainingSeconds: -1, Training: &contract.TrainProgress{Reward: -0.5, BestScore: -1, BaselineScore: 0.25}},
			"Training     [========================] 9/4  reward -0.50  best 0.000  base 0.250"},
	}
	for _, test := range tests {
		if got := barLine(test.state); got != test.want {
			t.Errorf("bar is\n%q, want\n%q", got, test.want)
		}
	}
}
