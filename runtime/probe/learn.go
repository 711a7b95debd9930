package probe

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

// Question is the state behind a question that experts have answered, each alone, and who was
// right: the expert of each label, and the base.
type Question struct {
	State []float32
	Right []bool // By label; of contract.OthersLabel, the base.
	Base  bool
}

// tells reports whether it tells labels apart: where all answer right, or none, it says
// nothing of who should.
func (q Question) tells() bool {
	return slices.Contains(q.Right, true) && slices.Contains(q.Right, false)
}

// point is the question as what a regression is fitted to: whoever answers right is as good as
// any other who does.
func (q Question) point(weight float64) point {
	p := point{state: q.State, shares: make([]float64, len(q.Right)), weight: weight}
	right := 0.0
	for _, r := range q.Right {
		if r {
			right++
		}
	}
	for k, r := range q.Right {
		if r {
			p.shares[k] = 1 / right
		}
	}
	return p
}

// weights are what all questions together may weigh beside all prompts together.
func weights() []float64 { return []float64{1. / 16, 1. / 4, 1} }

// minQuestions is how many questions have to tell labels apart: fewer are chance.
const minQuestions = 8

// Learn returns the probe that tells labels apart by prompts, as Fit does, and by who answered
// questions right, if that is worth it.
//
// Prompts say what an expert was trained with, and questions what it can do. A question's label
// is shared by all who answered it right; one that all answer right, or none, says nothing. How
// much the questions weigh beside the prompts, and how strong the regression is, is what
// predicts them best when each is left out in turn. By the same predictions it is judged whom
// the probe would send them to: unless more of them come to somebody who is right than by the
// prompts alone, and by more than chance would have it, the probe is that of the prompts.
func Learn(ctx context.Context, labels []string, prompts []Example, questions []Question) (*Probe, contract.ProbeLesson, error) {
	var lesson contract.ProbeLesson
	alone, err := Fit(ctx, labels, prompts)
	if err != nil {
		return nil, lesson, err
	}
	for i, q := range questions {
		if len(q.Right) != len(labels) || len(q.State) != alone.Width() {
			return nil, lesson, fmt.Errorf("question %d has a state of %d numbers and answers of %d labels, the probe has %d and %d",
				i, len(q.State), len(q.Right), alone.Width(), len(labels))
		}
	}
	questions = slices.DeleteFunc(slices.Clone(questions), func(q Question) bool { return !q.tells() })
	before, err := alone.answer(questions)
	if err != nil {
		return nil, lesson, err
	}
	lesson.Questions = len(questions)
	lesson.Before = before.score()
	lesson.After = lesson.Before
	if len(questions) < minQuestions {
		return alone, lesson, nil
	}
	var best *Probe
	var after decisions
	lowest := math.Inf(1)
	for _, weight := range weights() {
		if err := ctx.Err(); err != nil {
			return nil, lesson, context.Cause(ctx)
		}
		points := together(labels, prompts, questions, weight)
		r, err := newRidge(points, len(labels))
		if err != nil {
			return nil, lesson, err
		}
		left, loss := r.choose(len(prompts))
		if loss >= lowest {
			continue
		}
		p, factor := r.probe(labels, points, left)
		p.Manifest.Examples = len(prompts)
		lowest, best, lesson.Weight, after = loss, p, weight, nil
		for i, q := range questions {
			after = append(after, p.decide(q, adapt.Softmax(scaled(left.RawRowView(len(prompts)+i), factor))))
		}
	}
	if !after.better(before) {
		lesson.Weight = 0
		return alone, lesson, nil
	}
	lesson.After, best.Manifest.Lesson = after.score(), &lesson
	return best, lesson, nil
}

// together are prompts, which count as one each, and then questions, which weigh so much beside
// all of them.
func together(labels []string, prompts []Example, questions []Question, weight float64) []point {
	points := make([]point, 0, len(prompts)+len(questions))
	for _, p := range prompts {
		points = append(points, p.point(len(labels)))
	}
	each := weight * float64(len(prompts)) / float64(len(questions))
	for _, q := range questions {
		points = append(points, q.point(each))
	}
	return points
}

// decision is whom a probe sends a question to.
type decision struct {
	// sure is how likely the most likely label is, and right whether its expert answers right.
	sure  float64
	right bool
	// answered says whether who answers in the end is right: the base, where no label is likely
	// enough.
	answered bool
}

type decisions []decision

// decide is what becomes of a question by these probabilities of the labels.
func (p *Probe) decide(q Question, probabilities []float64) decision {
	best := argmax(probabilities)
	d := decision{sure: probabilities[best], right: q.Right[best], answered: q.Right[best]}
	if d.sure < p.Manifest.Least && !slices.Contains(p.Manifest.Labels, contract.OthersLabel) {
		d.answered = q.Base
	}
	return d
}

// answer decides about questions that the probe was not fitted to.
func (p *Probe) answer(questions []Question) (decisions, error) {
	var all decisions
	for _, q := range questions {
		probabilities, err := p.Probabilities(q.State)
		if err != nil {
			return nil, err
		}
		all = append(all, p.decide(q, probabilities))
	}
	return all, nil
}

// score says how often decisions are right, and whether they are as often as they are sure.
func (d decisions) score() contract.LessonScore {
	var s contract.LessonScore
	if len(d) == 0 {
		return s
	}
	var c calibration
	for _, one := range d {
		c.add(one.sure, one.right)
		if one.answered {
			s.Right += 1 / float64(len(d))
		}
	}
	s.CalibrationError = c.err()
	return s
}

// better reports whether more are right than of others about the same questions, by more than
// the standard deviation of what chance would make of those in which they differ.
func (d decisions) better(than decisions) bool {
	won, lost := 0.0, 0.0
	for i := range d {
		switch {
		case d[i].answered && !than[i].answered:
			won++
		case !d[i].answered && than[i].answered:
			lost++
		}
	}
	return won-lost > math.Sqrt(won+lost)
}
