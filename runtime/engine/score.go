package engine

import (
	"context"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// ScoreRequest asks how likely a prompt is followed by each of some labels.
type ScoreRequest struct {
	Mixture Mixture
	Prompt  []int32
	// Labels are token sequences of at least one token.
	Labels [][]int32
	// Salt is as in Request.
	Salt string
}

// Score returns for each label Σᵢ log p(labelᵢ | prompt, label₍<ᵢ₎). The prompt
// is read once, and of a prompt that begins like one of the last only the rest;
// the labels are computed side by side, with the end of the prompt.
func (e *Engine) Score(ctx context.Context, r ScoreRequest) ([]float64, error) {
	longest := 0
	for i, label := range r.Labels {
		if len(label) == 0 {
			return nil, fmt.Errorf("label %d has no tokens", i)
		}
		if err := e.checkTokens("a label", label); err != nil {
			return nil, fmt.Errorf("label %d: %w", i, err)
		}
		longest = max(longest, len(label))
	}
	if longest == 0 {
		return nil, nil
	}
	if err := e.checkPrompt(r.Prompt, longest, scoreDemand(len(r.Prompt), r.Labels)); err != nil {
		return nil, err
	}
	j, err := e.weights.job(ctx, r.Mixture, r.Salt, true, r.Prompt)
	if err != nil {
		return nil, err
	}
	s := &scoring{
		labels: r.Labels, scores: make([]float64, len(r.Labels)), done: make(chan error, 1),
	}
	if err := e.await(ctx, j, s, s.done); err != nil {
		return nil, err
	}
	return s.scores, nil
}

// await hands a job with its work to the loop and waits for its end, which done tells.
// What the work has found is the caller's if there is no error.
func (e *Engine) await(ctx context.Context, j *job, w work, done <-chan error) error {
	j.ctx, j.work = ctx, w
	if err := e.enqueue(j); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// silent is work of which nobody hears before its end, and whose sequence is its prompt.
type silent struct{}

func (silent) admitted() {}

func (silent) found(int) {}

func (silent) sequence(j *job) []int32 { return j.prompt }

// scoring is the work of a ScoreRequest. The scores belong to the loop until
// done has a value.
type scoring struct {
	silent
	labels [][]int32
	scores []float64
	done   chan error

	prompted bool // The prompt's row has been taken.
	next     int  // Labels before it are finished or in wave.
	wave     []int
}

func (*scoring) lane() lane { return questioning }

func (s *scoring) demand(prompt int) demand { return scoreDemand(prompt, s.labels) }

// restart forgets the labels that were scored: their likelihoods are summed anew.
func (s *scoring) restart() {
	s.prompted, s.next, s.wave = false, 0, nil
	clear(s.scores)
}

// forks takes forks for as many labels as are reserved for the job, and as
// there are left in this step. The last token of a label predicts nothing that is
// asked for, so a label of one token needs no fork at all. The first labels are read
// with the prompt's last tokens: by themselves they would take nearly half as long as
// a short question.
func (s *scoring) forks(j *job, l *loop) []model.Fork {
	var out []model.Fork
	s.wave = s.wave[:0]
	for ; s.next < len(s.labels); s.next++ {
		label := s.labels[s.next]
		if len(label) == 1 {
			continue
		}
		rows := len(label) - 1
		if len(out) == j.forks || len(l.forks) == l.slots.forks || l.labelRows > 0 && l.labelRows+rows > l.slots.labelRows {
			break
		}
		l.labelRows += rows
		out = append(out, model.Fork{Seq: l.slots.fork(len(l.forks)), Tokens: label[:rows]})
		l.forks = append(l.forks, j)
		s.wave = append(s.wave, s.next)
	}
	return out
}

// segments forks the prompt for the labels that are left.
func (s *scoring) segments(j *job, l *loop) ([]model.Segment, error) {
	var out []model.Segment
	for _, f := range s.forks(j, l) {
		if err := l.cache.CopyPrefix(f.Seq, j.slot, len(j.prompt)); err != nil {
			return nil, err
		}
		out = append(out, model.Segment{Seq: f.Seq, Tokens: f.Tokens, AllLogits: true})
	}
	return out, nil
}

// asks wants to know of the prompt's row how likely the labels' first tokens are, and of
// each row of a label the next one.
func (s *scoring) asks() []backend.Ask {
	var all []backend.Ask
	row := 0
	if !s.prompted {
		first := make([]int32, len(s.labels))
		for i, label := range s.labels {
			first[i] = label[0]
		}
		all = append(all, backend.Ask{Row: row, Scores: first})
		row++
	}
	for _, i := range s.wave {
		for j := range s.labels[i][1:] {
			all = append(all, backend.Ask{Row: row, Scores: s.labels[i][j+1:][:1]})
			row++
		}
	}
	return all
}

func (s *scoring) take(answers []backend.Answer) (done bool, err error) {
	for _, a := range answers {
		if a.Err != nil {
			return false, a.Err
		}
	}
	if !s.prompted {
		s.prompted = true
		copy(s.scores, answers[0].Scores)
		answers = answers[1:]
	}
	for _, i := range s.wave {
		for range s.labels[i][1:] {
			s.scores[i] += answers[0].Scores[0]
			answers = answers[1:]
		}
	}
	return s.next == len(s.labels), nil
}

func (s *scoring) end(err error) { s.done <- err }
