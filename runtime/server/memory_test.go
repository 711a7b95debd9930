package server_test

import (
	"math"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
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
		ContextLength: 400, MaxBatch: 4, MaxWaiting: 7, KVCacheBytes: 1 << 20,
	}
	asked, err := server.FromSpec(spec)
	if err != nil || asked.MaxWaiting != 7 || asked.CacheBytes != 1<<20 {
		t.Fatalf("%+v, %v", asked, err)
	}
	for _, change := range []func(*contract.ServeSpec){
		func(s *contract.ServeSpec) { s.MaxWaiting = -1 }, func(s *contract.ServeSpec) { s.KVCacheBytes = -1 },
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
	if !strings.Contains(h.log.String(), "Planned memory") {
		t.Error("the log does not say what was planned")
	}
}
