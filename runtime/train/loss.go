package train

import (
	"context"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// episode is one answer of a batch and what it earned.
type episode struct {
	tokens []int32 // prompt and answer
	prompt int     // number of the prompt's tokens
	// advantage is r − b: the reward, less the baseline.
	advantage float64
}

// sequence asks for the logits that predict the answer.
func (e episode) sequence() model.Sequence {
	return model.Sequence{Tokens: e.tokens, From: e.prompt - 1}
}

// loss is what trains an expert (section 3.2 of the paper), for a batch of answers ŷ to
// prompts x:
//
//	L = 1/over · Σ [ −(r − b)·log π'(ŷ|x) + λ·KL(π'‖π) ]
//
// log π'(ŷ|x) is the sum over the answer's tokens, the one that ended it
// included. KL(π'‖π) is exact: at each position of the answer it is summed over
// the vocabulary, π being the base model's distribution there, and positions
// are summed as in the paper's reference implementation. That implementation
// computes the divergence the other way round, KL(π‖π'); the formula of the
// paper is the one computed here. Both have the same second-order behaviour
// near π' = π.
//
// With r − b = 1 and answers that are given it is the mean negative log-likelihood of
// those: what NextToken minimises.
type loss struct {
	// reader reads the prompts where the expert acts on answers alone; nil otherwise.
	reader   *model.Model
	klWeight float64
	over     int // The number of answers, or of their tokens.
}

// sums are what a batch adds up to; they are divided by the caller.
type sums struct {
	loss   float64 // Before it is divided
	kl     float64 // Σ over answer tokens
	tokens int     // answer tokens
}

// positions lists the answers' positions of the episodes in order.
func positions(episodes []episode) []backend.Position {
	var out []backend.Position
	for _, e := range episodes {
		for _, token := range e.tokens[e.prompt:] {
			out = append(out, backend.Position{Token: token, Advantage: e.advantage})
		}
	}
	return out
}

// total adds up the losses of positions, in order.
func (o loss) total(at []backend.Position, losses []backend.Loss) sums {
	s := sums{tokens: len(losses)}
	for i, l := range losses {
		s.loss += -at[i].Advantage*l.LogProb + o.klWeight*l.KL
		s.kl += l.KL
	}
	return s
}

// gradients computes the loss of a batch and its gradient with respect to what adapts
// every matrix.
// Where λ is 0, base may be nil, and then the sum kl is 0.
// Episodes are taken through the model a few at a time, as many as budget
// tokens allow, which bounds memory and changes nothing else.
func (o loss) gradients(ctx context.Context, adapted, base *model.Model, episodes []episode, budget int) (map[string]model.Parameters, sums, error) {
	total := map[string]*wide{}
	var all sums
	for first := 0; first < len(episodes); {
		last, tokens := first, 0
		for last < len(episodes) && (last == first || tokens+len(episodes[last].tokens) <= budget) {
			tokens += len(episodes[last].tokens)
			last++
		}
		part, s, err := o.microbatch(ctx, adapted, base, episodes[first:last])
		if err != nil {
			return nil, sums{}, err
		}
		for name, d := range part {
			if total[name] == nil {
				total[name] = &wide{}
			}
			total[name].add(d)
		}
		all = sums{loss: all.loss + s.loss, kl: all.kl + s.kl, tokens: all.tokens + s.tokens}
		first = last
	}
	rounded := make(map[string]model.Parameters, len(total))
	for name, d := range total {
		rounded[name] = d.rounded()
	}
	return rounded, all, nil
}

// wide are gradients of parts of a batch, added up in float64.
type wide [6][]float64

func (w *wide) add(d model.Parameters) {
	for i, part := range [...][]float32{d.S, d.A, d.B, d.In, d.Out, d.Bias} {
		if w[i] == nil && part != nil {
			w[i] = make([]float64, len(part))
		}
		for j, x := range part {
			w[i][j] += float64(x)
		}
	}
}

func (w *wide) rounded() (d model.Parameters) {
	for i, part := range [...]*[]float32{&d.S, &d.A, &d.B, &d.In, &d.Out, &d.Bias} {
		if w[i] == nil {
			continue
		}
		*part = make([]float32, len(w[i]))
		for j, x := range w[i] {
			(*part)[j] = float32(x)
		}
	}
	return d
}

func (o loss) microbatch(ctx context.Context, adapted, base *model.Model, episodes []episode) (map[string]model.Parameters, sums, error) {
	sequences := make([]model.Sequence, len(episodes))
	for i, e := range episodes {
		sequences[i] = e.sequence()
	}
	var pi *model.Tape
	if base != nil {
		var err error
		if pi, err = base.Forward(ctx, sequences); err != nil {
			return nil, sums{}, fmt.Errorf("base model: %w", err)
		}
		defer pi.Release()
	}
	tape, err := o.forward(ctx, adapted, sequences)
	if err != nil {
		return nil, sums{}, err
	}
	at := positions(episodes)
	losses, err := tape.PolicyGradient(pi, at, o.klWeight, 1/float64(o.over))
	if err != nil {
		tape.Release()
		return nil, sums{}, err
	}
	d, err := adapted.Backward(ctx, tape)
	return d, o.total(at, losses), err
}

// forward takes sequences through what is trained.
func (o loss) forward(ctx context.Context, adapted *model.Model, sequences []model.Sequence) (*model.Tape, error) {
	if o.reader != nil {
		return adapted.ForwardAnswers(ctx, o.reader, sequences)
	}
	return adapted.Forward(ctx, sequences)
}
