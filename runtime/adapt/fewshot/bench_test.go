//go:build unix

package fewshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// BenchmarkSearch compares a search of 32 candidates in 10 generations with composing and
// evaluating the same candidates one after another, which comes to the same scores. The
// search evaluates those of a generation in one unmerged batch, and none twice; by-batch
// is the gain of that form alone, and by-processor that of processor time, which says more
// on a busy machine.
//
//	go test -run '^$' -bench Search -benchtime 1x ./runtime/adapt/fewshot
func BenchmarkSearch(b *testing.B) {
	for _, examples := range []int{3, 5, 10} {
		b.Run(fmt.Sprintf("examples=%d", examples), func(b *testing.B) {
			e := newBench(b, examples)
			p, merged := e.evaluator(b, false)
			var together, apart, togetherBusy, apartBusy time.Duration
			evaluations, candidates := 0, 0
			for b.Loop() {
				cem, err := search.NewCEM(options(e.spec.Search, len(p.experts), 1))
				must(b, err)
				busy := processorTime(b)
				s := &searcher{spec: e.spec, dir: b.TempDir(), population: p, cem: cem, state: &state{}, begun: time.Now()}
				must(b, s.references(b.Context()))
				together += time.Since(s.begun)
				togetherBusy += processorTime(b) - busy
				for vectors := cem.Ask(); vectors != nil; vectors = cem.Ask() {
					begun, busy := time.Now(), processorTime(b)
					fitness, err := s.generation(b.Context(), 0, vectors)
					must(b, err)
					together += time.Since(begun)
					togetherBusy += processorTime(b) - busy
					begun, busy = time.Now(), processorTime(b)
					for i, vector := range vectors {
						if one := merged(vector); one.Score != fitness[i].Score {
							b.Fatalf("vector %v has the score %v in the search, %v merged", vector, fitness[i].Score, one.Score)
						}
					}
					apart += time.Since(begun)
					apartBusy += processorTime(b) - busy
					candidates += len(vectors)
					must(b, cem.Tell(fitness))
				}
				evaluations += s.state.Evaluations
			}
			b.ReportMetric(together.Seconds()/float64(b.N), "s/search")
			b.ReportMetric(apart.Seconds()/float64(b.N), "s/merged")
			b.ReportMetric(float64(evaluations)/float64(b.N), "evaluations")
			b.ReportMetric(float64(candidates)/float64(b.N), "candidates")
			b.ReportMetric(apart.Seconds()/together.Seconds(), "times")
			b.ReportMetric(apart.Seconds()/together.Seconds()*float64(evaluations)/float64(candidates), "times-by-batch")
			b.ReportMetric(apartBusy.Seconds()/togetherBusy.Seconds(), "times-by-processor")
		})
	}
}

// processorTime is that of all threads of this process.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// newBench is an exercise with a model of random weights that is large enough for its
// arithmetic to matter.
func newBench(b *testing.B, examples int) exercise {
	b.Helper()
	root := b.TempDir()
	dir := filepath.Join(root, contract.DirModels, "new")
	must(b, artifact.MkdirAll(dir))
	checkpointtest.Write(b, dir, checkpointtest.Shape{
		Layers: 6, Hidden: 256, Intermediate: 768, Heads: 8, KVHeads: 4, HeadDim: 32, Vocab: checkpointtest.Vocab, Tied: true, Seed: 1,
	})
	checkpointtest.WriteTokenizer(b, dir)
	manifest, err := checkpoint.BuildManifest(dir)
	must(b, err)
	must(b, artifact.WriteManifest(dir, manifest))
	final, err := contract.ArtifactDir(root, contract.DirModels, manifest.Digest)
	must(b, err)
	must(b, os.Rename(dir, final))
	ck, err := checkpoint.OpenDir(final)
	must(b, err)
	made, err := expert.Decompose(b.Context(), ck, root, contract.DecomposeSpec{
		BaseDigest: manifest.Digest, Modules: expert.Modules(), DType: contract.DTypeF32,
	}, nil, nil)
	must(b, err)
	must(b, ck.Close())

	e := exercise{spec: contract.AdaptSpec{
		DataDir: root, BaseDigest: manifest.Digest, DecompositionDigest: made.Digest, Reward: contract.RewardExactMatch,
		Examples: contract.DatasetSpec{Format: contract.FormatPairs}, Search: contract.DefaultFewShot(),
	}}
	e.spec.Search.MaxNewTokens = 8
	e.spec.Experts = benchExperts(b, e.spec)
	e.spec.Examples.Path = benchExamples(b, e.spec, examples)
	return e
}

// benchExamples are questions, to which what the second expert answers is right.
func benchExamples(b *testing.B, s contract.AdaptSpec, n int) string {
	b.Helper()
	in, err := train.LoadInputs(b.Context(), registrytest.Open(b, 2), train.Artifacts{
		DataDir: s.DataDir, BaseDigest: s.BaseDigest, DecompositionDigest: s.DecompositionDigest,
	})
	must(b, err)
	experts, err := loadExperts(b.Context(), s, in)
	must(b, err)
	m := compose(b, in.Base, in.Decomposition, expert.Weighted{Adapter: experts[rightExpert], Alpha: 1})
	var lines bytes.Buffer
	for i := range n {
		question := fmt.Sprintf("What is %d plus %d?", i, i+1)
		prompt, err := train.EncodePrompt(in.Tokenizer, []dataset.Message{{Role: "user", Content: question}})
		must(b, err)
		answers, err := rollout.Generate(b.Context(), m, [][]int32{prompt}, func(int) *sample.Sampler { return train.Greedy() },
			rollout.Options{Stop: in.Tokenizer.EOS(), MaxNewTokens: s.Search.MaxNewTokens})
		must(b, err)
		must(b, json.NewEncoder(&lines).Encode(map[string]string{"prompt": question, "answer": in.Tokenizer.Decode(answers[0].Text(), true)}))
	}
	path := filepath.Join(b.TempDir(), "examples.jsonl")
	must(b, os.WriteFile(path, lines.Bytes(), 0o600))
	return path
}

func benchExperts(b *testing.B, s contract.AdaptSpec) []contract.AdaptExpert {
	b.Helper()
	dir, err := contract.ArtifactDir(s.DataDir, contract.DirDecompositions, s.DecompositionDigest)
	must(b, err)
	d, err := expert.OpenDecomposition(dir)
	must(b, err)
	var experts []contract.AdaptExpert
	for i := range 3 {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		v := expert.Adapter{Z: map[string][]float32{}, Manifest: contract.ExpertManifest{
			BaseDigest: s.BaseDigest, DecompositionDigest: s.DecompositionDigest, Skill: fmt.Sprint(i),
		}}
		for _, name := range d.Matrices() {
			z := make([]float32, d.Rank(name))
			for j := range z {
				z[j] = float32(1 + 0.3*rng.NormFloat64())
			}
			v.Z[name] = z
		}
		m, err := expert.Write(s.DataDir, v, nil)
		must(b, err)
		experts = append(experts, contract.AdaptExpert{Name: fmt.Sprintf("expert-%d", i), Digest: m.Digest})
	}
	return experts
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
