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
