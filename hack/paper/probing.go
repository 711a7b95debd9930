package main

import (
	"context"
	"errors"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/probe"
)

// probing is the cell of the probe of a base: of what it makes of the prompts that experts
// are trained with. It depends on no expert.
func (l *lab) probing(base string) cell[contract.ProbeResult] {
	s := contract.ProbeSpec{Name: "paper", DataDir: l.volume, BaseDigest: l.bases[base].digest}
	known := s
	known.DataDir = ""
	for _, k := range skills {
		d := l.set(k, splitTrain)
		s.Sets = append(s.Sets, contract.SkillSet{Skill: k.name, Dataset: d})
		known.Sets = append(known.Sets, contract.SkillSet{Skill: k.name, Dataset: identity(d)})
	}
	return cell[contract.ProbeResult]{Name: "probe-" + base, Spec: known, Fill: func(ctx context.Context) (r contract.ProbeResult, err error) {
		done, err := running(func(be backend.Backend, _ judge.Runner) (contract.Termination, error) {
			return probe.Run(ctx, s, probe.Options{Backend: be, Progress: jobs.NewProgress(), Log: l.log})
		})
		if err != nil {
			return r, err
		}
		return *done.Probe, nil
	}}
}

// certain is a probe that is always sure enough.
type certain struct{ adapt.Prober }

// Least implements adapt.Prober.
func (certain) Least() float64 { return 0 }

// prober reads the probe of an exam's set; a set without one has none.
func (l *lab) prober(ctx context.Context, e exam) (adapt.Prober, error) {
	if e.Set.Probe == nil {
		return nil, nil //nolint:nilnil // There is none, and none is wanted.
	}
	dir, err := contract.ArtifactDir(l.volume, contract.DirProbes, e.Set.Probe.Digest)
	if err != nil {
		return nil, err
	}
	p, err := probe.Read(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, errors.New("the probe's cell is there, and the probe is not: remove bin/paper"))
	}
	if e.Certain {
		return certain{p}, nil
	}
	return p, nil
}

// Read implements adapt.Reader.
func (r *room) Read(ctx context.Context, prompt []int32, salt string) ([]float32, error) {
	return r.engine.Read(ctx, engine.ReadRequest{Prompt: prompt, Salt: salt})
}
