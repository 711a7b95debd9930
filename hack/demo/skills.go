package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/judge"
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

// ask lets a model answer a record, and judges the answer.
func (s skill) ask(ctx context.Context, a asker, model string, r dataset.Record) (reply answer, right bool, err error) {
	if reply, err = a.ask(ctx, model, question(r), maxAnswerTokens); err != nil {
		return answer{}, false, err
	}
	verdict, err := s.judge.Judge(ctx, reply.Text, r.Reference)
	if err != nil {
		return answer{}, false, fmt.Errorf("judging an answer: %w", err)
	}
	return reply, verdict.Right, nil
}

// skillSet is all of them.
type skillSet []skill

// demoSkills says in which format and by which reward each skill is kept, as
// config/samples does.
var demoSkills = []struct{ name, format, transferFormat, reward, template string }{
	{"math", contract.FormatGSM8K, contract.FormatMATH, contract.RewardNumeric, ""},
	{"code", contract.FormatMBPP, contract.FormatMBPP, contract.RewardUnitTests, "{question}"},
	{"reasoning", contract.FormatARC, contract.FormatARC, contract.RewardMultipleChoice, ""},
}

// loadSkills reads the held-out sets.
func loadSkills(ctx context.Context, o options) (skillSet, error) {
	var skills skillSet
	for _, d := range demoSkills {
		programs, err := judge.New(judge.Options{Command: []string{o.t2, "judge-worker"}})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("skill %s: %w", d.name, err), skills.close())
		}
		judge, err := reward.New(d.reward, programs)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("skill %s: %w", d.name, err), skills.close())
		}
		s := skill{name: d.name, judge: judge}
		skills = append(skills, s)
		if s.test, err = loadRecords(ctx, o, d.name, "test", d.format, d.template, judge); err == nil {
			s.transfer, err = loadRecords(ctx, o, d.name, "transfer", d.transferFormat, d.template, judge)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("skill %s: %w", d.name, err), skills.close())
		}
		skills[len(skills)-1] = s
	}
	return skills, nil
}

func loadRecords(ctx context.Context, o options, skill, split, format, template string, judge reward.Judge) ([]dataset.Record, error) {
	set, err := dataset.Load(ctx, contract.DatasetSpec{
		Path:           filepath.Join(o.data, skill, split+".jsonl"),
		Format:         format,
		PromptTemplate: template,
		Limit:          o.limit,
	}, judge)
	if err != nil {
		return nil, fmt.Errorf("the %s set: %w", split, err)
	}
	return set.Records, nil
}

// questions is how many there are in all sets.
func (s skillSet) questions() int {
	n := 0
	for _, skill := range s {
		n += len(skill.test) + len(skill.transfer)
	}
	return n
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
