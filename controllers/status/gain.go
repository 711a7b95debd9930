package status

import (
	"math/big"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// Gain is how far an expert's validation score is above the base model's, as
// exactly as the scores are written; not known where one of them is missing, as
// of an expert that was imported.
func Gain(expert *v1alpha1.ExpertVector) (gain *big.Rat, known bool) {
	score, scored := new(big.Rat).SetString(string(expert.Status.Score))
	baseline, measured := new(big.Rat).SetString(string(expert.Status.BaselineScore))
	if !scored || !measured {
		return nil, false
	}
	return score.Sub(score, baseline), true
}
