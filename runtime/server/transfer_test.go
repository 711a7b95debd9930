package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
)

// TestExpertsOfAnotherBaseAreServedByTheirShape serves experts from the volumes of other
// bases, as a pod has them mounted.
func TestExpertsOfAnotherBaseAreServedByTheirShape(t *testing.T) {
	sibling, wider := enginetest.Usual, enginetest.Usual
	sibling.Seed, wider.Seed, wider.Inner = 2, 3, 96
	home, wide := enginetest.NewOf(t, sibling), enginetest.NewOf(t, wider)
	mounts := t.TempDir()
	for name, v := range map[string]*enginetest.Volume{"home": home, "wide": wide} {
		if err := os.Symlink(v.Root, filepath.Join(mounts, name)); err != nil {
			t.Fatal(err)
		}
	}
	h := open(t, func(c *server.Config) {
		pod, err := server.FromSpec(contract.ServeSpec{
			Name: "demo", DataDir: filepath.Dir(filepath.Dir(c.ModelDir)), TransferDir: mounts,
			BaseDigest: "sha256:" + strings.TrimPrefix(filepath.Base(c.ModelDir), "sha256-"), DecompositionDigest: "sha256:" + strings.TrimPrefix(filepath.Base(c.DecompositionDir), "sha256-"),
		})
		if err != nil {
			t.Fatal(err)
		}
		c.ExpertDir = pod.ExpertDir
	})
	law := home.Expert(t, "law", 1) // With the z of math.
	says := func(expert string) string {
		t.Helper()
		a, r := h.ask(t, contract.PathCompletions, fields{"model": "demo:" + expert, "prompt": "hello", "max_tokens": 16, "temperature": 0})
		if len(a.Choices) != 1 {
			t.Fatalf("%s: %s, %+v", expert, r.Status, a.Error)
		}
		return a.Choices[0].Text
	}
	with := func(ref contract.ExpertRef) contract.ExpertSet {
		set := h.set()
		ref.Name, ref.Skill = "law", "law"
		set.Experts = append(set.Experts, ref)
		return set
	}
	if err := h.Swap(t.Context(), with(contract.ExpertRef{Digest: law.Digest, TransferFrom: "home"})); err != nil {
		t.Fatal(err)
	}
	if got, want := says("law"), says("demo-math"); got != want {
		t.Errorf("the expert that was transferred says %q, with the same z one of this base %q", got, want)
	}

	// What was taken so is not taken otherwise, be it in use already.
	if err := os.CopyFS(h.volume.ExpertDir(t, law.Digest), os.DirFS(home.ExpertDir(t, law.Digest))); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ref  contract.ExpertRef
		want []string
	}{
		"unasked":                 {contract.ExpertRef{Digest: law.Digest}, []string{home.ModelDigest, "spec.transfer", contract.ReasonDecompositionMismatch}},
		"of another shape":        {contract.ExpertRef{Digest: wide.Expert(t, "law", 1).Digest, TransferFrom: "wide"}, []string{"model.layers.0.mlp.up_proj is [96 32] there and [64 32] here"}},
		"from a volume elsewhere": {contract.ExpertRef{Digest: law.Digest, TransferFrom: "../home"}, []string{`"../home"`, contract.ReasonUsage}},
		"from no volume":          {contract.ExpertRef{Digest: law.Digest, TransferFrom: "nowhere"}, []string{contract.ReasonExpertMissing}},
	} {
		_ = h.Swap(t.Context(), with(tc.ref)) // The status tells.
		status := h.Status()
		var failed *contract.LoadError
		for _, e := range status.Experts {
			if e.Name == "law" {
				failed = e.Error
			}
		}
		if failed == nil || status.ExpertSetDigest == status.DesiredDigest {
			t.Errorf("%s: it is served: %+v", name, status)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(failed.Reason+": "+failed.Message, want) {
				t.Errorf("%s: %s: %s; want %q", name, failed.Reason, failed.Message, want)
			}
		}
		if says("demo-math") == "" {
			t.Errorf("%s: the others are not served", name)
		}
	}
}
