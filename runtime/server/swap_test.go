package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// hung makes the reads of an expert hang, as on a volume whose server is gone,
// until they are released.
type hung struct {
	digest  string
	reached chan struct{} // One read has come.
	release chan struct{}
}

func hang(c *server.Config, digest string) *hung {
	h := &hung{digest: digest, reached: make(chan struct{}, 1), release: make(chan struct{})}
	place := c.ExpertDir
	c.ExpertDir = func(ref contract.ExpertRef) (string, error) {
		if ref.Digest == h.digest {
			h.reached <- struct{}{}
			<-h.release
		}
		return place(ref)
	}
	return h
}

// TestPutDoesNotWaitForTheLoad puts a set whose loading hangs. It is answered at
// once, requests go on with the old set, another set takes its place, and a
// request that was in flight all the time ends on the set it began with.
func TestPutDoesNotWaitForTheLoad(t *testing.T) {
	v := enginetest.New(t)
	slow, law := v.Expert(t, "slow", 7), v.Expert(t, "law", 8)
	var volume *hung
	h := openOn(t, v, func(c *server.Config) { volume = hang(c, slow.Digest) })
	before := h.Status()
	inFlight, err := post(t.Context(), h.api.URL+contract.PathChatCompletions, chat("demo:demo-math", "x", fields{"stream": true, "max_tokens": 380}))
	if err != nil {
		t.Fatal(err)
	}
	defer inFlight.Body.Close()
	events := bufio.NewReader(inFlight.Body)
	if _, err := events.ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	first := h.set()
	first.Experts[0] = contract.ExpertRef{Name: "demo-slow", Skill: "slow", Digest: slow.Digest}
	status, code := h.put(t, token, first)
	if code != http.StatusAccepted || status.Error != nil || status.ExpertSetDigest != before.ExpertSetDigest ||
		status.Loading == nil || status.Loading.Digest != status.DesiredDigest || time.Since(status.Loading.Since) > time.Minute || status.Loading.Total != 2 {
		t.Errorf("status %d, %+v, loading %+v", code, status, status.Loading)
	}
	<-volume.reached
	wantExperts := []contract.ServedExpert{
		{Name: "demo-slow", State: contract.ExpertLoading},
		{Name: "demo-code", Digest: h.code.Digest, State: contract.ExpertServed},
		{Name: "demo-math", Digest: h.math.Digest, State: contract.ExpertServed, Requests: 1}, // Until it is loaded.
	}
	if diff := cmp.Diff(wantExperts, h.Status().Experts); diff != "" {
		t.Errorf("experts (-want +got):\n%s", diff)
	}
	if again, code := h.put(t, token, first); code != http.StatusAccepted || !again.Loading.Since.Equal(status.Loading.Since) {
		t.Errorf("the set that is being loaded: status %d, %+v", code, again)
	}
	if a, r := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil)); r.StatusCode != http.StatusOK || a.Adaptation.ExpertSetDigest != before.ExpertSetDigest {
		t.Errorf("a request meanwhile: %s, %+v", r.Status, a)
	}
	a, r := h.ask(t, contract.PathChatCompletions, chat("demo:demo-slow", "x", nil))
	if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || !strings.Contains(a.Error.Message, "demo-slow") {
		t.Errorf("an expert that is being loaded: %s, %+v", r.Status, a.Error)
	}

	// What needs nothing of the volume takes its place.
	second := h.set()
	second.Experts = second.Experts[1:]
	if got := h.swap(t, second); got.Error != nil || len(got.Experts) != 1 {
		t.Errorf("the next set: %+v", got)
	}
	// What does waits for the volume, and is not refused.
	third := h.set()
	third.Experts[0] = contract.ExpertRef{Name: "demo-law", Skill: "law", Digest: law.Digest}
	if got, code := h.put(t, token, third); code != http.StatusAccepted || got.Error != nil || got.Loading == nil {
		t.Errorf("a set that waits: status %d, %+v", code, got)
	}
	close(volume.release)
	if got := h.swap(t, third); got.Error != nil || got.Experts[0].Digest != law.Digest {
		t.Errorf("a set that waited: %+v", got)
	}
	if strings.Contains(h.log.String(), `"msg":"Took expert set into use","digest":"`+status.DesiredDigest) {
		t.Error("a set that was superseded was taken into use")
	}
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	for _, want := range []string{`offers_total{result="superseded"} 1`, `offers_total{result="taken"} 3`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}

	var last string
	for line := ""; err == nil; line, err = events.ReadString('\n') {
		if data, ok := strings.CutPrefix(line, "data: {"); ok {
			last = "{" + data
		}
	}
	var end answer
	if err := json.Unmarshal([]byte(last), &end); err != nil || end.Adaptation == nil || end.Adaptation.ExpertSetDigest != before.ExpertSetDigest {
		t.Errorf("the request in flight ended with %s (%v), want the set %s", last, err, before.ExpertSetDigest)
	}
}

// TestClosingDoesNotWaitForAReadThatHangs ends a server whose volume does not
// answer.
func TestClosingDoesNotWaitForAReadThatHangs(t *testing.T) {
	v := enginetest.New(t)
	slow := v.Expert(t, "slow", 7)
	c := config(t, v, &servertest.Log{})
	volume := hang(&c, slow.Digest)
	defer close(volume.release)
	s := server.New(c)
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	swapped := make(chan error, 1)
	go func() {
		swapped <- s.Swap(t.Context(), contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
			{Name: "slow", Skill: "slow", Digest: slow.Digest},
		}})
	}()
	<-volume.reached
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-swapped; err == nil {
		t.Error("a set was served by a closed server")
	}
}

// TestAPodStartsWithoutAnExpert starts a pod whose set names an expert that is
// not on the volume. It becomes ready, says which and why, and takes the expert
// when its folder appears.
func TestAPodStartsWithoutAnExpert(t *testing.T) {
	v := enginetest.New(t)
	math, late := v.Expert(t, "math", 1), v.Expert(t, "late", 2)
	aside := filepath.Join(v.Root, "aside")
	if err := os.Rename(v.ExpertDir(t, late.Digest), aside); err != nil {
		t.Fatal(err)
	}
	log := &servertest.Log{}
	c := config(t, v, log)
	set := contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
		{Name: "demo-math", Skill: "math", Digest: math.Digest}, {Name: "demo-late", Skill: "late", Digest: late.Digest},
	}}
	want, err := set.Digest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.SetFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := server.New(c)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	api, admin := log.Addresses(t)
	waitFor(t, "readiness", func() bool { _, code := reachable(t, admin+contract.PathReady); return code == http.StatusOK })
	st := s.Status()
	if st.DesiredDigest != want || st.ExpertSetDigest == want || st.ExpertSetDigest == "" || st.Error == nil ||
		st.Error.Permanent || st.Error.Reason != contract.ReasonExpertMissing || !strings.Contains(st.Error.Message, v.ExpertDir(t, late.Digest)) {
		t.Errorf("status %+v, error %+v", st, st.Error)
	}
	if len(st.Experts) != 2 || st.Experts[0].State != contract.ExpertServed || st.Experts[1].State != contract.ExpertFailed || st.Experts[1].Digest != "" {
		t.Errorf("experts %+v", st.Experts)
	}
	models, _ := get(t, api+contract.PathModels)
	if !strings.Contains(models, "demo:demo-math") || strings.Contains(models, "demo-late") {
		t.Errorf("models %s", models)
	}

	if err := os.Rename(aside, v.ExpertDir(t, late.Digest)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the expert to be found", func() bool { return s.Status().ExpertSetDigest == want })
	if st := s.Status(); st.Error != nil || st.Loading != nil || st.Experts[1].Digest != late.Digest {
		t.Errorf("status %+v, error %+v", st, st.Error)
	}
	if r, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo:demo-late", "x", nil)); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the expert that came late: %v, %v", r, err)
	}
}

// TestABrokenDecompositionLeavesTheBase damages what every expert needs. A
// server that starts serves the base, if that needs no factors; one that has a
// set goes on with it.
func TestABrokenDecompositionLeavesTheBase(t *testing.T) {
	for _, form := range []engine.Form{engine.FormMerged, engine.FormUnmerged} {
		t.Run(string(form), func(t *testing.T) {
			v := enginetest.New(t)
			files, err := filepath.Glob(filepath.Join(v.DecompositionDir, "*.safetensors"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			good := openOn(t, v, func(c *server.Config) { c.Form = form })
			before := good.Status()
			for _, file := range files {
				flipBit(t, file)
			}
			next := good.set()
			next.Experts = append(next.Experts, contract.ExpertRef{Name: "demo-law", Skill: "law", Digest: v.Expert(t, "law", 3).Digest})
			got := good.swap(t, next)
			if form == engine.FormMerged {
				// Only what has to be composed anew needs the decomposition.
				if got.Error == nil || got.Error.Reason != contract.ReasonDigestMismatch || got.Experts[0].State != contract.ExpertServed ||
					got.Experts[2].State != contract.ExpertFailed {
					t.Errorf("%+v, error %+v; before it was %+v", got, got.Error, before)
				}
			} else if got.Error != nil {
				t.Errorf("the factors were there already, but %+v", got.Error)
			}
			if a, r := good.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "x", nil)); r.StatusCode != http.StatusOK {
				t.Errorf("what was there: %+v", a.Error)
			}

			c := config(t, v, &servertest.Log{})
			c.Form = form
			s := server.New(c)
			if err := s.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			if err := s.Swap(t.Context(), good.set()); err == nil || !strings.Contains(err.Error(), "digest") {
				t.Errorf("got %v", err)
			}
			st := s.Status()
			for _, e := range st.Experts {
				if e.State != contract.ExpertFailed || e.Digest != "" || e.Error == nil || e.Error.Reason != contract.ReasonDigestMismatch {
					t.Errorf("expert %+v, error %+v", e, e.Error)
				}
			}
			if form == engine.FormUnmerged {
				// The base itself was asked to be computed with the factors.
				w := httptest.NewRecorder()
				s.Admin().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, contract.PathReady, nil))
				if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "could not be loaded") || !strings.Contains(w.Body.String(), "digest") {
					t.Errorf("ready: %d, %s", w.Code, w.Body)
				}
				return
			}
			if a := postTo(t, s.API(), contract.PathChatCompletions, chat("demo", "x", nil)); a.Adaptation.Expert != contract.BaseName || st.ExpertSetDigest == "" {
				t.Errorf("answer %+v, status %+v", a, st)
			}
		})
	}
}

// TestASetMayComeBeforeTheModel puts a set while the model is still to be loaded.
func TestASetMayComeBeforeTheModel(t *testing.T) {
	v := enginetest.New(t)
	math := v.Expert(t, "math", 1)
	s := server.New(config(t, v, &servertest.Log{}))
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	body, err := json.Marshal(contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
		{Name: "demo-math", Skill: "math", Digest: math.Digest},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, contract.PathExpertSet, bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	s.Admin().ServeHTTP(w, r)
	if st := s.Status(); w.Code != http.StatusAccepted || st.DesiredDigest == "" || st.Loading == nil || st.Error != nil {
		t.Errorf("status %d, %+v", w.Code, st)
	}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the set", func() bool { st := s.Status(); return st.ExpertSetDigest == st.DesiredDigest })
}
