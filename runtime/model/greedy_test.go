package model_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/model"
)

// sharedModel opens a model of the shared test data, which is not part of the
// repository.
func sharedModel(tb testing.TB, name string, options ...model.Option) (*model.Model, string) {
	tb.Helper()
	root := os.Getenv("T2_SHARED_DATA")
	if root == "" {
		tb.Skip("T2_SHARED_DATA is not set: it names the folder with models/" + name)
	}
	dir := filepath.Join(root, "models", name)
	m, err := load(tb.Context(), newBackend(tb, 0), dir, options...)
	if err != nil {
		tb.Fatal(err)
	}
	return m, dir
}

// transcript is the text of a reference: its tokens after the first.
type transcript struct {
	BOS int32   `json:"bos"`
	IDs []int32 `json:"ids_after_bos"`
}

func readTranscript(tb testing.TB, dir string) transcript {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "greedy.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var t transcript
	if err := json.Unmarshal(raw, &t); err != nil {
		tb.Fatal(err)
	}
	return t
}

func newBackend(tb testing.TB, threads int) backend.Backend {
	tb.Helper()
	return registrytest.Open(tb, threads)
}

func argmax(row []float32) int32 {
	best := 0
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	return int32(best)
}

// TestGreedyTextOfAPretrainedModelIsTheReferences decodes the same 100 tokens
// as llama2.c does on the same weights in float32.
func TestGreedyTextOfAPretrainedModelIsTheReferences(t *testing.T) {
	for _, path := range registrytest.Paths() {
		t.Run(path, func(t *testing.T) {
			t.Setenv(cpu.EnvPath, path)
			m, dir := sharedModel(t, "tinystories-656k")
			want := readTranscript(t, dir)
			const prompt = 5 // "Once upon a time" is the first five of the ids.
			c, err := m.NewCache(1, len(want.IDs)+1)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			tokens := append([]int32{want.BOS}, want.IDs[:prompt]...)
			got := append([]int32(nil), want.IDs[:prompt]...)
			for len(got) < len(want.IDs) {
				logits, err := m.Step(t.Context(), c, []model.Segment{{Tokens: tokens}})
				if err != nil {
					t.Fatal(err)
				}
				next := argmax(logits.Row(0))
				got = append(got, next)
				tokens = []int32{next}
			}
			if diff := cmp.Diff(want.IDs, got); diff != "" {
				t.Errorf("greedy tokens differ from the reference (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNarrowWeightsChooseTheReferencesTokens wants nearly the same choice after
// each prefix of the reference's text, whatever rounds, weights or what is stored:
// where two tokens are about as likely, rounding decides. So the logits of another
// choice and of the reference's are no further apart than what both may be off by.
func TestNarrowWeightsChooseTheReferencesTokens(t *testing.T) {
	be := newBackend(t, 0)
	for _, s := range storages(be) {
		for kind, share := range map[backend.DType]float64{backend.F32: 1, backend.BF16: 0.98, backend.Int8: 0.92} {
			off := func(*model.Model) float64 { return rounding[kind] }
			if s != (model.Storage{}) {
				share = min(share, 0.98)
				off = func(m *model.Model) float64 { return rounding[kind] + storedBound(m.Config().Layers) }
			}
			t.Run(kind.String()+", stored as "+s.String(), func(t *testing.T) {
				choosesTheReferencesTokens(t, share, off, model.WeightsAs(kind), model.StoredAs(s))
			})
		}
	}
}

func choosesTheReferencesTokens(t *testing.T, share float64, off func(*model.Model) float64, options ...model.Option) {
	t.Helper()
	m, dir := sharedModel(t, "tinystories-656k", options...)
	want := readTranscript(t, dir)
	c, err := m.NewCache(1, len(want.IDs))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const prompt = 5
	last := len(want.IDs) - 1
	logits := step(t, m, c, model.Segment{Tokens: append([]int32{want.BOS}, want.IDs[:last]...), AllLogits: true})
	same := 0
	for i := prompt; i <= last; i++ {
		row, wanted := logits.Row(i), want.IDs[i]
		chosen := argmax(row)
		if chosen == wanted {
			same++
			continue
		}
		var power float64
		for _, v := range row {
			power += float64(v) * float64(v)
		}
		apart, most := float64(row[chosen]-row[wanted]), 2*off(m)*math.Sqrt(power/float64(len(row)))
		t.Logf("after %d tokens, token %d is %.2g above the reference's", i, chosen, apart)
		if apart > most {
			t.Errorf("after %d tokens, token %d is %.2g above the reference's, want at most %.2g", i, chosen, apart, most)
		}
	}
	t.Logf("%d of %d", same, last+1-prompt)
	if float64(same) < share*float64(last+1-prompt) {
		t.Errorf("%d of %d tokens are the reference's, want %g of them", same, last+1-prompt, share)
	}
}
