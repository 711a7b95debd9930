package server_test

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// What does not fit is refused before anything is loaded.
func TestTooLittleMemoryIsSaidBeforeServing(t *testing.T) {
	c := config(t, enginetest.New(t), &servertest.Log{})
	c.Memory = 32 << 20
	s := server.New(c)
	err := s.Load(t.Context())
	if reason, permanent := failure.Of(err); err == nil || reason != contract.ReasonHostMemory || !permanent {
		t.Fatalf("%v: reason %s, permanent %v", err, reason, permanent)
	}
	// Texts that are kept need room, too.
	c.KeepText = true
	keeping := server.New(c)
	if err := keeping.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "the process 128.") {
		t.Errorf("%v, want 64 MiB more for the process", err)
	}
	if err := keeping.Close(); err != nil {
		t.Error(err)
	}
	for _, phrase := range []string{"32.0 MiB", "are missing", "weights as f32", "a cache of 448 tokens", "the process 64."} {
		if !strings.Contains(err.Error(), phrase) {
			t.Errorf("%q does not say %q", err, phrase)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A specification's cache is what is served with, and the plan and what is used of it are in
// the metrics. Go's collector knows what is left for it.
func TestThePlanIsInTheMetrics(t *testing.T) {
	if before := debug.SetMemoryLimit(-1); before != math.MaxInt64 {
		t.Fatalf("Go's heap is limited to %d bytes: unset GOMEMLIMIT", before)
	}
	v := enginetest.New(t)
	spec := contract.ServeSpec{
		Name: "demo", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
		ContextLength: 400, MaxBatch: 4, MaxWaiting: 7, KVCacheBytes: 1 << 20, KVCacheType: contract.DTypeBF16,
		NoAPIMetrics: true, MetricNames: map[string]string{contract.GaugeQueued: "a:queued"},
	}
	asked, err := server.FromSpec(spec)
	if err != nil || asked.MaxWaiting != 7 || asked.CacheBytes != 1<<20 || asked.KV != contract.DTypeBF16 || !asked.NoAPIMetrics ||
		asked.MetricNames[contract.GaugeQueued] != "a:queued" || asked.MetricNames[contract.GaugeRunning] != contract.DefaultGaugeNames()[contract.GaugeRunning] {
		t.Fatalf("%+v, %v", asked, err)
	}
	for _, change := range []func(*contract.ServeSpec){
		func(s *contract.ServeSpec) { s.MaxWaiting = -1 }, func(s *contract.ServeSpec) { s.KVCacheBytes = -1 },
		func(s *contract.ServeSpec) { s.MetricNames = map[string]string{"unheard": "of"} },
		func(s *contract.ServeSpec) { s.MetricNames = map[string]string{contract.GaugeQueued: "go_x"} },
	} {
		bad := spec
		change(&bad)
		if _, err := server.FromSpec(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	h := openOn(t, v, func(c *server.Config) { c.CacheBytes, c.Memory = asked.CacheBytes, 512<<20 })
	if limit := debug.SetMemoryLimit(-1); limit <= 64<<20 || limit > 512<<20 {
		t.Errorf("Go's heap is limited to %d bytes", limit)
	}
	h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil))
	h.handled()
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	for _, want := range []string{
		`t2_memory_budget_bytes{of="limit"} 5.36870912e+08`, `t2_memory_budget_bytes{of="cache"} 1.0`, `t2_memory_budget_bytes{of="weights"}`,
		`t2_memory_budget_bytes{of="experts"}`, `t2_memory_budget_bytes{of="bodies"} 8.388608e+06`, `t2_memory_budget_bytes{of="heap"}`,
		`t2_memory_used_bytes{of="bodies"} 0`, `t2_memory_used_bytes{of="cache"}`, `t2_memory_used_bytes{of="experts"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics have no %s", want)
		}
	}
	for _, none := range []string{`t2_memory_used_bytes{of="experts"} 0\n`, `t2_memory_used_bytes{of="cache"} 0\n`} {
		if strings.Contains(metrics, none) {
			t.Errorf("metrics have %s", none)
		}
	}
	if limit := fmt.Sprintf("t2_memory_budget_bytes{of=%q} %v\n", "heap", float64(debug.SetMemoryLimit(-1))); !strings.Contains(metrics, limit) {
		t.Errorf("metrics have no %s, which is in force:\n%s", limit, metrics)
	}
	if !strings.Contains(h.log.String(), "Planned memory") {
		t.Error("the log does not say what was planned")
	}
}

// A limit of Go's heap that whoever started the process has set stays, and is what the
// metrics show.
func TestALimitOfTheHeapThatIsThereStays(t *testing.T) {
	const set = 3 << 30
	before := debug.SetMemoryLimit(set)
	defer debug.SetMemoryLimit(before)
	h := openOn(t, enginetest.New(t), func(c *server.Config) { c.Memory = 512 << 20 })
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	if debug.SetMemoryLimit(-1) != set || !strings.Contains(metrics, `t2_memory_budget_bytes{of="heap"} 3.221225472e+09`) {
		t.Errorf("the limit is %d, and metrics say:\n%s", debug.SetMemoryLimit(-1), metrics)
	}
}

// What no request fits into is refused at start, with what the least is, and that is enough.
func TestACacheOfNoUseIsRefused(t *testing.T) {
	v := enginetest.New(t)
	config := func(bytes int64) server.Config {
		return server.Config{ModelDir: v.ModelDir, Name: "demo", CacheBytes: bytes}
	}
	err := server.New(config(1 << 10)).Load(t.Context())
	if reason, permanent := failure.Of(err); !errors.Is(err, engine.ErrCache) || reason != contract.ReasonUsage || !permanent {
		t.Fatalf("a cache of 1 KiB: %v (%s)", err, reason)
	}
	var least int64
	if _, text, ok := strings.Cut(err.Error(), "needs 160: give it "); !ok {
		t.Fatalf("the error does not say what is enough: %v", err)
	} else if _, err := fmt.Sscan(text, &least); err != nil {
		t.Fatal(err)
	}
	if err := server.New(config(least - 1)).Load(t.Context()); !errors.Is(err, engine.ErrCache) {
		t.Errorf("a byte less than the least: %v", err)
	}
	s := server.New(config(least))
	if err := s.Load(t.Context()); err != nil {
		t.Errorf("the least: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
