package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/cli"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// serving runs `t2 serve` until stop is called, which returns how it ended.
func serving(t *testing.T, vars map[string]string, args ...string) (api, admin string, stop func() (code int, stdout, stderr string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var stdout bytes.Buffer
	stderr := &servertest.Log{}
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: stderr, Getenv: func(k string) string { return vars[k] }}
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Execute(ctx, env, append([]string{"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...))
	}()
	stop = func() (int, string, string) {
		cancel()
		code := <-ended
		ended <- code
		return code, stdout.String(), stderr.String()
	}
	t.Cleanup(func() { stop() })
	api, admin = stderr.Addresses(t)
	for deadline := time.Now().Add(30 * time.Second); body(t, admin+contract.PathReady) != "ok\n"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			code, _, log := stop()
			t.Fatalf("t2 serve did not become ready; it ended with %d:\n%s", code, log)
		}
	}
	return api, admin, stop
}

// body returns a body, "" while nobody answers.
func body(t *testing.T, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(b)
}

func TestServeByFlags(t *testing.T) {
	v := enginetest.New(t)
	math, code := v.Expert(t, "math", 1), v.Expert(t, "code", 2)
	// The decomposition is found beside the experts.
	api, admin, stop := serving(t, nil, "--json", "--model", v.ModelDir, "--name", "mine", "--strategy", "Fixed", "--form", "unmerged", "--dtype", "bf16", "--cache-tokens", "1000", "--metric-name", "cache=pool:cache",
		"--expert", "m="+v.ExpertDir(t, math.Digest)+":3", "--expert", "c="+v.ExpertDir(t, code.Digest)+":1", "--describe", "m=word problems")
	if models := body(t, api+contract.PathModels); !strings.Contains(models, `"mine:m"`) || !strings.Contains(models, `"mine:base"`) {
		t.Errorf("models %s", models)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api+contract.PathChatCompletions,
		strings.NewReader(`{"model":"mine","messages":[{"role":"user","content":"x"}],"max_tokens":3,"logit_bias":{"259":-100}}`)) // The token that ends answers.
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(answer), `"weights":{"c":0.25,"m":0.75}`) {
		t.Errorf("answer %s, %v", answer, err)
	}
	if metrics := body(t, admin+contract.PathMetrics); !strings.Contains(metrics, `t2_computed_batches_total{form="unmerged"} 3`) ||
		!strings.Contains(metrics, `t2_computed_batches_total{form="merged"} 0`) {
		t.Errorf("three tokens were asked for in the unmerged form; metrics:\n%s", metrics)
	}
	if metrics := body(t, admin+contract.PathMetrics); !strings.Contains(metrics, `t2_cache_blocks{state="total"} 32`) {
		t.Errorf("a cache of 1000 tokens was asked for; metrics:\n%s", metrics)
	}
	// The engine counts at the end of a step, when the client has its answer already.
	metrics := ""
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(metrics, "\nvllm:num_requests_running 0") && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		metrics = body(t, api+contract.PathMetrics)
	}
	if !strings.Contains(metrics, "\npool:cache ") || !strings.Contains(metrics, "\nvllm:num_requests_running 0") {
		t.Errorf("the API's port has no metrics for endpoint pickers:\n%s", metrics)
	}
	exit, stdout, stderr := stop()
	var status contract.ServingStatus
	if err := json.Unmarshal([]byte(stdout), &status); err != nil || exit != contract.ExitOK || status.Requests != 1 {
		t.Errorf("exit status %d, output %q, %v; log:\n%s", exit, stdout, err, stderr)
	}
	if !strings.Contains(stderr, `"msg":"Answered request"`) || !strings.Contains(stderr, `"dtype":"bf16"`) {
		t.Errorf("log:\n%s", stderr)
	}
}

func TestServeAsAPod(t *testing.T) {
	v := enginetest.New(t)
	math := v.Expert(t, "math", 1)
	set := filepath.Join(t.TempDir(), contract.ExpertSetKey)
	write := func(path string, value any) string {
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if path != "" {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return string(b)
	}
	write(set, contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{{Name: "m", Skill: "math", Digest: math.Digest}}})
	spec := contract.ServeSpec{
		Name: "demo", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest, ContextLength: 300, MaxBatch: 2,
		KVCacheType: contract.DTypeBF16, KeepText: true, NoAPIMetrics: true, MetricNames: map[string]string{contract.GaugeQueued: "pool:queued"},
	}
	api, admin, stop := serving(t, map[string]string{contract.EnvSpec: write("", spec)}, "--experts", set, "--drain-delay", "1ms")
	if status := body(t, admin+contract.PathExpertSet); !strings.Contains(status, math.Digest) || !strings.Contains(status, `"device":"cpu (`) {
		t.Errorf("status %s", status)
	}
	if metrics := body(t, admin+contract.PathMetrics); !strings.Contains(metrics, "\npool:queued 0") {
		t.Errorf("metrics for endpoint pickers have no name that was asked for:\n%s", metrics)
	}
	// A pod says its name, and what it would know of a request with its text.
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if refusal := body(t, api+contract.PathRequests+"/nobody"); !strings.Contains(refusal, "this pod, "+host+", has no request") || !strings.Contains(refusal, "32 MiB") {
		t.Errorf("of a request that there is not: %s", refusal)
	}
	if text := body(t, api+contract.PathMetrics); strings.Contains(text, "pool:queued") {
		t.Errorf("the API's port has metrics:\n%s", text)
	}
	if exit, _, log := stop(); exit != contract.ExitOK || !strings.Contains(log, `"storage":"f32, keys and values bf16"`) {
		t.Errorf("exit status %d:\n%s", exit, log)
	}

	// A pod whose model is not on the volume says so where the operator looks.
	termination := filepath.Join(t.TempDir(), "termination")
	spec.BaseDigest = contract.DigestPrefix + strings.Repeat("0", 64)
	got := t2(t, map[string]string{contract.EnvSpec: write("", spec), contract.EnvTerminationLog: termination}, "",
		"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	b, err := os.ReadFile(termination)
	if err != nil {
		t.Fatal(err)
	}
	var left contract.Termination
	if err := json.Unmarshal(b, &left); err != nil || left.Reason == "" || !strings.Contains(left.Message, "config.json") || got.code != contract.ExitFailed {
		t.Errorf("exit status %d, termination %+v, %v", got.code, left, err)
	}

	// So does one whose variables for traces make no sense.
	got = t2(t, map[string]string{
		contract.EnvSpec: write("", spec), contract.EnvTerminationLog: termination,
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
	}, "", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	if b, err = os.ReadFile(termination); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &left); err != nil || left.Reason != contract.ReasonUsage || !strings.Contains(left.Message, "OTEL_EXPORTER_OTLP_PROTOCOL") || got.code == contract.ExitOK {
		t.Errorf("exit status %d, termination %+v, %v", got.code, left, err)
	}

	// So does one whose image lacks what it is to compute with.
	spec.BaseDigest, spec.Backend = v.ModelDigest, contract.BackendCUDA
	got = t2(t, map[string]string{contract.EnvSpec: write("", spec), contract.EnvTerminationLog: termination}, "",
		"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--experts", set)
	if b, err = os.ReadFile(termination); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &left); err != nil || left.Reason != contract.ReasonUsage || !strings.Contains(left.Message, "the image of it") || got.code != contract.ExitFailed {
		t.Errorf("exit status %d, termination %+v, %v", got.code, left, err)
	}
}

func TestServeUsage(t *testing.T) {
	v := enginetest.New(t)
	math := v.ExpertDir(t, v.Expert(t, "math", 1).Digest)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no model":               {nil, "--model is missing"},
		"an expert without name": {[]string{"--model", v.ModelDir, "--expert", math}, "is not NAME=DIR"},
		"a name with a colon":    {[]string{"--model", v.ModelDir, "--name", "a:b"}, "colon"},
		"describing nobody":      {[]string{"--model", v.ModelDir, "--describe", "x=y"}, `names "x"`},
		"a description alone":    {[]string{"--model", v.ModelDir, "--describe", "x"}, "NAME=TEXT"},
		"a name that is taken":   {[]string{"--model", v.ModelDir, "--metric-name", "cache=t2_ready"}, "are taken"},
		"a metric of nothing":    {[]string{"--model", v.ModelDir, "--metric-name", "speed=x"}, "blocks, cache, experts, queued, running"},
		"an unknown form":        {[]string{"--model", v.ModelDir, "--form", "dense"}, `form "dense" is unknown`},
		"unmerged, of nothing":   {[]string{"--model", v.ModelDir, "--form", "unmerged"}, "needs a decomposition"},
		"another's library":      {[]string{"--model", v.ModelDir, "--backend", "cpu", "--cublas", "always"}, "for the backend cuda"},
		"a use of a library":     {[]string{"--model", v.ModelDir, "--cublas", "sometimes"}, `"sometimes" is none of never, training, always, auto`},
		"another's backend":      {[]string{"--model", v.ModelDir, "--backend", "cuda"}, "run t2-cuda"},
		"no specification":       {[]string{"--spec", "/nonexistent.json"}, "/nonexistent.json"},
		"a flag beside one":      {[]string{"--spec", "/nonexistent.json", "--max-batch", "4"}, "--max-batch has no effect beside a specification"},
		"a negative cache":       {[]string{"--model", v.ModelDir, "--cache-tokens", "-1"}, "--cache-tokens -1 and --threads 0 must not be negative"},
		"negative threads":       {[]string{"--model", v.ModelDir, "--threads", "-1"}, "--threads -1 must not be negative"},
		"a set without spec":     {[]string{"--model", v.ModelDir, "--experts", "x"}, "goes with a specification"},
	} {
		t.Run(name, func(t *testing.T) {
			got := t2(t, nil, "", append([]string{"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, c.args...)...)
			if got.code != contract.ExitUsage || !strings.Contains(got.stderr, c.want) {
				t.Errorf("exit status %d, %q; want %d and %q", got.code, got.stderr, contract.ExitUsage, c.want)
			}
		})
	}
}
