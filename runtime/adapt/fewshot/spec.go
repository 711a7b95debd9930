package fewshot

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// Validate names every field of a specification that makes no sense.
func Validate(s contract.AdaptSpec) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	digest := func(field, value string) {
		check(contract.ValidDigest(value), "%s %q is no digest (sha256: and 64 lower-case hex digits)", field, value)
	}
	oneOf := func(field, value string, allowed []string) {
		check(slices.Contains(allowed, value), "%s %q is unknown: use one of %s", field, value, strings.Join(allowed, ", "))
	}
	check(s.DataDir != "", "dataDir is missing: it is the volume's root, such as %s", contract.MountData)
	check(s.RunID != "" && s.RunID == filepath.Base(s.RunID) && !strings.HasPrefix(s.RunID, "."),
		"runID %q must be a plain name, without slashes and not beginning with a dot", s.RunID)
	digest("baseDigest", s.BaseDigest)
	digest("decompositionDigest", s.DecompositionDigest)
	check(len(s.Experts) >= 1 && len(s.Experts) <= contract.MaxExperts, "%d experts: there must be from 1 to %d to mix", len(s.Experts), contract.MaxExperts)
	names := map[string]bool{}
	for i, e := range s.Experts {
		check(e.Name != "" && e.Name != contract.BaseName, "experts[%d] has the name %q: give it another", i, e.Name)
		check(!names[e.Name], "expert %q is listed twice", e.Name)
		names[e.Name] = true
		digest(fmt.Sprintf("experts[%d].digest", i), e.Digest)
	}
	oneOf("examples.format", s.Examples.Format, dataset.Formats())
	oneOf("reward", s.Reward, reward.Kinds())
	if _, err := backend.ParseDType(s.DType); err != nil {
		errs = append(errs, fmt.Errorf("dtype: %w", err))
	}
	f := s.Search
	check(f.MaxNewTokens >= 1, "search.maxNewTokens %d must be at least 1", f.MaxNewTokens)
	check(f.Generations >= 1 && f.Generations <= search.MostGenerations,
		"search.generations %d must be from 1 to %d; %d are a light search", f.Generations, search.MostGenerations, search.LightGenerations)
	if err := options(f, 2, 1).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("search: %w", err))
	}
	return errors.Join(errs...)
}

// options are those of the search of so many weights.
func options(f contract.FewShot, experts, layers int) search.CEMOptions {
	o := search.DefaultCEM(experts)
	o.Layers, o.Population, o.EliteFraction = layers, f.Population, f.EliteFraction
	o.Generations, o.Seed = f.Generations, f.Seed
	return o
}

// runDigest identifies what determines a search's result: the specification without what
// only says where things are, what computes, in which number format, and what things are
// called, and the content of the examples.
func runDigest(s contract.AdaptSpec, examples string) (string, error) {
	s.DataDir, s.TransferDir = "", "" // Identity has none of the others.
	s.Examples = s.Examples.Placeless()
	s.Examples.Digest = examples
	s.Experts = slices.Clone(s.Experts)
	for i := range s.Experts {
		s.Experts[i].Name, s.Experts[i].TransferFrom = "", ""
	}
	digest, err := s.Identity().Digest()
	if err != nil {
		return "", fmt.Errorf("encoding the specification: %w", err)
	}
	return digest, nil
}
