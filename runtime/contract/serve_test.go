package contract_test

import (
	"encoding/json"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestSetsThatSayNothingNewHaveTheDigestsOfBefore: operator and pods may be of
// different versions for a while, and a pod has what it was told only if both find
// the same digest. So a field that was added is left out where it says what goes
// without saying.
func TestSetsThatSayNothingNewHaveTheDigestsOfBefore(t *testing.T) {
	set := contract.ExpertSet{
		Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{{Name: "math", Skill: "math", Digest: "sha256:1"}}, Fallback: "math",
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	const first = `{"strategy":"Prompt","experts":[{"name":"math","skill":"math","digest":"sha256:1"}],"fallback":"math"}`
	if string(b) != first {
		t.Errorf("the set is %s, it was %s", b, first)
	}
	before, err := set.Digest()
	if err != nil {
		t.Fatal(err)
	}
	set.TopK = 2
	if after, err := set.Digest(); err != nil || after == before {
		t.Errorf("a set that mixes has the digest of one that does not (%v)", err)
	}
}

// TestACandidateHasNoPartInTheDigest: what answers is the same set, whatever it is compared
// with, and a pod whose runtime knows of no candidates serves it as before.
func TestACandidateHasNoPartInTheDigest(t *testing.T) {
	set := contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{{Name: "math", Skill: "math", Digest: "sha256:1"}}}
	before, err := set.Digest()
	if err != nil {
		t.Fatal(err)
	}
	const first = "sha256:11c2f3568fa82c0a913c5760441403fa07e6bd9b8027b095453057d9361ae50c"
	set.Candidate = &contract.CandidateSet{Set: contract.ExpertSet{Strategy: contract.StrategyFixed}, Mode: contract.CandidateCanary, Percent: 5, Salt: "x"}
	after, err := set.Digest()
	if err != nil || after != before || before != first {
		t.Errorf("digest %s with a candidate, %s without, once %s (%v)", after, before, first, err)
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"strategy":"Prompt","experts":[{"name":"math","skill":"math","digest":"sha256:1"}],` +
		`"candidate":{"set":{"strategy":"Fixed","experts":null},"mode":"Canary","percent":5,"salt":"x"}}`
	if string(b) != want {
		t.Errorf("the set is %s, want %s", b, want)
	}
}
