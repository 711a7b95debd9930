package evaluate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// evaluation is one under way.
type evaluation struct {
	spec    contract.EvaluateSpec
	server  *server.Server
	judges  judges
	sets    []*dataset.Set
	dir     string
	digest  string
	options Options

	chat      bool         // The model has a template for conversations.
	questions [][]question // Of each data set.
	columns   []column     // In the order of answerers.
	done      atomic.Int64 // Answers.
}

// question is one record, and how long its answer may be.
type question struct {
	record dataset.Record
	most   int
}

// answerer is who is asked: by a name that the server has while it serves that set.
type answerer struct {
	name, model string
	set         *contract.ExpertSet
	first       bool // Only the first data set's questions.
}

// column is what one answerer said to the questions of one data set, and what came of it.
type column struct {
	Spec     string                      `json:"spec"`
	Set      int                         `json:"set"`
	Answerer string                      `json:"answerer"`
	Seconds  float64                     `json:"seconds"`
	Samples  []contract.EvaluationSample `json:"samples"`
}

// answerers are all who are asked: the set that serves, then whom the new one lets be asked.
func (e *evaluation) answerers() []answerer {
	var list []answerer
	if e.spec.Stable != nil {
		list = append(list, answerer{name: contract.AnswererStable, model: e.spec.Name, set: e.spec.Stable})
	}
	pin := func(name string) string { return e.spec.Name + ":" + name }
	list = append(list,
		answerer{name: contract.AnswererCandidate, model: e.spec.Name, set: &e.spec.Candidate},
		answerer{name: contract.AnswererBase, model: pin(contract.BaseName), set: &e.spec.Candidate})
	for _, ref := range e.spec.Candidate.Experts {
		list = append(list, answerer{name: ref.Name, model: pin(ref.Name), set: &e.spec.Candidate, first: true})
	}
	return list
}

// ask puts the questions to all of them, but for what the run's folder has already.
func (e *evaluation) ask(ctx context.Context) error {
	if err := e.prepare(); err != nil {
		return err
	}
	all := e.answerers()
	total := int64(0)
	for _, who := range all {
		for i := range e.questions {
			if i == 0 || !who.first {
				total += int64(len(e.questions[i]))
			}
		}
	}
	e.options.Progress.Phase("Evaluating", 0, total)
	var served *contract.ExpertSet
	for k, who := range all {
		for i := range e.questions {
			if i > 0 && who.first {
				continue
			}
			path := filepath.Join(e.dir, fmt.Sprintf("answers-%d-%d.json", i, k))
			c, err := e.kept(path, i, who)
			if err != nil {
				return err
			}
			if c == nil {
				if served != who.set {
					if err := e.server.Swap(ctx, *who.set); err != nil {
						return fmt.Errorf("loading the %s: %w", setName(e, who), err)
					}
					served = who.set
				}
				if c, err = e.column(ctx, i, who); err != nil {
					return err
				}
				if err := artifact.WriteSealed(path, c); err != nil {
					return err
				}
			}
			e.columns = append(e.columns, *c)
			e.done.Store(0)
			for _, c := range e.columns {
				e.done.Add(int64(len(c.Samples)))
			}
			e.options.Progress.Done(e.done.Load())
		}
	}
	return nil
}

func setName(e *evaluation, who answerer) string {
	if who.set == e.spec.Stable {
		return contract.AnswererStable
	}
	return contract.AnswererCandidate
}

// prepare makes the questions of the records. Those that leave no room for an answer are left
// out; if most do, the data set is refused.
func (e *evaluation) prepare() (err error) {
	if e.chat, err = e.server.Chats(); err != nil {
		return err
	}
	for i, set := range e.sets {
		var list []question
		fitting, err := set.Fit(func(r dataset.Record) error {
			body, err := e.body(e.spec.Name+":"+contract.BaseName, question{record: r, most: 1})
			if err != nil {
				return err
			}
			room, err := e.server.Room(body)
			switch {
			case err != nil:
				return err
			case room < 1:
				return errors.New("the prompt leaves no room for an answer in the context length")
			}
			list = append(list, question{r, min(e.spec.MaxNewTokens, room)})
			return nil
		}, "shorten or remove what is too long")
		if err != nil {
			return fmt.Errorf("%s: %w", field(e.spec, i), err)
		}
		e.sets[i], e.questions = fitting, append(e.questions, list)
	}
	return nil
}

// body is the request that puts a question, greedily.
func (e *evaluation) body(model string, q question) ([]byte, error) {
	request := map[string]any{"model": model, "temperature": 0, "max_tokens": q.most}
	if e.chat {
		request["messages"] = q.record.Messages
	} else {
		request["prompt"] = q.record.Messages[len(q.record.Messages)-1].Content
	}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encoding a question: %w", err)
	}
	return b, nil
}

// column asks one answerer the questions of one data set, as many at a time as a batch has
// places, and judges what it says.
func (e *evaluation) column(ctx context.Context, set int, who answerer) (*column, error) {
	begun := time.Now()
	questions := e.questions[set]
	c := &column{Spec: e.digest, Set: set, Answerer: who.name, Samples: make([]contract.EvaluationSample, len(questions))}
	wanted, err := who.set.Name()
	if err != nil {
		return nil, err
	}
	all, asking := errgroup.WithContext(ctx)
	all.SetLimit(maxAsked)
	for i, q := range questions {
		all.Go(func() error {
			body, err := e.body(who.model, q)
			if err != nil {
				return err
			}
			text, how, err := e.server.Ask(asking, body)
			if err != nil {
				return fmt.Errorf("%s, %s: asking %s: %w", e.sets[set].Name, place(q.record), who.name, err)
			}
			if how.ExpertSetDigest != wanted {
				return fmt.Errorf("%s answered with expert set %s instead of %s", who.name, how.ExpertSetDigest, wanted)
			}
			messages := q.record.Messages
			c.Samples[i] = contract.EvaluationSample{
				Set: set, Line: q.record.Line, Answerer: who.name, Expert: how.Expert, Prompt: messages[len(messages)-1].Content, Answer: text,
			}
			e.options.Progress.Done(e.done.Add(1))
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	texts, refs := make([]string, len(questions)), make([]reward.Reference, len(questions))
	for i, q := range questions {
		texts[i], refs[i] = c.Samples[i].Answer, q.record.Reference
	}
	verdicts, err := reward.All(ctx, e.judges[e.spec.Sets[set].Reward], texts, refs)
	if err != nil {
		return nil, failure.Transient(contract.ReasonJudgeUnavailable, err)
	}
	for i, v := range verdicts {
		c.Samples[i].Right, c.Samples[i].Extracted, c.Samples[i].Why = v.Right, v.Extracted, v.Why
	}
	c.Seconds = seconds(begun)
	e.options.Log.Info("Questions were answered", "dataset", e.sets[set].Name, "by", who.name, "questions", len(questions), "right", right(c.Samples), "seconds", c.Seconds)
	return c, nil
}

// maxAsked bounds the questions that are put at a time: what a server lets wait by itself is
// more.
const maxAsked = 64

func place(r dataset.Record) string { return fmt.Sprintf("record %d", r.Line) }

func right(samples []contract.EvaluationSample) int {
	n := 0
	for _, s := range samples {
		if s.Right {
			n++
		}
	}
	return n
}

// maxColumn bounds what is read of a column: 10,000 answers of 100 KB are more.
const maxColumn = 1 << 30

// kept reads a column that was finished before; nil where there is none of this evaluation.
func (e *evaluation) kept(path string, set int, who answerer) (*column, error) {
	c, err := readJSON[column](path, maxColumn)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // It has yet to be asked.
	case failure.System(err):
		return nil, fmt.Errorf("reading what %s answered: %w", who.name, err)
	case err == nil && c.Spec == e.digest && c.Set == set && c.Answerer == who.name && slices.EqualFunc(c.Samples, e.questions[set], answers):
		return &c, nil
	}
	e.options.Log.Warn("What was answered before is damaged or of another evaluation, and is asked again", "file", path)
	return nil, nil //nolint:nilnil // As above: what is damaged is made again.
}

func answers(s contract.EvaluationSample, q question) bool { return s.Line == q.record.Line }

// readJSON reads a file of JSON that this package has written.
func readJSON[T any](path string, limit int64) (T, error) {
	var v T
	b, err := artifact.ReadSealed(path, limit)
	if err != nil {
		return v, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("%s: %s", path, strings.TrimSpace(err.Error()))
	}
	return v, nil
}
