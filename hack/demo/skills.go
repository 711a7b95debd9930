package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// maxAnswerTokens bounds answers in the demo; its skills answer in fewer.
const maxAnswerTokens = 32

// skill is one of the demo's skills with its held-out sets: test has the shape
// of the training set, transfer is harder and never trained on.
type skill struct {
	name           string
	test, transfer []dataset.Record
	judge          reward.Judge
}

// skillSet is all of them.
type skillSet []skill

// demoSkills says in which format and by which reward each skill is kept, as
// config/samples does.
var demoSkills = []struct{ name, format, reward, template string }{
	{name: "math", format: contract.FormatGSM8K, reward: contract.RewardNumeric},
	{name: "code", format: contract.FormatMBPP, reward: contract.RewardUnitTests, template: "{question}"},
	{name: "reasoning", format: contract.FormatARC, reward: contract.RewardMultipleChoice},
}

// loadSkills reads the held-out sets.
func loadSkills(ctx context.Context, o options) (skillSet, error) {
	var skills skillSet
	for _, d := range demoSkills {
		judge, err := reward.New(d.reward, []string{o.t2, "run-tests"})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("skill %s: %w", d.name, err), skills.close())
		}
		s := skill{name: d.name, judge: judge}
		skills = append(skills, s)
		for suffix, records := range map[string]*[]dataset.Record{"test": &s.test, "transfer": &s.transfer} {
			set, err := dataset.Load(ctx, contract.DatasetSpec{
				Path:           filepath.Join(o.data, d.name+"-"+suffix+".jsonl"),
				Format:         d.format,
				PromptTemplate: d.template,
				Limit:          o.limit,
			}, judge)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("skill %s: %w", d.name, err), skills.close())
			}
			*records = set.Records
		}
		skills[len(skills)-1] = s
	}
	return skills, nil
}

// close ends the judges.
func (s skillSet) close() error {
	var errs []error
	for _, skill := range s {
		errs = append(errs, skill.judge.Close())
	}
	return errors.Join(errs...)
}

// question is a record's message to the model.
func question(r dataset.Record) string { return r.Messages[len(r.Messages)-1].Content }
