package server_test

import (
	"bytes"
	"fmt"
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
	recorded "github.com/transformersquared/operator/test/history"
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
		status := h.swap(t, next)
		if status.ExpertSetDigest != want || status.DesiredDigest != want || status.Error != nil || status.Loading != nil {
			t.Fatalf("%+v, want set %s", status, want)
		}
		wantExperts := []contract.ServedExpert{
			{Name: "demo-code", Digest: h.code.Digest, State: contract.ExpertServed, Requests: 1}, // Its count goes on.
			{Name: "demo-law", Digest: law.Digest, State: contract.ExpertServed},
		}
		if diff := cmp.Diff(wantExperts, status.Experts); diff != "" {
			t.Errorf("experts (-want +got):\n%s", diff)
		}
	}
	if status, code := h.put(t, token, next); code != http.StatusOK || status.ExpertSetDigest != want {
		t.Errorf("a set that is served: status %d, %+v", code, status)
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
	h = open(t, func(c *server.Config) { c.AdminToken, c.AdminTokenFile = "", "" })
	if _, code := h.put(t, "", h.set()); code != http.StatusForbidden {
		t.Errorf("a server without a token: status %d", code)
	}
}

// TestTheTokenInAFileCanBeExchanged writes the file as a Secret's mount is
// written, and asks with the old and the new token.
func TestTheTokenInAFileCanBeExchanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), contract.AdminTokenKey)
	h := open(t, func(c *server.Config) { c.AdminToken, c.AdminTokenFile = "", file })
	for _, step := range []struct {
		name    string
		content string
		code    map[string]int // By the token that is presented.
	}{
		{"no file", "", map[string]int{"": 403, "first": 403}},
		{"the first token", "first\n", map[string]int{"first": 200, "": 401, "second": 401}},
		{"another one", "second", map[string]int{"second": 200, "first": 401}},
		{"an empty file", " \n", map[string]int{"second": 403, "": 403}},
		{"something large", strings.Repeat("x", 1<<20), map[string]int{strings.Repeat("x", 1<<10): 403}},
	} {
		if step.content != "" {
			if err := os.WriteFile(file, []byte(step.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for bearer, want := range step.code {
			if _, code := h.put(t, bearer, h.set()); code != want {
				t.Errorf("%s, presented %.10q: status %d, want %d", step.name, bearer, code, want)
			}
		}
	}
}

// TestAnExpertThatCannotBeLoadedTakesNothingElseDown offers sets with one bad
// expert, each to a server that has a good set: the others are served, also
// what is new, the bad one is named with its reason, and its version before goes
// on.
func TestAnExpertThatCannotBeLoadedTakesNothingElseDown(t *testing.T) {
	v := enginetest.New(t)
	damaged := damagedExpert(t, v)
	for name, c := range map[string]struct {
		digest    string
		reason    string
		permanent bool
		want      string
	}{
		"not on the volume":   {contract.DigestPrefix + strings.Repeat("9", 64), contract.ReasonExpertMissing, false, "train or import it again"},
		"of other matrices":   {foreignExpert(t, v), contract.ReasonDecompositionMismatch, true, "decomposition"},
		"damaged":             {damaged, contract.ReasonDigestMismatch, true, "digest"},
		"in another's folder": {movedExpert(t, v), contract.ReasonDigestMismatch, true, "the set asks for " + contract.DigestPrefix + "111"},
	} {
		t.Run(name, func(t *testing.T) {
			h := openOn(t, v, nil)
			before := h.Status()
			set := h.set()
			set.Experts = append(set.Experts,
				contract.ExpertRef{Name: "demo-bad", Skill: "bad", Digest: c.digest},
				contract.ExpertRef{Name: "demo-law", Skill: "law", Digest: v.Expert(t, "law", 5).Digest})
			set.Experts[0].Digest = c.digest // A next version of demo-math that cannot be loaded.
			set.Fallback = "demo-bad"
			status := h.swap(t, set)
			if status.Error == nil || status.Error.Digest != status.DesiredDigest || status.Error.Reason != c.reason ||
				status.Error.Permanent != c.permanent || !strings.Contains(status.Error.Message, c.want) ||
				!strings.Contains(status.Error.Message, `expert "demo-bad"`) || !strings.Contains(status.Error.Message, "2 of 4 experts") {
				t.Errorf("error %+v, want %s with %q", status.Error, c.reason, c.want)
			}
			if d := status.ExpertSetDigest; d == status.DesiredDigest || d == before.ExpertSetDigest || !contract.ValidDigest(d) {
				t.Errorf("in use is %s, want neither what was asked for nor what was before", d)
			}
			got := map[string]string{}
			for _, e := range status.Experts {
				got[e.Name] = e.State + " " + e.Digest
				if (e.Error != nil) != (e.State == contract.ExpertFailed) || e.Error != nil && e.Error.Reason != c.reason {
					t.Errorf("expert %+v, error %+v", e, e.Error)
				}
			}
			want := map[string]string{
				"demo-math": "Failed " + h.math.Digest, "demo-code": "Served " + h.code.Digest, "demo-bad": "Failed ",
				"demo-law": "Served " + set.Experts[3].Digest,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("experts (-want +got):\n%s", diff)
			}
			for _, model := range []string{"demo", "demo:demo-math", "demo:demo-code", "demo:demo-law", "demo:base"} {
				a, r := h.ask(t, contract.PathChatCompletions, chat(model, "x", nil))
				if r.StatusCode != http.StatusOK || a.Adaptation.ExpertSetDigest != status.ExpertSetDigest {
					t.Errorf("%s: status %s, %+v", model, r.Status, a)
				}
				if _, offered := a.Adaptation.Probabilities["demo-bad"]; offered || model == "demo" && len(a.Adaptation.Probabilities) != 4 {
					t.Errorf("pass 1 was offered %v, want what is served", a.Adaptation.Probabilities)
				}
			}
			a, r := h.ask(t, contract.PathChatCompletions, chat("demo:demo-bad", "x", nil))
			if r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.Error.Message, `"demo-bad"`) ||
				!strings.Contains(a.Error.Message, c.reason) || strings.Contains(a.Error.Message, v.Root) {
				t.Errorf("the missing expert: status %s, %+v", r.Status, a.Error)
			}
			// A good set clears the error.
			if status := h.swap(t, h.set()); status.Error != nil || status.ExpertSetDigest != before.ExpertSetDigest {
				t.Errorf("%+v", status)
			}
		})
	}
}

// foreignExpert publishes an expert of another decomposition.
func foreignExpert(t *testing.T, v *enginetest.Volume) (digest string) {
	t.Helper()
	d, err := expert.OpenDecomposition(v.DecompositionDir)
	if err != nil {
		t.Fatal(err)
	}
	z := map[string][]float32{}
	for _, name := range d.Matrices() {
		z[name] = make([]float32, d.Rank(name))
	}
	m, err := expert.Write(v.Root, expert.Adapter{Z: z, Manifest: contract.ExpertManifest{
		Skill: "law", BaseDigest: v.ModelDigest, DecompositionDigest: contract.DigestPrefix + strings.Repeat("0", 64),
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.Digest
}

// damagedExpert publishes an expert and changes a bit of it.
func damagedExpert(t *testing.T, v *enginetest.Volume) (digest string) {
	t.Helper()
	digest = v.Expert(t, "law", 55).Digest
	flipBit(t, filepath.Join(v.ExpertDir(t, digest), expert.File))
	return digest
}

// flipBit damages the end of a file.
func flipBit(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-3] ^= 1
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// movedExpert puts one expert into the folder of another.
func movedExpert(t *testing.T, v *enginetest.Volume) (digest string) {
	t.Helper()
	digest = contract.DigestPrefix + strings.Repeat("1", 64)
	if err := os.CopyFS(v.ExpertDir(t, digest), os.DirFS(v.ExpertDir(t, v.Expert(t, "law", 56).Digest))); err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestSetsThatMakeNoSenseAreRefused(t *testing.T) {
	h := open(t, nil)
	before := h.Status()
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		want   string
	}{
		"of an unknown strategy":  {func(s *contract.ExpertSet) { s.Strategy = "Magic" }, `strategy "Magic"`},
		"with a path for digest":  {func(s *contract.ExpertSet) { s.Experts[1].Digest = "../../etc" }, "is no digest"},
		"with an unknown default": {func(s *contract.ExpertSet) { s.Fallback = "law" }, "fallback"},
	} {
		t.Run(name, func(t *testing.T) {
			set := h.set()
			c.change(&set)
			for range 2 {
				status, code := h.put(t, token, set)
				if code != http.StatusUnprocessableEntity || status.Error == nil || !status.Error.Permanent ||
					status.Error.Reason != contract.ReasonUsage || !strings.Contains(status.Error.Message, c.want) {
					t.Errorf("status %d, error %+v, want %q", code, status.Error, c.want)
				}
			}
			if n := strings.Count(h.log.String(), c.want); n != 1 && !strings.Contains(c.want, `"`) {
				t.Errorf("one refusal was logged %d times", n)
			}
			// What is desired and in use stays.
			if diff := cmp.Diff(before, h.Status()); diff != "" {
				t.Errorf("status (-before +after):\n%s", diff)
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
}

// TestAFixedMixtureLacksAnExpert weighs the rest anew, and takes the base where
// nothing of weight is left.
func TestAFixedMixtureLacksAnExpert(t *testing.T) {
	h := open(t, nil)
	absent := contract.DigestPrefix + strings.Repeat("9", 64)
	for name, c := range map[string]struct {
		weights [3]float64 // Of demo-math, demo-code and the one that is missing.
		want    map[string]float64
	}{
		"the rest is weighed anew":          {[3]float64{3, 1, 4}, map[string]float64{"demo-math": 0.75, "demo-code": 0.25}},
		"all alike":                         {[3]float64{0, 0, 0}, map[string]float64{"demo-math": 0.5, "demo-code": 0.5}},
		"the mixture was the missing alone": {[3]float64{0, 0, 4}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			set := h.set()
			set.Strategy = contract.StrategyFixed
			set.Experts = append(set.Experts, contract.ExpertRef{Name: "gone", Skill: "gone", Digest: absent})
			for i, w := range c.weights {
				set.Experts[i].Weight = w
			}
			h.swap(t, set)
			got, _ := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil))
			if diff := cmp.Diff(c.want, got.Adaptation.Weights); diff != "" {
				t.Errorf("weights (-want +got):\n%s", diff)
			}
			if pinned, r := h.ask(t, contract.PathChatCompletions, chat("demo:demo-code", "x", nil)); r.StatusCode != http.StatusOK {
				t.Errorf("an expert that is there: %+v", pinned)
			}
		})
	}
}

// TestNoRequestIsLostInASwap exchanges the set over and over under load, as long as lasting
// says. Every request is answered, and by the weights of one set, and nothing of a set that has
// gone is held.
func TestNoRequestIsLostInASwap(t *testing.T) {
	h := open(t, quiet)
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
	var told recorded.Recorder
	exchange := func(i int) {
		digest, err := sets[i%3].Digest()
		if err != nil {
			t.Error(err)
		}
		inUse := told.Offer(digest)
		if status := h.swap(t, sets[i%3]); status.Error != nil {
			t.Errorf("swap %d: %+v", i, status)
		}
		inUse()
	}
	exchange(2)
	var wg sync.WaitGroup
	var stop atomic.Bool
	var asked, swaps atomic.Int64
	for i := range 6 {
		model := []string{"demo:demo-math", "demo", "demo:base"}[i%3]
		wg.Go(func() {
			for !stop.Load() {
				body := chat(model, "count to ten", nil)
				received := told.Send(fmt.Sprintf("client %d", i))
				if i == 4 {
					body["stream"] = true
					chunks, done := h.stream(t, contract.PathChatCompletions, body)
					if last := chunks[len(chunks)-1].Adaptation; done && last != nil {
						received(last.ExpertSetDigest, false)
					}
					asked.Add(1)
					continue
				}
				got, resp := h.ask(t, contract.PathChatCompletions, body)
				if resp.StatusCode != http.StatusOK {
					t.Errorf("status %s: %+v", resp.Status, got.Error)
					return
				}
				received(got.Adaptation.ExpertSetDigest, false)
				if want := answers[got.Adaptation.ExpertSetDigest]; model == "demo:demo-math" && got.Choices[0].Message.Content != want {
					t.Errorf("answer %q, want that of its set, %q", got.Choices[0].Message.Content, want)
				}
				asked.Add(1)
			}
		})
	}
	var middle held
	for i, half := range lasting(t, 50) {
		if half {
			middle = holding(&told)
		}
		exchange(i)
		swaps.Add(1)
		enough := asked.Load() + 6
		waitFor(t, "requests between two swaps", func() bool { return asked.Load() >= enough || t.Failed() })
	}
	stop.Store(true)
	wg.Wait()
	checkGrowth(t, middle, holding(&told))
	offers, requests := told.History()
	for _, v := range recorded.Check(offers, requests) {
		t.Error(v)
	}
	if s := recorded.Summarise(offers, requests); s.Requests < 100 || s.Sets != 3 || s.Overlapping == 0 || s.Refused > 0 {
		t.Errorf("%d swaps, %+v: the test shows nothing", swaps.Load(), s)
	} else {
		t.Logf("%d swaps, %+v", swaps.Load(), s)
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
