package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
)

// maxMatrix bounds what is read of who answered which question right: 10,000 questions of
// 10 KB are less.
const maxMatrix = 128 << 20

// asked is a question as the base reads it, and who answered it right.
type asked struct {
	tokens []int32
	Question
}

// errNoAnswers says that an evaluation has no answers which a probe could learn from.
var errNoAnswers = errors.New("there are no answers that the probe could learn from")

// answers reads who answered which question of an evaluation right: of those questions that
// tell labels apart the first ones, each once, so many at most.
func answers(ctx context.Context, spec contract.ProbeSpec, labels []string, tok *tokenizer.Tokenizer, longest, most int) ([]asked, error) {
	rights, err := readRights(ctx, spec)
	if err != nil {
		return nil, err
	}
	columns, base, err := columns(rights.Answerers, spec.Answers.Experts, labels)
	if err != nil {
		return nil, err
	}
	if len(rights.Sets) == 0 {
		return nil, fmt.Errorf("%w: the evaluation has no data set", errNoAnswers)
	}
	var list []asked
	seen := map[string]bool{}
	for _, q := range rights.Sets[0].Questions {
		one, ok := right(q, columns, base)
		if !ok || !one.tells() || seen[q.Prompt] || len(list) == most {
			continue
		}
		seen[q.Prompt] = true
		ids, err := train.EncodePrompt(tok, []dataset.Message{{Role: "user", Content: q.Prompt}})
		if err != nil {
			return nil, fmt.Errorf("encoding the question of line %d: %w", q.Line, err)
		}
		if len(ids) > 0 && len(ids) <= longest {
			list = append(list, asked{tokens: ids, Question: one})
		}
	}
	return list, nil
}

// readRights reads the matrix of the evaluation that a specification names, and makes sure that
// it is that one, and of its base.
func readRights(ctx context.Context, spec contract.ProbeSpec) (contract.EvaluationRights, error) {
	var rights contract.EvaluationRights
	dir, err := contract.ArtifactDir(spec.DataDir, contract.DirEvaluations, spec.Answers.Digest)
	if err != nil {
		return rights, err
	}
	m, err := artifact.ReadManifest[contract.EvaluationManifest](dir)
	if err != nil {
		return rights, err
	}
	i := slices.IndexFunc(m.Files, func(f contract.FileEntry) bool { return f.Path == contract.EvaluationMatrix })
	switch {
	case m.Digest != spec.Answers.Digest || contract.DigestFiles(m.Files) != m.Digest:
		return rights, fmt.Errorf("%s is not evaluation %s", dir, spec.Answers.Digest)
	case m.BaseDigest != spec.BaseDigest:
		return rights, fmt.Errorf("%w: evaluation %s is of base %s, the probe reads %s", errNoAnswers, m.Digest, m.BaseDigest, spec.BaseDigest)
	case i < 0:
		return rights, fmt.Errorf("evaluation %s has no %s", m.Digest, contract.EvaluationMatrix)
	}
	if err := artifact.VerifyContext(ctx, dir, m.Files[i:i+1]); err != nil {
		return rights, fmt.Errorf("evaluation %s: %w", m.Digest, err)
	}
	text, err := artifact.ReadBounded(filepath.Join(dir, contract.EvaluationMatrix), maxMatrix)
	if err != nil {
		return rights, fmt.Errorf("evaluation %s: %w", m.Digest, err)
	}
	if err := json.Unmarshal(text, &rights); err != nil {
		return rights, fmt.Errorf("evaluation %s: %w", m.Digest, err)
	}
	return rights, nil
}

// columns are the places of the labels, and of the base, among those who answered: for each
// label that of the expert who stands for it.
func columns(answerers []string, experts []contract.EvaluatedExpert, labels []string) (list []int, base int, err error) {
	place := func(name string) (int, error) {
		if i := slices.Index(answerers, name); i >= 0 {
			return i, nil
		}
		return 0, fmt.Errorf("%w: %s has no answers in the evaluation", errNoAnswers, name)
	}
	if base, err = place(contract.AnswererBase); err != nil {
		return nil, 0, err
	}
	for _, label := range labels {
		column := base
		if label != contract.OthersLabel {
			i := slices.IndexFunc(experts, func(e contract.EvaluatedExpert) bool { return e.Skill == label })
			if i < 0 {
				return nil, 0, fmt.Errorf("%w: no expert stands for skill %s", errNoAnswers, label)
			}
			if column, err = place(experts[i].Name); err != nil {
				return nil, 0, err
			}
		}
		list = append(list, column)
	}
	return list, base, nil
}

// right takes the answers of these columns; false where one was not asked.
func right(q contract.EvaluationQuestion, columns []int, base int) (Question, bool) {
	var one Question
	of := func(column int) (right, ok bool) {
		if column >= len(q.Right) || q.Right[column] == nil {
			return false, false
		}
		return *q.Right[column], true
	}
	var ok bool
	if one.Base, ok = of(base); !ok {
		return one, false
	}
	for _, column := range columns {
		r, ok := of(column)
		if !ok {
			return one, false
		}
		one.Right = append(one.Right, r)
	}
	return one, true
}

// mayPass reports whether what is wrong with answers may be gone at another try. Else the probe
// is fitted without them, since it is one without them, too.
func mayPass(ctx context.Context, err error) bool {
	return ctx.Err() != nil || failure.System(err) && !errors.Is(err, fs.ErrNotExist)
}
