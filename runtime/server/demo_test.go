package server_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/server"
)

// demo is where the project's demo model and its data lie.
var demo = filepath.Join("..", "..", "config", "samples", "demo")

// demoServer serves the demo model with an expert for each of its skills. The
// experts change nothing (z = 1): pass 1 runs on the base weights anyway.
func demoServer(t testing.TB) *server.Server {
	t.Helper()
	root, modelDir := t.TempDir(), filepath.Join(demo, "model")
	m, err := checkpoint.BuildManifest(modelDir)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.OpenDir(modelDir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	dm, err := expert.Decompose(t.Context(), ck, root, contract.DecomposeSpec{BaseDigest: m.Digest, Modules: []string{"v_proj"}, DType: "F32"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := server.Config{Name: "demo", ModelDir: modelDir, Log: slog.New(slog.NewJSONHandler(io.Discard, nil))}
	if c.DecompositionDir, err = contract.ArtifactDir(root, contract.DirDecompositions, dm.Digest); err != nil {
		t.Fatal(err)
	}
	c.ExpertDir = func(ref contract.ExpertRef) (string, error) {
		return contract.ArtifactDir(root, contract.DirExperts, ref.Digest)
	}
	d, err := expert.OpenDecomposition(c.DecompositionDir)
	if err != nil {
		t.Fatal(err)
	}
	set := contract.ExpertSet{Strategy: contract.StrategyPrompt}
	for _, skill := range []struct{ name, description string }{
		{"math", "word problems and arithmetic"}, {"code", "writing Python functions"}, {"reasoning", "multiple choice questions"},
	} {
		v := expert.Adapter{Z: map[string][]float32{}, Manifest: contract.ExpertManifest{
			BaseDigest: m.Digest, DecompositionDigest: dm.Digest, Skill: skill.name,
		}}
		name := d.Matrices()[0]
		v.Z[name] = make([]float32, d.Rank(name))
		for i := range v.Z[name] {
			v.Z[name][i] = 1
		}
		em, err := expert.Write(root, v, nil)
		if err != nil {
			t.Fatal(err)
		}
		set.Experts = append(set.Experts, contract.ExpertRef{
			Name: "demo-" + skill.name, Skill: skill.name, Description: skill.description, Digest: em.Digest,
		})
	}
	s := server.New(c)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Swap(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	return s
}

type dispatchCase struct{ Prompt, Skill string }

func dispatchCases(t testing.TB) []dispatchCase {
	t.Helper()
	f, err := os.Open(filepath.Join(demo, "data", "dispatch", "test.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cases []dispatchCase
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var c dispatchCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	if len(cases) < 50 {
		t.Fatalf("only %d cases", len(cases))
	}
	return cases
}

// TestDemoModelIsDispatchedByItself asks the demo's held-out requests: pass 1,
// by the model itself, finds the skill of nearly all.
func TestDemoModelIsDispatchedByItself(t *testing.T) {
	s := demoServer(t)
	cases := dispatchCases(t)
	wrong := 0
	for _, c := range cases {
		a := postTo(t, s.API(), contract.PathChatCompletions, chat("demo", c.Prompt, fields{"max_tokens": 1}))
		want := "demo-" + c.Skill
		if c.Skill == contract.OthersLabel {
			want = contract.BaseName
		}
		if a.Adaptation == nil || a.Adaptation.Expert != want {
			wrong++
			if wrong < 5 {
				t.Logf("%q: %+v, want %s", c.Prompt, a.Adaptation, want)
			}
		}
	}
	accuracy := 1 - float64(wrong)/float64(len(cases))
	t.Logf("%d of %d requests went to the right expert (%.1f %%)", len(cases)-wrong, len(cases), 100*accuracy)
	if accuracy < 0.9 {
		t.Errorf("accuracy %.3f, want at least 0.9", accuracy)
	}
}

// BenchmarkDemoPasses reports the time of each pass, one request at a time.
func BenchmarkDemoPasses(b *testing.B) {
	s := demoServer(b)
	cases := dispatchCases(b)
	api := s.API()
	var pass1, pass2 float64
	for i := 0; b.Loop(); i++ {
		a := postTo(b, api, contract.PathChatCompletions, chat("demo", cases[i%len(cases)].Prompt, fields{"max_tokens": 20, "temperature": 0}))
		pass1 += a.Adaptation.Pass1Seconds
		pass2 += a.Adaptation.Pass2Seconds
	}
	b.ReportMetric(1e3*pass1/float64(b.N), "ms/pass1")
	b.ReportMetric(1e3*pass2/float64(b.N), "ms/pass2")
}

// BenchmarkDemoConcurrent reports the answers a second that sixteen clients get
// together.
func BenchmarkDemoConcurrent(b *testing.B) {
	s := demoServer(b)
	cases := dispatchCases(b)
	api := s.API()
	var next atomic.Int64
	b.SetParallelism(16 / min(16, runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			i := int(next.Add(1))
			postTo(b, api, contract.PathChatCompletions, chat("demo", cases[i%len(cases)].Prompt, fields{"max_tokens": 20, "temperature": 0}))
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}
