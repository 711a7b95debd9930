package fewshot

import (
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestTheRunOfAVolumeIsThatOfAnEarlierRuntime, which goes on with its generation: the
// digest of what has not changed never changes.
func TestTheRunOfAVolumeIsThatOfAnEarlierRuntime(t *testing.T) {
	got, err := runDigest(contract.AdaptSpec{
		Name: "demo", RunID: "r", DataDir: "/data", BaseDigest: "sha256:b", DecompositionDigest: "sha256:d", TransferDir: "/etc",
		Experts:  []contract.AdaptExpert{{Name: "math", Digest: "sha256:1"}, {Name: "law", Digest: "sha256:2", TransferFrom: "other"}},
		Examples: contract.DatasetSpec{Name: "few", Path: "/few", Format: contract.FormatGSM8K, Limit: 4},
		Reward:   contract.RewardNumeric, Search: contract.DefaultFewShot(), DType: contract.DTypeBF16, Backend: contract.BackendCUDA,
	}, "sha256:e")
	const want = "sha256:e622789d4d17493315991493bca89c5dc40153ba104b4cfa5f5e5472d0b059a8"
	if err != nil || got != want {
		t.Errorf("the run is %s (%v), and was %s: searches under way would begin anew", got, err, want)
	}
}
