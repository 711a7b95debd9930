package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

const token = "correct horse battery staple"

// house is a server on a volume of its own, with math and code as experts.
type house struct {
	*server.Server
	volume     *enginetest.Volume
	math, code contract.ExpertManifest
	api, admin *httptest.Server
	log        *servertest.Log
}

// config serves a volume as a pod would.
func config(t testing.TB, v *enginetest.Volume, log io.Writer) server.Config {
	t.Helper()
	c, err := server.FromSpec(contract.ServeSpec{
		Name: "demo", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
		ContextLength: 400, MaxBatch: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.SetFile = filepath.Join(v.Root, "set.json")
	c.AdminToken, c.Threads = token, 2
	c.APIAddress, c.AdminAddress = "127.0.0.1:0", "127.0.0.1:0"
	c.Log = slog.New(slog.NewJSONHandler(log, nil))
	return c
}

// open starts a server and gives it its experts.
func open(t testing.TB, change func(*server.Config)) *house {
	t.Helper()
	return openOn(t, enginetest.New(t), change)
}

// openOn does so on a volume that is there.
func openOn(t testing.TB, v *enginetest.Volume, change func(*server.Config)) *house {
	t.Helper()
	h := &house{volume: v, log: &servertest.Log{}}
	h.math, h.code = h.volume.Expert(t, "math", 1), h.volume.Expert(t, "code", 2)
	c := config(t, h.volume, h.log)
	if change != nil {
		change(&c)
	}
	h.Server = server.New(c)
	if err := h.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := h.Swap(t.Context(), h.set()); err != nil {
		t.Fatal(err)
	}
	h.api, h.admin = httptest.NewServer(h.API()), httptest.NewServer(h.Admin())
	t.Cleanup(h.api.Close)
	t.Cleanup(h.admin.Close)
	return h
}

// endlessTokens take longer to write than any test looks at an answer: what has to be in
// flight still is, however late the test is.
const endlessTokens = 1 << 15

// endless is a volume whose model has room for such an answer, which its configuration allows.
func endless(t testing.TB) (*enginetest.Volume, func(*server.Config)) {
	t.Helper()
	kind := enginetest.Usual
	kind.Context = 2 * endlessTokens
	return enginetest.NewOf(t, kind), func(c *server.Config) { c.ContextLength = kind.Context }
}

// handled waits until the handlers of all requests have ended, and takes no more: a client
// has all of its answer before its handler has logged and counted it.
func (h *house) handled() { h.api.Close() }

func (h *house) set() contract.ExpertSet {
	return contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
		{Name: "demo-math", Skill: "math", Description: "word problems and arithmetic", Digest: h.math.Digest},
		{Name: "demo-code", Skill: "code", Description: "writing Python functions", Digest: h.code.Digest},
	}}
}

// answer is what a client reads of a response of either endpoint.
type answer struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Model       string `json:"model"`
	Fingerprint string `json:"system_fingerprint"`
	Choices     []struct {
		Message  *said  `json:"message"`
		Delta    *said  `json:"delta"`
		Text     string `json:"text"`
		Logprobs *struct {
			Content []struct {
				Token   string
				Logprob float64
				Bytes   []int
				Top     []struct{ Token string } `json:"top_logprobs"`
			}
			Tokens  []string
			Values  []float64 `json:"token_logprobs"`
			Offsets []int     `json:"text_offset"`
		}
		Finish *string `json:"finish_reason"`
	}
	Usage      *usage               `json:"usage"`
	Adaptation *contract.Adaptation `json:"t2"`
	Error      *apiError            `json:"error"`
}

// said is a message of an answer, or a piece of one.
type said struct {
	Role    string
	Content string
	Calls   []struct {
		Index    *int
		ID, Type string
		Function struct{ Name, Arguments string }
		Custom   *struct{ Name, Input string }
	} `json:"tool_calls"`
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
	Details    struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

type apiError struct{ Message, Type, Param, Code string }

func post(ctx context.Context, url string, body any) (*http.Response, error) {
	raw, isText := body.(string)
	if !isText {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		raw = string(b)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(r)
}

// ask posts to an endpoint and decodes a whole answer.
func (h *house) ask(t testing.TB, path string, body any) (answer, *http.Response) {
	t.Helper()
	var a answer
	r, err := post(t.Context(), h.api.URL+path, body)
	if err != nil {
		t.Error(err)
		return a, &http.Response{}
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		t.Errorf("decoding the answer: %v", err)
	}
	return a, r
}

type fields map[string]any

func chat(model, message string, more fields) fields {
	f := fields{"model": model, "messages": []fields{{"role": "user", "content": message}}, "seed": 1, "max_tokens": 12}
	maps.Copy(f, more)
	return f
}

// stream posts and decodes the events of a stream; done says that it ended as
// it should.
func (h *house) stream(t testing.TB, path string, body any) (chunks []answer, done bool) {
	t.Helper()
	r, err := post(t.Context(), h.api.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if got := r.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Fatalf("content type %q, status %s", got, r.Status)
	}
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case lines.Text() == "":
		case !ok:
			t.Errorf("line %q is no event", lines.Text())
		case data == "[DONE]":
			done = true
		case done:
			t.Errorf("%q follows the end", data)
		default:
			var a answer
			if err := json.Unmarshal([]byte(data), &a); err != nil {
				t.Errorf("event %q: %v", data, err)
			}
			chunks = append(chunks, a)
		}
	}
	return chunks, done
}

func (h *house) put(t testing.TB, bearer string, body any) (contract.ServingStatus, int) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, h.admin.URL+contract.PathExpertSet, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	return status(t, r)
}

// swap puts a set and waits until it is served or known not to be.
func (h *house) swap(t testing.TB, set contract.ExpertSet) contract.ServingStatus {
	t.Helper()
	status, code := h.put(t, token, set)
	if code != http.StatusOK && code != http.StatusAccepted {
		t.Errorf("status %d, %+v", code, status)
	}
	if want, err := set.Digest(); err != nil || status.DesiredDigest != want {
		t.Errorf("desired is %s, want %s (%v)", status.DesiredDigest, want, err)
	}
	waitFor(t, "the set to be loaded", func() bool {
		status = h.Status()
		return status.ExpertSetDigest == status.DesiredDigest || status.Error != nil
	})
	return status
}

func status(t testing.TB, r *http.Request) (contract.ServingStatus, int) {
	t.Helper()
	var s contract.ServingStatus
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	// An error object is no status, and is not looked at.
	_ = json.Unmarshal(body, &s)
	return s, resp.StatusCode
}

func get(t testing.TB, url string) (string, int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r)
}

func do(t testing.TB, r *http.Request) (string, int) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), resp.StatusCode
}

func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// postTo asks a handler without a network between.
func postTo(t testing.TB, h http.Handler, path string, body any) (a answer) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(b)))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}
