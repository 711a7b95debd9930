package server_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/server"
)

func TestSetsAreExchangedByPut(t *testing.T) {
	h := open(t, nil)
	law := h.volume.Expert(t, "law", 3)
	next := h.set()
	next.Experts = append(next.Experts[1:], contract.ExpertRef{Name: "demo-law", Skill: "law", Digest: law.Digest})
	want, err := next.Digest()
	if err != nil {
		t.Fatal(err)
	}
	h.ask(t, contract.PathChatCompletions, chat("demo:demo-code", "x", nil))
	for range 2 { // The second time nothing changes.
		status, code := h.put(t, token, next)
		if code != http.StatusOK || status.ExpertSetDigest != want || status.Error != "" {
			t.Fatalf("status %d, %+v, want set %s", code, status, want)
		}
		wantExperts := []contract.ServedExpert{
			{Name: "demo-code", Digest: h.code.Digest, Requests: 1}, // Its count goes on.
			{Name: "demo-law", Digest: law.Digest},
		}
		if diff := cmp.Diff(wantExperts, status.Experts); diff != "" {
			t.Errorf("experts (-want +got):\n%s", diff)
		}
	}
	got, _ := h.ask(t, contract.PathChatCompletions, chat("demo:demo-law", "x", nil))
	if got.Adaptation == nil || got.Adaptation.ExpertSetDigest != want {
		t.Errorf("answer %+v", got)
	}
	if _, resp := h.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "x", nil)); resp.StatusCode != http.StatusNotFound {
		t.Errorf("an expert that is gone: status %s", resp.Status)
	}
}

func TestPutAsksForTheToken(t *testing.T) {
	h := open(t, nil)
	for _, bearer := range []string{"", "wrong", token + "x", token[1:]} {
		if _, code := h.put(t, bearer, h.set()); code != http.StatusUnauthorized {
			t.Errorf("token %q: status %d", bearer, code)
		}
	}
	h = open(t, func(c *server.Config) { c.AdminToken = "" })
	if _, code := h.put(t, "", h.set()); code != http.StatusForbidden {
		t.Errorf("a server without a token: status %d", code)
	}
}

func TestRefusedSetsLeaveTheOldOneInUse(t *testing.T) {
	h := open(t, nil)
	before := h.Status()

	// An expert of another base, placed in this volume.
	d, err := expert.OpenDecomposition(h.volume.DecompositionDir)
	if err != nil {
		t.Fatal(err)
	}
	z := map[string][]float32{}
	for _, name := range d.Matrices() {
		z[name] = make([]float32, d.Rank(name))
	}
	foreign, err := expert.WriteVector(h.volume.Root, expert.Vector{Z: z, Manifest: contract.ExpertManifest{
		Skill: "law", BaseDigest: h.volume.ModelDigest, DecompositionDigest: contract.DigestPrefix + strings.Repeat("0", 64),
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// An expert whose file was damaged after it was published.
	damaged := h.volume.Expert(t, "law", 5)
	file := filepath.Join(h.volume.ExpertDir(t, damaged.Digest), expert.VectorFile)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-3] ^= 1
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	// One expert in the folder of another.
	moved := contract.DigestPrefix + strings.Repeat("1", 64)
	if err := os.CopyFS(h.volume.ExpertDir(t, moved), os.DirFS(h.volume.ExpertDir(t, h.math.Digest))); err != nil {
		t.Fatal(err)
	}

	law := func(digest string) func(*contract.ExpertSet) {
		return func(s *contract.ExpertSet) {
			s.Experts = append(s.Experts, contract.ExpertRef{Name: "demo-law", Skill: "law", Digest: digest})
		}
	}
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		code   int
		want   string
	}{
		"not on the volume":       {law(contract.DigestPrefix + strings.Repeat("9", 64)), 422, `expert "demo-law"`},
		"of other matrices":       {law(foreign.Digest), 409, "decomposition"},
		"damaged":                 {law(damaged.Digest), 409, "digest"},
		"in another's folder":     {law(moved), 409, "the set asks for " + moved},
		"of an unknown strategy":  {func(s *contract.ExpertSet) { s.Strategy = "Magic" }, 422, `strategy "Magic"`},
		"with a path for digest":  {law("../../etc"), 422, "is no digest"},
		"with an unknown default": {func(s *contract.ExpertSet) { s.Fallback = "law" }, 422, "fallback"},
	} {
		t.Run(name, func(t *testing.T) {
			set := h.set()
			c.change(&set)
			status, code := h.put(t, token, set)
			if code != c.code || !strings.Contains(status.Error, c.want) {
				t.Errorf("status %d, error %q, want %d with %q", code, status.Error, c.code, c.want)
			}
			if status.ExpertSetDigest != before.ExpertSetDigest || len(status.Experts) != 2 {
				t.Errorf("in use is %+v, want the old set", status)
			}
			if got, _ := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil)); got.Usage == nil {
				t.Errorf("the old set no longer answers: %+v", got)
			}
		})
	}
	for name, body := range map[string]string{"no JSON": "{", "of another type": `{"strategy":5}`, "huge": `{"strategy":"` + strings.Repeat("x", 2<<20) + `"}`} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, h.admin.URL+contract.PathExpertSet, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		if _, code := status(t, r); code != http.StatusBadRequest && code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d", name, code)
		}
	}
	// A good set clears the error.
	if status, code := h.put(t, token, h.set()); code != http.StatusOK || status.Error != "" {
		t.Errorf("status %d, %+v", code, status)
	}
}

// TestNoRequestIsLostInASwap exchanges the set over and over under load. Every
// request is answered, and by the weights of one set.
func TestNoRequestIsLostInASwap(t *testing.T) {
	h := open(t, nil)
	// demo-math is another expert in each set.
	sets := []contract.ExpertSet{h.set(), h.set(), h.set()}
	answers := map[string]string{} // By set: what demo-math answers.
	for i := range sets {
		sets[i].Experts[0].Digest = h.volume.Expert(t, "math", uint64(10+i)).Digest
		if err := h.Swap(t.Context(), sets[i]); err != nil {
			t.Fatal(err)
		}
		got, _ := h.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "count to ten", nil))
		answers[got.Adaptation.ExpertSetDigest] = got.Choices[0].Message.Content
	}
	if len(answers) != 3 {
		t.Fatalf("answers %v, want three", answers)
	}
	var wg sync.WaitGroup
	var stop atomic.Bool
	var asked, swaps atomic.Int64
	for i := range 6 {
		model := []string{"demo:demo-math", "demo", "demo:base"}[i%3]
		wg.Go(func() {
			for !stop.Load() {
				body := chat(model, "count to ten", nil)
				if i == 4 {
					body["stream"] = true
					if pieces, done := h.stream(t, contract.PathChatCompletions, body); !done || pieces[len(pieces)-1].Adaptation == nil {
						t.Errorf("a stream ended early: %+v", pieces)
					}
					asked.Add(1)
					continue
				}
				got, resp := h.ask(t, contract.PathChatCompletions, body)
				if resp.StatusCode != http.StatusOK {
					t.Errorf("status %s: %+v", resp.Status, got.Error)
					return
				}
				if want := answers[got.Adaptation.ExpertSetDigest]; model == "demo:demo-math" && got.Choices[0].Message.Content != want {
					t.Errorf("answer %q, want that of its set, %q", got.Choices[0].Message.Content, want)
				}
				asked.Add(1)
			}
		})
	}
	for i := range 30 {
		status, code := h.put(t, token, sets[i%3])
		if code != http.StatusOK {
			t.Errorf("swap %d: status %d, %+v", i, code, status)
		}
		swaps.Add(1)
		enough := asked.Load() + 6
		waitFor(t, "requests between two swaps", func() bool { return asked.Load() >= enough || t.Failed() })
	}
	stop.Store(true)
	wg.Wait()
	if asked.Load() < 100 {
		t.Errorf("only %d requests in %d swaps: the test shows nothing", asked.Load(), swaps.Load())
	}
}

func TestDecompositionOfAnotherModelIsRefused(t *testing.T) {
	h := open(t, nil)
	c := config(t, h.volume, h.log)
	other := t.TempDir()
	if err := os.CopyFS(other, os.DirFS(h.volume.ModelDir)); err != nil {
		t.Fatal(err)
	}
	// Another tokenizer is another model; there is no manifest, as on a desk.
	if err := os.Remove(filepath.Join(other, contract.ManifestFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "generation_config.json"), []byte(`{"eos_token_id": 259}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.ModelDir = other
	s := server.New(c)
	if err := s.Load(t.Context()); err == nil || !strings.Contains(err.Error(), h.volume.ModelDigest) {
		t.Errorf("got %v, want both digests", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWithoutDecompositionThereIsTheBaseOnly(t *testing.T) {
	v := enginetest.New(t)
	s := server.New(server.Config{Name: "plain", ModelDir: v.ModelDir, Set: &contract.ExpertSet{Strategy: contract.StrategyPrompt}})
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	set := contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
		{Name: "a", Skill: "a", Digest: contract.DigestPrefix + strings.Repeat("1", 64)},
	}}
	if err := s.Swap(t.Context(), set); err == nil || !strings.Contains(err.Error(), "no decomposition") {
		t.Errorf("got %v", err)
	}
}
