package evaluate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// Validate names every field of a specification that makes no sense.
func Validate(s contract.EvaluateSpec) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	oneOf := func(field, value string, allowed []string) {
		check(slices.Contains(allowed, value), "%s %q is unknown: use one of %s", field, value, strings.Join(allowed, ", "))
	}
	check(s.Name != "" && !strings.Contains(s.Name, ":"), "name is %q: it must not be empty or have a colon, which pins an expert", s.Name)
	check(s.DataDir != "", "dataDir is missing: it is the volume's root, such as %s", contract.MountData)
	check(s.RunID != "" && s.RunID == filepath.Base(s.RunID) && !strings.HasPrefix(s.RunID, "."),
		"runID %q must be a plain name, without slashes and not beginning with a dot", s.RunID)
	check(len(s.Sets) >= 1 && len(s.Sets) <= 1+contract.MaxGuards, "sets has %d data sets: there must be the gate's, and at most %d of guards", len(s.Sets), contract.MaxGuards)
	for i, set := range s.Sets {
		oneOf(fmt.Sprintf("sets[%d].dataset.format", i), set.Dataset.Format, dataset.Formats())
		oneOf(fmt.Sprintf("sets[%d].reward", i), set.Reward, reward.Kinds())
	}
	check(s.Samples >= 0, "samples %d must not be negative", s.Samples)
	check(s.MaxNewTokens >= 0, "maxNewTokens %d must not be negative", s.MaxNewTokens)
	for field, set := range map[string]*contract.ExpertSet{"candidate": &s.Candidate, "stable": s.Stable} {
		if set == nil {
			continue
		}
		if err := adapt.Validate(*set); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	return errors.Join(errs...)
}

// runDigest identifies what determines what an evaluation finds: the specification without
// what only says where things are, what computes, and what things are called, and the content
// of the data sets.
func runDigest(s contract.EvaluateSpec, sets []*dataset.Set) (string, error) {
	s.Name, s.RunID, s.DataDir, s.TransferDir, s.Backend, s.MaxBatch, s.KVCacheBytes = "", "", "", "", "", 0, 0
	s.Sets = slices.Clone(s.Sets)
	for i := range s.Sets {
		s.Sets[i].Field = ""
		s.Sets[i].Dataset = s.Sets[i].Dataset.Placeless()
		s.Sets[i].Dataset.Digest = sets[i].Digest
	}
	encoded, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encoding the specification: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return contract.DigestPrefix + hex.EncodeToString(sum[:]), nil
}
