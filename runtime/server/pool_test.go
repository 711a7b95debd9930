package server_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/server"
)

// scrape reads the API port's metrics as an endpoint picker does.
func (h *house) scrape(t testing.TB) map[string]*dto.MetricFamily {
	t.Helper()
	text, code := get(t, h.api.URL+contract.PathMetrics)
	if code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// gauge returns the one gauge of a family, and its labels.
func gauge(t testing.TB, families map[string]*dto.MetricFamily, name string) (float64, map[string]string) {
	t.Helper()
	f := families[name]
	if f == nil || f.GetType() != dto.MetricType_GAUGE || len(f.GetMetric()) != 1 {
		t.Fatalf("%s is %v, want one gauge", name, f)
	}
	labels := map[string]string{}
	for _, l := range f.GetMetric()[0].GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	return f.GetMetric()[0].GetGauge().GetValue(), labels
}

func TestEndpointPickersReadTheLoad(t *testing.T) {
	h := open(t, func(c *server.Config) { c.MaxBatch, c.CacheTokens = 2, 640 })
	load := func() (queued, running, cache float64) {
		families := h.scrape(t)
		queued, _ = gauge(t, families, "vllm:num_requests_waiting")
		running, _ = gauge(t, families, "vllm:num_requests_running")
		cache, _ = gauge(t, families, "vllm:kv_cache_usage_perc")
		return queued, running, cache
	}
	if queued, running, cache := load(); queued != 0 || running != 0 || cache != 0 {
		t.Errorf("idle: %v wait, %v run, the cache is used to %v", queued, running, cache)
	}
	var asking sync.WaitGroup
	var seen atomic.Bool
	for range 12 {
		asking.Go(func() {
			for !seen.Load() && !t.Failed() {
				h.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "a long story", fields{"max_tokens": 200, "ignore_eos": true}))
			}
		})
	}
	waitFor(t, "two requests to run and others to wait", func() bool {
		queued, running, cache := load()
		if cache < 0 || cache > 1 {
			t.Errorf("the cache is used to %v", cache)
		}
		return queued > 0 && running == 2 && cache > 0
	})
	seen.Store(true)
	asking.Wait()
	// What the prefix cache keeps is in nobody's way.
	waitFor(t, "the load to be over", func() bool {
		queued, running, cache := load()
		return queued == 0 && running == 0 && cache == 0
	})
	blocks := h.scrape(t)["t2_cache_blocks"].GetMetric()
	by := map[string]float64{}
	for _, m := range blocks {
		by[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	if by["used"] == 0 || by["used"] != by["idle"] || by["total"] != 20 {
		t.Errorf("blocks %v", by)
	}
	if value, labels := gauge(t, h.scrape(t), "vllm:cache_config_info"); value != 1 || labels["block_size"] != "32" || labels["num_gpu_blocks"] != "20" {
		t.Errorf("the cache is %v, %v", value, labels)
	}
}

func TestEndpointPickersReadTheExperts(t *testing.T) {
	v := enginetest.New(t)
	slow := v.Expert(t, "slow", 7)
	var volume *hung
	h := openOn(t, v, func(c *server.Config) { volume = hang(c, slow.Digest) })
	check := func(running, waiting, most string) {
		t.Helper()
		value, labels := gauge(t, h.scrape(t), "vllm:lora_requests_info")
		if labels["running_lora_adapters"] != running || labels["waiting_lora_adapters"] != waiting || labels["max_lora"] != most {
			t.Errorf("experts %v, want %q running and %q waiting", labels, running, waiting)
		}
		if value < 1.7e9 {
			t.Errorf("the value is %v, want the time in seconds", value)
		}
	}
	check("demo:demo-math,demo:demo-code", "", "2")
	set := h.set()
	set.Experts[1] = contract.ExpertRef{Name: "slow", Skill: "slow", Digest: slow.Digest}
	if _, code := h.put(t, token, set); code != http.StatusAccepted {
		t.Fatalf("status %d", code)
	}
	check("demo:demo-math,demo:demo-code", "demo:slow", "3")
	close(volume.release)
	h.swap(t, set)
	check("demo:demo-math,demo:slow", "", "2")
	// One that cannot be loaded is not waited for.
	set.Experts[1] = contract.ExpertRef{Name: "gone", Skill: "gone", Digest: contract.DigestPrefix + strings.Repeat("0", 64)}
	if status := h.swap(t, set); status.Error == nil {
		t.Fatal("an expert that is nowhere was loaded")
	}
	check("demo:demo-math", "", "1")
}

func TestMetricsForEndpointPickersHaveOtherNames(t *testing.T) {
	names, err := server.ParseMetricNames([]string{"queued=sglang:num_queue_reqs", "cache=vllm:gpu_cache_usage_perc", "experts="})
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, func(c *server.Config) { c.MetricNames = names })
	families := h.scrape(t)
	gauge(t, families, "sglang:num_queue_reqs")
	gauge(t, families, "vllm:gpu_cache_usage_perc")
	gauge(t, families, "vllm:num_requests_running")
	for _, name := range []string{"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:lora_requests_info"} {
		if families[name] != nil {
			t.Errorf("there is %s", name)
		}
	}
	for given, want := range map[string]string{
		"queued":                           "not WHAT=NAME",
		"speed=x":                          "not WHAT=NAME",
		"queued=a b":                       "letters, digits",
		"queued=t2_ready":                  "are taken",
		"running=go_threads":               "are taken",
		"queued=vllm:num_requests_running": "the name of queued",
	} {
		if _, err := server.ParseMetricNames([]string{given}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", given, err, want)
		}
	}
	bad := server.New(server.Config{Name: "demo", MetricNames: server.MetricNames{"cache": "t2_ready"}})
	var f *failure.Error
	if err := bad.Load(t.Context()); !errors.As(err, &f) || f.Reason != contract.ReasonUsage {
		t.Errorf("a name that is taken: %v", err)
	}
}

func TestTheAPIPortHasNoMetricsWhereTheyAreNotWanted(t *testing.T) {
	h := open(t, func(c *server.Config) { c.NoAPIMetrics = true })
	if text, code := get(t, h.api.URL+contract.PathMetrics); code != http.StatusNotFound {
		t.Errorf("status %d: %s", code, text)
	}
	if text, code := get(t, h.admin.URL+contract.PathMetrics); code != http.StatusOK || !strings.Contains(text, "vllm:num_requests_waiting 0") {
		t.Errorf("the other port: status %d: %s", code, text)
	}
}
