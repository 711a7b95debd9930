package contract_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

var update = flag.Bool("update", false, "append to testdata")

// expertSets are sets which between them say everything that one can say.
func expertSets() map[string]contract.ExpertSet {
	math := contract.ExpertRef{Name: "math", Skill: "math", Description: "sums <&>", Digest: "sha256:1"}
	law := contract.ExpertRef{Name: "law", Skill: "law", Digest: "sha256:2", TransferFrom: "other", Weight: 0.25, LayerWeights: []float64{0.5, 0}}
	return map[string]contract.ExpertSet{
		"nothing":    {},
		"no experts": {Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{}},
		"prompt": {
			Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{math}, Fallback: "math",
			PromptTemplate: "{skills}\n{prompt}", RequestTokens: 64, MinProbability: 0.3, TopK: 2,
			Conversation: &contract.Conversation{Mode: contract.ConversationSwitch, Margin: 0.2},
		},
		"classifier": {Strategy: contract.StrategyClassifier, Experts: []contract.ExpertRef{math}, Classifier: &law},
		"probe":      {Strategy: contract.StrategyProbe, Experts: []contract.ExpertRef{math, law}, Probe: &contract.ProbeRef{Digest: "sha256:3"}},
		"few-shot":   {Strategy: contract.StrategyFewShot, Experts: []contract.ExpertRef{math, law}},
		"keeps": {
			Strategy: contract.StrategyFixed, Experts: []contract.ExpertRef{law}, Conversation: &contract.Conversation{},
		},
	}
}

// TestDigestsNeverChange of sets and questions that say what they said before: pods and
// operator of different versions compare them. The golden file is only ever added to, by
// `go test ./runtime/contract -run NeverChange -update`.
func TestDigestsNeverChange(t *testing.T) {
	file := filepath.Join("testdata", "digests-v1.json")
	known := map[string]string{}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil && !*update {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, set := range expertSets() {
		if got["set "+name], err = set.Digest(); err != nil {
			t.Fatal(err)
		}
		if got["question of "+name], err = set.Pass1().Digest(); err != nil {
			t.Fatal(err)
		}
	}
	for name, digest := range got {
		want, there := known[name]
		switch {
		case there && digest != want:
			t.Errorf("%s has digest %s, and had %s", name, digest, want)
		case !there && *update:
			known[name] = digest
		case !there:
			t.Errorf("%s has no digest in %s: append it with -update", name, file)
		}
	}
	for name := range known {
		if _, there := got[name]; !there {
			t.Errorf("%s has a digest for %s, which is not tested any more", file, name)
		}
	}
	if *update {
		text, err := json.MarshalIndent(known, "", "  ")
		if err == nil {
			err = os.MkdirAll("testdata", 0o755)
		}
		if err == nil {
			err = os.WriteFile(file, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
