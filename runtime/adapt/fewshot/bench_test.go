package fewshot

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/search"
)

// BenchmarkSearch compares a search of 32 candidates in 10 generations, each in one
// unmerged batch, with composing and evaluating the same candidates one after another:
//
//	go test -run '^$' -bench Search -benchtime 1x ./runtime/adapt/fewshot
func BenchmarkSearch(b *testing.B) {
	for _, examples := range []int{3, 10} {
		b.Run(fmt.Sprintf("examples=%d", examples), func(b *testing.B) {
			e := newBench(b, examples)
			p, merged := e.evaluator(b, false)
			var together, apart time.Duration
			for b.Loop() {
				cem, err := search.NewCEM(options(e.spec.Search, len(p.experts), 1))
				if err != nil {
					b.Fatal(err)
				}
				for vectors := cem.Ask(); vectors != nil; vectors = cem.Ask() {
					begun := time.Now()
					fitness, err := p.evaluate(b.Context(), p.of(b, vectors))
					if err != nil {
						b.Fatal(err)
					}
					together += time.Since(begun)
					begun = time.Now()
					for i, vector := range vectors {
						if one := merged(vector); one.Score != fitness[i].Score {
							b.Fatalf("vector %v has the score %v in the batch, %v merged", vector, fitness[i].Score, one.Score)
						}
					}
					apart += time.Since(begun)
					if err := cem.Tell(fitness); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(together.Seconds()/float64(b.N), "s/batched")
			b.ReportMetric(apart.Seconds()/float64(b.N), "s/merged")
			b.ReportMetric(apart.Seconds()/together.Seconds(), "times")
		})
	}
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
	var lines bytes.Buffer
	for i := range examples {
		fmt.Fprintf(&lines, `{"prompt": "What is %d plus %d?", "answer": "%d"}`+"\n", i, i+1, 2*i+1)
	}
	e.spec.Examples.Path = filepath.Join(b.TempDir(), "examples.jsonl")
	must(b, os.WriteFile(e.spec.Examples.Path, lines.Bytes(), 0o600))
	return e
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
				z[j] = float32(1 + 0.1*rng.NormFloat64())
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
