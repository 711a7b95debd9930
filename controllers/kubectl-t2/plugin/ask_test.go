package plugin

import (
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/tunnel"
	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/tunnel/tunneltest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
)

// served is a policy whose pod is the runtime's own server on a tiny model, behind a
// tunnel as the API server makes it.
type served struct {
	*rig
	volume     *enginetest.Volume
	math, code contract.ExpertManifest
}

func serve(t *testing.T, more ...client.Object) *served {
	t.Helper()
	s := &served{volume: enginetest.New(t)}
	s.math, s.code = s.volume.Expert(t, "math", 1), s.volume.Expert(t, "code", 2)
	c, err := server.FromSpec(contract.ServeSpec{
		Name: "demo", DataDir: s.volume.Root, BaseDigest: s.volume.ModelDigest, DecompositionDigest: s.volume.DecompositionDigest,
		ContextLength: 400, MaxBatch: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Threads, c.Log = 1, slog.New(slog.DiscardHandler)
	house := server.New(c)
	if err := house.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := house.Close(); err != nil {
			t.Error(err)
		}
	})
	set := contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
		{Name: "math", Skill: "math", Description: "arithmetic", Digest: s.math.Digest}, {Name: "code", Skill: "code", Description: "programs", Digest: s.code.Digest},
	}}
	if err := house.Swap(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	ready := policy("demo", "tiny")
	e := expert("math", "tiny")
	e.Status.Artifact.Digest = v1alpha1.Digest(s.math.Digest)
	unready := serving("demo-0", "demo", "tiny")
	unready.Status.Conditions[0].Status, unready.Status.Phase = corev1.ConditionFalse, corev1.PodPending
	s.rig = newRig(t, append([]client.Object{base("tiny"), e, ready, unready, serving("demo-1", "demo", "tiny")}, more...)...)
	s.answers(t, "demo-1", contract.PortAPI, house.API())
	s.answers(t, "demo-1", contract.PortAdmin, house.Admin())
	return s
}

// answers makes a port of a pod answer by a handler, through a tunnel.
func (r *rig) answers(t *testing.T, pod string, port int, handler http.Handler) {
	t.Helper()
	r.answersAt(t, pod, port, httptest.NewServer(handler))
}

func (r *rig) answersAt(t *testing.T, pod string, port int, h *httptest.Server) {
	t.Helper()
	t.Cleanup(h.Close)
	if r.api == nil {
		r.api = tunneltest.New(t)
		d, err := tunnel.New(r.api.Config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		r.cluster.Dial = d.Dial
	}
	r.api.Listen(namespace, pod, port, h.Listener.Addr().String())
}

func TestExplain(t *testing.T) {
	s := serve(t)
	out, err, code := s.run(t, "explain", "demo", "What is 3 plus 4?", "--system", "Be brief.")
	if code != exitOK || err != "" {
		t.Fatalf("status %d, %s", code, err)
	}
	for _, text := range []string{"Answers ", "Why ", "Strategy    Prompt", "math", "code", "others", "tokens in", "Expert set  sha256:"} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is missing in\n%s", text, out)
		}
	}
	out, _, _ = s.run(t, "explain", "demo", "What is 3 plus 4?", "-o", "json")
	var e contract.Explanation
	if err := json.Unmarshal([]byte(out), &e); err != nil || len(e.Labels) != 3 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWhoCannotBeAsked(t *testing.T) {
	s := serve(t, policy("idle", "tiny"))
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"explain", "none", "x"}, "there is no AdaptivePolicy none in namespace team"},
		{[]string{"explain", "idle", "x"}, "no pod of policy idle is ready (none): see kubectl t2 status policy/idle"},
		{[]string{"explain", "demo", "x", "--pod", "other"}, "policy demo has no pod other: it has demo-0, demo-1"},
		{[]string{"explain", "demo", "x", "--pod", "demo-0"}, "connection refused"},
		{[]string{"chat", "none"}, "there is no AdaptivePolicy none"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			_, err, code := s.run(t, test.args...)
			if code != exitFailed || !strings.Contains(err, test.says) {
				t.Errorf("status %d: %s", code, err)
			}
		})
	}
}

func TestChatKeepsTheConversation(t *testing.T) {
	var bodies []map[string]any
	r := newRig(t, policy("demo", "tiny"), serving("demo-1", "demo", "tiny"))
	r.answers(t, "demo-1", contract.PortAPI, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		bodies = append(bodies, body)
		if len(bodies) == 3 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"message":"the prompt is too long"}}`)
			return
		}
		for _, event := range []string{
			`{"choices":[{"delta":{"role":"assistant","content":""}}]}`, `{"choices":[{"delta":{"content":"se"}}]}`, `{"choices":[{"delta":{"content":"ven\u001b[2J"}}]}`,
			`{"choices":[{"delta":{},"finish_reason":"stop"}],"t2":{"strategy":"Prompt","expert":"math","probabilities":{"math":0.9,"code":0.06,"others":0.04},"pass1Seconds":0.01,"pass2Seconds":0.2}}`, `[DONE]`,
		} {
			_, _ = fmt.Fprintf(w, "data: %s\n\n", event)
		}
	}))
	r.env.Asks = true
	r.env.Stdin = strings.NewReader("What is 3+4?\n\nand 3+5?\nlonger\n/expert code\nagain\n/reset\n/nonsense\nanew\n/quit\nnever\n")
	out, err, code := r.run(t, "chat", "demo", "--system", "Be brief.")
	if code != exitOK || err != "" {
		t.Fatalf("status %d, %s", code, err)
	}
	golden(t, "chat.txt", out)
	var turns []string
	for _, b := range bodies {
		var words []string
		for _, m := range b["messages"].([]any) {
			words = append(words, m.(map[string]any)["content"].(string))
		}
		turns = append(turns, b["model"].(string)+": "+strings.Join(words, "|"))
	}
	golden(t, "chat-requests.txt", strings.Join(turns, "\n")+"\n")
}

func TestChatWithTheRuntime(t *testing.T) {
	s := serve(t)
	s.env.Stdin = strings.NewReader("What is 2+3?\nand 4?\n")
	out, err, code := s.run(t, "chat", "demo", "--max-tokens", "8", "--expert", "math")
	if code != exitOK || err != "" || strings.Count(out, "[math, asked for]  pass 1 0 ms") != 2 {
		t.Errorf("status %d, %s\n%s", code, err, out)
	}
	s.env.Stdin = strings.NewReader("What is 2+3?\n")
	if _, err, code := s.run(t, "chat", "demo", "--expert", "nobody"); code != exitFailed || !strings.Contains(err, "nobody") {
		t.Errorf("of an expert that is not there: status %d, %s", code, err)
	}
}

// TestCtrlCBreaksAnAnswerOff and the next one ends the chat.
func TestCtrlCBreaksAnAnswerOff(t *testing.T) {
	r := newRig(t, policy("demo", "tiny"), serving("demo-1", "demo", "tiny"))
	shown := make(chan struct{})
	r.env.Stdout = writer(func(b []byte) {
		if r.out.Write(b); string(b) == "one" {
			close(shown)
		}
	})
	gone := make(chan struct{})
	r.answers(t, "demo-1", contract.PortAPI, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n")
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		close(gone)
	}))
	pressed := make(chan os.Signal, 1)
	r.env.Asks, r.env.Interrupts = true, func() (<-chan os.Signal, func()) { return pressed, func() {} }
	in, typed := io.Pipe()
	r.env.Stdin = in
	go func() {
		_, _ = io.WriteString(typed, "count\n")
		<-shown
		pressed <- os.Interrupt
		<-gone // The pod was told.
		pressed <- os.Interrupt
	}()
	out, err, code := r.run(t, "chat", "demo")
	if code != exitOK || err != "" || !strings.Contains(out, "one") || !strings.Contains(out, "(broken off)") {
		t.Errorf("status %d, %s\n%q", code, err, out)
	}
}

// writer is told what is written.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func TestStreamsThatBreak(t *testing.T) {
	for name, test := range map[string]struct{ sent, says string }{
		"cut off":        {"data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n", errCutOff.Error()},
		"an error in it": {"data: {\"error\":{\"message\":\"no memory\"}}\n\n", "pod demo-1 broke off: no memory"},
		"no JSON":        {"data: {\n\n", "does not stream as t2 does"},
		"a long line":    {"data: " + strings.Repeat("x", maxEvent+1), "token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, policy("demo", "tiny"), serving("demo-1", "demo", "tiny"))
			r.answers(t, "demo-1", contract.PortAPI, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, test.sent) }))
			r.env.Stdin = strings.NewReader("x\n")
			if _, err, code := r.run(t, "chat", "demo"); code != exitFailed || !strings.Contains(err, test.says) {
				t.Errorf("status %d, %s", code, err)
			}
		})
	}
}

func TestCurveWhileItIsTrained(t *testing.T) {
	var c contract.Curve
	c.Skill, c.Iterations, c.BaselineScore = "programs", 40, 0.125
	for i := range 12 {
		p := contract.CurvePoint{Iteration: i + 1, Reward: float64(i)/12 - 0.5}
		if (i+1)%4 == 0 {
			p.Score = new(0.125 + float64(i+1)/24)
		}
		c.Points = append(c.Points, p)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != contract.PathCurve {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(c)
	})
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("https %t", secure), func(t *testing.T) {
			r := newRig(t, training("code", "tiny"), trainer("code-r1", "code"))
			if secure {
				r.answersAt(t, "code-r1", contract.PortAdmin, httptest.NewTLSServer(handler))
			} else {
				r.answers(t, "code-r1", contract.PortAdmin, handler)
			}
			r.terminal(80, 30)
			out, err, code := r.run(t, "curve", "code")
			if code != exitOK || err != "" {
				t.Fatalf("status %d, %s", code, err)
			}
			golden(t, "curve-80.txt", out)
		})
	}
}

func TestCurveOfAFinishedExpert(t *testing.T) {
	s := serve(t)
	text := `{"iteration":1,"reward":-0.5,"loss":0,"gradNorm":0,"answerTokens":9}` + "\n" + `{"iteration":2,"reward":0.5,"loss":0,"gradNorm":0,"answerTokens":9,"validationScore":0.75}` + "\n"
	if err := os.WriteFile(filepath.Join(s.volume.ExpertDir(t, s.math.Digest), contract.MetricsFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err, code := s.run(t, "curve", "math")
	if code != exitOK || !strings.Contains(out, "best 75.0 % after iteration 2") || !strings.Contains(out, "from pod demo-1, which has "+short(s.math.Digest)) {
		t.Errorf("status %d, %s\n%s", code, err, out)
	}
	dir := t.TempDir()
	for _, ending := range []string{endingPNG, endingSVG, endingJSON} {
		path := filepath.Join(dir, "math"+ending)
		if _, err, code := s.run(t, "curve", "math", "--output", path); code != exitOK || !strings.Contains(err, "2 points, from pod demo-1") {
			t.Fatalf("status %d, %s", code, err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch ending {
		case endingPNG:
			if _, err := png.Decode(strings.NewReader(string(b))); err != nil {
				t.Error(err)
			}
		case endingSVG:
			if !strings.HasPrefix(string(b), "<svg ") {
				t.Errorf("%.40s", b)
			}
		default:
			var c contract.Curve
			if err := json.Unmarshal(b, &c); err != nil || len(c.Points) != 2 {
				t.Errorf("%v: %s", err, b)
			}
		}
	}
	if out, err, code := s.run(t, "diff", "math", "math", "--curves", "--all"); code != exitOK || !strings.Contains(out, "0.7500 after iteration 2") {
		t.Errorf("status %d, %s\n%s", code, err, out)
	}
}

func TestCurvesThatNobodyTells(t *testing.T) {
	imported := expert("imported", "tiny")
	imported.Spec.Training, imported.Spec.Source = nil, &v1alpha1.ExpertSource{}
	waiting := training("waiting", "tiny")
	silent := expert("silent", "other")
	r := newRig(t, imported, waiting, silent, expert("math", "tiny"), serving("old-1", "demo", "tiny"))
	r.answers(t, "old-1", contract.PortAdmin, http.NotFoundHandler())
	for name, says := range map[string]string{
		"none": "there is no ExpertVector none", "imported": "was imported", "waiting": "no artifact and no pod that trains it (Training",
		"silent": "no pod runs that could read it there", "math": "is older than this plugin",
	} {
		if _, err, code := r.run(t, "curve", name); code != exitFailed || !strings.Contains(err, says) {
			t.Errorf("%s: status %d, %s", name, code, err)
		}
	}
}

func TestEval(t *testing.T) {
	right := map[string]string{"1+1?": "2", "2+2?": "4", "3+3?": "6", "4+4?": "8"}
	var busy atomic.Int32
	busy.Store(2)
	r := newRig(t)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var body struct {
			Model    string
			Messages []message
		}
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		if busy.Add(-1) >= 0 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		answer, who := right[body.Messages[0].Content], "math"
		if body.Model == "demo:base" && body.Messages[0].Content != "4+4?" {
			answer, who = "I do not know", "base"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"choices": []any{map[string]any{"message": message{"assistant", "It is " + answer}}}, "t2": map[string]any{"expert": who},
		})
	}))
	t.Cleanup(h.Close)
	path := filepath.Join(t.TempDir(), "set.jsonl")
	var lines strings.Builder
	for _, q := range []string{"1+1?", "2+2?", "3+3?", "4+4?"} {
		fmt.Fprintf(&lines, "{\"question\":%q,\"answer\":\"#### %s\"}\n", q, right[q])
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err, code := r.run(t, "eval", "demo", "--url", h.URL+"/v1", "--dataset", path, "--parallel", "1")
	if code != exitOK || err != "" {
		t.Fatalf("status %d, %s", code, err)
	}
	golden(t, "eval.txt", out)
	out, _, _ = r.run(t, "eval", "demo", "--url", h.URL, "--dataset", path, "-o", "json", "--records", "--samples", "2")
	var e evaluation
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	if e.Questions != 2 || e.Gain != 1 || e.Interval.Low <= 0 || len(e.Records) != 2 || e.Records[1].Base.Answer != "It is I do not know" || e.Records[1].Line != 2 {
		t.Errorf("%+v", e)
	}
	for args, says := range map[string]string{
		"--dataset " + path + "x":                   "opening the data set",
		"--dataset " + path + " --format Pairs":     `line 1: field "prompt" is missing`,
		"--dataset " + path + " --reward UnitTests": "are for t2 eval",
	} {
		if _, err, code := r.run(t, append([]string{"eval", "demo", "--url", h.URL}, strings.Fields(args)...)...); code == exitOK || !strings.Contains(err, says) {
			t.Errorf("%s: status %d, %s", args, code, err)
		}
	}
	u, _ := url.Parse(h.URL)
	h.Close()
	if _, err, code := r.run(t, "eval", "demo", "--url", u.String(), "--dataset", path); code != exitFailed || !strings.Contains(err, "asking "+u.Host) {
		t.Errorf("of nobody: status %d, %s", code, err)
	}
}

func TestDiff(t *testing.T) {
	long := expert("math-long", "tiny")
	long.Spec.Training.Objective = v1alpha1.Objective{Type: v1alpha1.ObjectiveNextToken}
	long.Status.Score, long.Status.Artifact.Digest = "0.9500", digest("d")
	r := newRig(t, expert("math", "tiny"), long, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: namespace}})
	for _, width := range []int{80, 130} {
		r.terminal(width, 30)
		out, err, code := r.run(t, "diff", "math", "math-long")
		if code != exitOK || err != "" {
			t.Errorf("status %d, %s", code, err)
		}
		golden(t, fmt.Sprintf("diff-%d.txt", width), out)
	}
	out, _, _ := r.run(t, "diff", "math", "r1", "r2")
	golden(t, "diff-runs.txt", out)
	if out, _, _ := r.run(t, "diff", "math", "math"); !strings.Contains(out, "differ in nothing") {
		t.Errorf("%s", out)
	}
	for _, args := range [][]string{{"math", "none"}, {"math", "r", "r1"}, {"math", "r9", "r1"}} {
		if _, err, code := r.run(t, append([]string{"diff"}, args...)...); code != exitFailed || err == "" {
			t.Errorf("%v: status %d, %s", args, code, err)
		}
	}
}
