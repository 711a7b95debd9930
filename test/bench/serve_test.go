package main

import (
	"bytes"
	stdcontext "context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/cli"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// envAsT2 has this test's program do what t2 does.
const envAsT2 = "T2_BENCH_AS_T2"

func TestMain(m *testing.M) {
	if os.Getenv(envAsT2) != "" {
		os.Exit(cli.Main(stdcontext.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// TestServersAreAskedInEveryWay starts each server as the bench does, with the tiniest model.
func TestServersAreAskedInEveryWay(t *testing.T) {
	t.Setenv(envAsT2, "yes")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := options{rounds: 1, threads: 2, dir: t.TempDir(), dtypes: []string{"bf16"}, t2: program, servingOptions: servingOptions{
		serve: true, requests: 12, clients: 4, limit: time.Minute, ways: "base,pinned,prompt,probe",
	}}
	r := &report{Threads: o.threads, Day: "2026-11-30", Commit: "abc"}
	if err := serving(t.Context(), o, tiny, r); err != nil {
		t.Fatal(err)
	}
	list := madeUp(o.requests, 1)
	tokens := 0
	for _, q := range list {
		tokens += q.tokens
	}
	if len(r.Served) != len(ways) {
		t.Fatalf("%d servers", len(r.Served))
	}
	for i, s := range r.Served {
		got := s.Rounds[0]
		if s.Way != ways[i].text || got.Done != len(list) || got.Failed != 0 || got.Tokens != tokens || got.Seconds <= 0 || len(got.First) != len(list) || got.FirstToken.P99 < got.FirstToken.P50 {
			t.Errorf("%s: %+v", s.Way, got)
		}
		if chunks := len(got.First) + len(got.Between); chunks != tokens {
			t.Errorf("%s: %d tokens came in %d chunks", s.Way, tokens, chunks)
		}
	}
	if got := r.Served[0].Rounds[0].Chosen; got["base"] != len(list) {
		t.Errorf("the base alone was %v", got)
	}
	asked := map[string]int{}
	for _, q := range list {
		asked[nameOf(q.expert)]++
	}
	for _, i := range []int{1, 2, 3} { // Pinned, and what pass 1 and a probe find.
		for name, n := range r.Served[i].Rounds[0].Chosen {
			if asked[name] != n {
				t.Errorf("%s: %s answered %d of %d", r.Served[i].Way, name, n, asked[name])
			}
		}
	}
	table := r.table()
	if strings.Count(table, "\n| tiny | bf16 | runtime |") != len(ways) || !strings.Contains(table, "2026-11-30, runtime abc") || strings.Contains(table, "NaN") {
		t.Errorf("table:\n%s", table)
	}
	t.Log("\n" + table)
}

func TestRequestsAreTheSameEachTime(t *testing.T) {
	list := madeUp(400, 1)
	if !slices.Equal(list, madeUp(400, 1)) || slices.Equal(list, madeUp(400, 2)) {
		t.Error("the seed does not decide")
	}
	beginnings := map[string]int{}
	shortest, longest, least, most := math.MaxInt, 0, math.MaxInt, 0
	for _, q := range list {
		shortest, longest = min(shortest, len(q.prompt)), max(longest, len(q.prompt))
		least, most = min(least, q.tokens), max(most, q.tokens)
		if len(q.prompt) < shortestPrompt || len(q.prompt) > longestPrompt || q.tokens < 1 || q.tokens > longestAnswer || q.expert < 0 || q.expert >= servedExperts {
			t.Fatalf("%+v", q)
		}
		if q.prompt[len(q.prompt)-1] != byte('A'+q.expert) {
			t.Fatalf("%q does not say that it is for %d", q.prompt, q.expert)
		}
		beginnings[q.prompt[:systemPrompts[0]]]++
	}
	if len(beginnings) != len(systemPrompts) {
		t.Errorf("%d system prompts are shared, want %d", len(beginnings), len(systemPrompts))
	}
	if shortest > shortestPrompt+8 || longest < longestPrompt*9/10 || least != 1 || most < longestAnswer*9/10 {
		t.Errorf("prompts of %d to %d, answers of %d to %d tokens", shortest, longest, least, most)
	}
	// A request of a byte a token has as many for the model.
	dir := t.TempDir()
	if err := writeTokenizer(dir, tiny.Vocab); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(list[0].prompt, true)
	if err != nil || len(ids) != len(list[0].prompt) {
		t.Errorf("%d tokens of %d bytes, %v", len(ids), len(list[0].prompt), err)
	}
}

func TestPercentiles(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		of   []float64
		p    float64
		want float64
	}{
		{[]float64{7}, 50, 7}, {[]float64{7}, 99, 7}, {[]float64{1, 2}, 50, 1}, {[]float64{1, 2, 3}, 50, 2}, {[]float64{1, 2, 3}, 99, 3},
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred[:50], 99, 50},
	} {
		if got := percentile(c.of, c.p); got != c.want {
			t.Errorf("%v %% of %v: %v, want %v", c.p, c.of, got, c.want)
		}
	}
	if !math.IsNaN(percentile(nil, 50)) {
		t.Error("a percentile of nothing")
	}
}

func TestWhatClientsSawIsAddedUp(t *testing.T) {
	got := tallied(4*time.Second, []answer{
		{first: 0.3, between: []float64{0.02, 0.01}, tokens: 3, expert: "e1"}, {first: 9, tokens: 1}, {first: 0.1, tokens: 1, expert: "e1"},
	}, []error{nil, errors.New("refused"), nil})
	if got.Done != 2 || got.Failed != 1 || got.Why != "refused" || got.Tokens != 4 || got.perSecond() != 0.5 || got.Chosen["e1"] != 2 ||
		got.FirstToken != (quantiles{0.1, 0.3}) || got.BetweenTokens != (quantiles{0.01, 0.02}) {
		t.Errorf("%+v", got)
	}
	if none := tallied(time.Second, []answer{{}}, []error{errors.New("refused")}); none.Done != 0 || none.perSecond() != 0 {
		t.Errorf("%+v", none)
	}
}

func TestStreamsAreRead(t *testing.T) {
	const (
		ours = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"text\":\"a\\\"\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n" +
			"data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"text\":\" b\",\"finish_reason\":null}],\"usage\":null}\n\n" +
			"data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}],\"t2\":{\"strategy\":\"Prompt\",\"expert\":\"e3\",\"pass1Seconds\":0,\"pass2Seconds\":1,\"expertSetDigest\":\"\"}}\n\n" +
			"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}\n\ndata: [DONE]\n\n"
	)
	for name, c := range map[string]struct {
		stream string
		want   int
		fails  string
	}{
		"whole":            {ours, 2, ""},
		"cut short":        {ours, 3, "2 tokens, want 3"},
		"broken off":       {ours[:len(ours)/2], 2, "before it was done"},
		"an error":         {"data: {\"error\":{\"message\":\"full\"}}\n\n", 2, "full"},
		"without usage":    {"data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]\n\n", 1, ""},
		"comments between": {": ping\n\n" + ours, 2, ""},
	} {
		a, err := readStream(strings.NewReader(c.stream), time.Now(), c.want)
		if c.fails == "" && (err != nil || a.tokens != c.want || len(a.between) != c.want-1) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "whole" && a.expert != "e3" {
			t.Errorf("%s: expert %q", name, a.expert)
		}
	}
}

func TestPeersAreNamed(t *testing.T) {
	for list, want := range map[string]string{
		"": "", "/a/llama-bench": "llama.cpp=/a/llama-bench", "x=/a,y=/b": "x=/a y=/b", "/a,y=/b": "llama.cpp=/a y=/b",
		"/a,/b": "two are called", "x=": "neither", ",": "neither",
	} {
		peers, err := parsePeers(list)
		var got []string
		for _, p := range peers {
			got = append(got, p.Name+"="+p.program)
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if s := strings.Join(got, " "); !strings.Contains(s, want) || want == "" && s != "" {
			t.Errorf("%q: %s, want %s", list, s, want)
		}
	}
}

// TestAPeerSaysWhatItIs has a program in a checkout of its own.
func TestAPeerSaysWhatItIs(t *testing.T) {
	dir := t.TempDir()
	for _, arguments := range [][]string{
		{"init", "-q"}, {"-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "x", "--date=2026-08-15T12:00:00Z"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, arguments...)...)
		cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-08-15T12:00:00Z")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	commit, err := git(t.Context(), dir, "rev-parse", "--short=9", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{Name: "peer", program: filepath.Join(dir, "server")}
	for _, says := range []string{"7 (" + commit + ")", "0.2.0-dev (build 7, commit " + commit + ")"} {
		if err := os.WriteFile(p.program, []byte("#!/bin/sh\necho 'version: "+says+"' >&2\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		p.Commit, p.Day = "", ""
		p.identify(t.Context())
		if got, want := p.String(), "peer "+commit+" of 2026-08-15"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	unknown := &peer{Name: "peer", program: filepath.Join(dir, "nothing")}
	unknown.identify(t.Context())
	if got := unknown.String(); got != "peer (of an unknown commit)" {
		t.Error(got)
	}
}

// TestAServerThatDoesNotStartSaysWhy: and is not waited for.
func TestAServerThatDoesNotStartSaysWhy(t *testing.T) {
	c := contender{
		name: "nobody", program: "/bin/sh", arguments: func(string, string) []string { return []string{"-c", "echo no model >&2; exit 3"} },
		ready: func(api, _ string) string { return "http://" + api + "/health" }, model: func(request) string { return "" },
	}
	_, err := c.measure(t.Context(), options{servingOptions: servingOptions{clients: 1, limit: time.Second}}, nil)
	if err == nil || !strings.Contains(err.Error(), "no model") || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Error(err)
	}
}

func TestVocabulariesHaveEveryTokenOnce(t *testing.T) {
	list := vocabulary(tiny.Vocab)
	slices.Sort(list)
	if got := slices.Compact(list); len(got) != tiny.Vocab || bytes.ContainsRune([]byte(strings.Join(got, "")), ' ') {
		t.Errorf("%d of %d tokens differ", len(got), tiny.Vocab)
	}
}
