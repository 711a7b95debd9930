package evaluate

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
)

// publish writes the artifact of an evaluation whose questions have all been answered, and
// what it comes to.
func (e *evaluation) publish() (contract.Termination, error) {
	e.options.Progress.Phase("Saving", 0, 0)
	found, err := e.found()
	if err != nil {
		return contract.Termination{}, err
	}
	if found.Digest, err = e.write(found); err != nil {
		return contract.Termination{}, fmt.Errorf("publishing the evaluation: %w", err)
	}
	done := contract.Termination{Evaluation: &found}
	if err := artifact.WriteSealed(filepath.Join(e.dir, resultFile), result{Spec: e.digest, Termination: done}); err != nil {
		return contract.Termination{}, err
	}
	// What was answered is in the artifact now.
	kept, err := filepath.Glob(filepath.Join(e.dir, "answers-*.json"))
	if err != nil {
		return contract.Termination{}, fmt.Errorf("looking for answers: %w", err)
	}
	for _, path := range kept {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return contract.Termination{}, fmt.Errorf("removing the state of a finished evaluation: %w", err)
		}
	}
	gain, low, high := found.Sets[0].Gain()
	e.options.Log.Info("Expert set was evaluated", "digest", found.Digest, "questions", found.Sets[0].Questions, "base", found.Sets[0].Base,
		"stable", found.Sets[0].Stable, "candidate", found.Sets[0].Candidate, "gain", gain, "low", low, "high", high)
	return done, nil
}

// of is the column of an answerer and a data set; nil where it was not asked.
func (e *evaluation) of(set int, answerer string) *column {
	i := slices.IndexFunc(e.columns, func(c column) bool { return c.Set == set && c.Answerer == answerer })
	if i < 0 {
		return nil
	}
	return &e.columns[i]
}

// found counts who answered right.
func (e *evaluation) found() (contract.EvaluationResult, error) {
	var r contract.EvaluationResult
	var err error
	if r.CandidateDigest, err = e.spec.Candidate.Name(); err != nil {
		return r, err
	}
	before := contract.AnswererBase
	if e.spec.Stable != nil {
		before = contract.AnswererStable
		if r.StableDigest, err = e.spec.Stable.Name(); err != nil {
			return r, err
		}
	}
	for i, set := range e.sets {
		candidate, reference := e.of(i, contract.AnswererCandidate).Samples, e.of(i, before).Samples
		s := contract.SetScores{
			Questions: len(e.questions[i]), Base: right(e.of(i, contract.AnswererBase).Samples), Candidate: right(candidate), DatasetDigest: set.Digest,
		}
		if e.spec.Stable != nil {
			s.Stable = right(reference)
		}
		for k := range candidate {
			switch {
			case candidate[k].Right && !reference[k].Right:
				s.Won++
			case !candidate[k].Right && reference[k].Right:
				s.Lost++
			}
		}
		r.Sets = append(r.Sets, s)
	}
	for _, ref := range e.spec.Candidate.Experts {
		r.Experts = append(r.Experts, right(e.of(0, ref.Name).Samples))
	}
	for _, c := range e.columns {
		r.Seconds += c.Seconds
	}
	return r, nil
}

// write publishes the artifact and returns its digest, which depends on what was asked and
// answered alone.
func (e *evaluation) write(found contract.EvaluationResult) (digest string, err error) {
	stage, err := artifact.Stage(filepath.Join(e.spec.DataDir, contract.DirEvaluations))
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stage.Discard())
		}
	}()
	m := contract.EvaluationManifest{
		BaseDigest: e.spec.BaseDigest, RunID: e.spec.RunID, StableDigest: found.StableDigest, CandidateDigest: found.CandidateDigest, Scores: found.Sets,
	}
	for _, who := range e.answerers() {
		m.Answerers = append(m.Answerers, who.name)
	}
	if err := e.writeSamples(filepath.Join(stage.Dir(), contract.EvaluationSamples)); err != nil {
		return "", err
	}
	if err := artifact.WriteJSONAtomic(filepath.Join(stage.Dir(), contract.EvaluationMatrix), e.matrix(m.Answerers)); err != nil {
		return "", err
	}
	if m.Files, err = artifact.HashFiles(stage.Dir(), []string{contract.EvaluationMatrix, contract.EvaluationSamples}); err != nil {
		return "", err
	}
	m.Digest, m.SizeBytes = contract.DigestFiles(m.Files), artifact.TotalBytes(m.Files)
	return m.Digest, stage.PublishDigest(m.Digest, m)
}

// writeSamples writes a line for each answer.
func (e *evaluation) writeSamples(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, artifact.FileMode)
	if err != nil {
		return fmt.Errorf("writing samples: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	lines := json.NewEncoder(w)
	for _, c := range e.columns {
		for _, s := range c.Samples {
			if err := lines.Encode(s); err != nil {
				return fmt.Errorf("writing samples: %w", err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing samples: %w", err)
	}
	return nil
}

// matrix says of each question who answered it right.
func (e *evaluation) matrix(answerers []string) contract.EvaluationRights {
	m := contract.EvaluationRights{Answerers: answerers}
	for i, questions := range e.questions {
		set := contract.EvaluationQuestions{DatasetDigest: e.sets[i].Digest, Questions: make([]contract.EvaluationQuestion, len(questions))}
		for k, q := range questions {
			messages := q.record.Messages
			set.Questions[k] = contract.EvaluationQuestion{
				Line: q.record.Line, Prompt: messages[len(messages)-1].Content, Right: make([]*bool, len(answerers)),
			}
		}
		for a, name := range answerers {
			if c := e.of(i, name); c != nil {
				for k := range c.Samples {
					set.Questions[k].Right[a] = &c.Samples[k].Right
				}
			}
		}
		m.Sets = append(m.Sets, set)
	}
	return m
}
