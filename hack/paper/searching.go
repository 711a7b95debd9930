package main

import (
	"context"
	"fmt"

	"github.com/transformersquared/operator/runtime/adapt/fewshot"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
)

// search is the specification of a few-shot search: of these experts, one for each skill,
// by the first examples of a skill's few-shot set.
func (l *lab) search(base string, digests []string, k skill, shots, generations int, seed uint64) contract.AdaptSpec {
	b := l.bases[base]
	s := contract.AdaptSpec{
		DataDir: l.volume, BaseDigest: b.digest, DecompositionDigest: b.decomposition,
		Examples: l.set(k, splitFewShot), Search: contract.DefaultFewShot(),
	}
	for i, digest := range digests {
		s.Experts = append(s.Experts, contract.AdaptExpert{Name: skills[i].name, Digest: digest})
	}
	s.Examples.Limit = shots
	s.Reward = rewardOf(s.Examples.Format)
	s.Search.Generations, s.Search.MaxNewTokens, s.Search.Seed = generations, answerTokens, seed
	return s
}

// searching is the cell of a few-shot search.
func (l *lab) searching(s contract.AdaptSpec, label string) cell[contract.FewShotResult] {
	known := s
	known.DataDir, known.Examples = "", identity(s.Examples)
	name := fmt.Sprintf("search-%s-shots%d-generations%d-seed%d", label, s.Examples.Limit, s.Search.Generations, s.Search.Seed)
	return cell[contract.FewShotResult]{Name: name, Spec: known, Fill: func(ctx context.Context) (r contract.FewShotResult, err error) {
		if s.RunID, err = short(s); err != nil {
			return r, err
		}
		done, err := running(func(be backend.Backend, programs judge.Runner) (contract.Termination, error) {
			return fewshot.Run(ctx, s, fewshot.Options{Backend: be, Progress: jobs.NewProgress(), Log: l.log, Programs: programs})
		})
		if err != nil {
			return r, err
		}
		return *done.FewShot, nil
	}}
}

// found is the set of experts with the weights that a search has found.
func (l *lab) found(digests []string, r contract.FewShotResult) contract.ExpertSet {
	set := l.expertSet(contract.StrategyFewShot, digests)
	for i, w := range r.Weights {
		set.Experts[i].Weight, set.Experts[i].LayerWeights = w.Weight, w.Layers
	}
	return set
}
