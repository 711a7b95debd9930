//go:build cuda

package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
	"github.com/transformersquared/operator/runtime/sample"
)

// Decide implements backend.HeadOps. Questions go up, and answers come down, in one
// transfer each; rows that are asked for come with them, and it waits once for all.
func (b *Backend) Decide(logits backend.Buffer, n int, asks []backend.Ask) ([]backend.Answer, error) {
	const op = "decide"
	c, err := check.Columns(op, length(logits), n)
	if err != nil {
		return nil, err
	}
	args, err := operands(op, operand{"logits", logits, n * c})
	if err != nil {
		return nil, err
	}
	if err := check.Asks(op, asks, n, c); err != nil {
		return nil, err
	}
	answers := make([]backend.Answer, len(asks))
	if len(asks) == 0 {
		return answers, b.Sync()
	}
	var rows []piece
	for i, ask := range asks {
		if ask.Logits {
			answers[i].Logits = make([]float32, c)
			rows = append(rows, pieceOf(answers[i].Logits, args[0].start+address(backend.F32.Bytes(1, ask.Row*c))))
		}
	}
	encoded := encodeAsks(asks, c)
	out, err := b.decide(args[0].start, c, encoded, rows)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	for i, ask := range asks {
		out.answer(&answers[i], i, ask, encoded.scores[i])
	}
	return answers, nil
}

// The layout of a question in kernels/heads.cu.
const (
	askBytes = 96

	askInverse, askLowest, askTopP, askUniform, askRepetition = 0, 8, 16, 24, 32
	askRow, askMode, askTopK, askCopy                         = 40, 44, 48, 52
	askRepeated, askBias, askPenalties, askScored             = 56, 64, 72, 80
	askScores, askAllowed                                     = 88, 92

	modeNone, modeLikeliest, modeDrawn = 0, 1, 2
	noCopy, allAllowed                 = -1, -1
)

// encodedAsks are questions as the kernel reads them.
type encodedAsks struct {
	bytes  []byte
	count  int
	copies int   // Rows of logits that are changed first.
	scores []int // Where each question's log-probabilities go.
	total  int   // Of them.
}

func encodeAsks(asks []backend.Ask, vocabulary int) encodedAsks {
	e := encodedAsks{bytes: make([]byte, len(asks)*askBytes), count: len(asks), scores: make([]int, len(asks))}
	little := binary.LittleEndian
	const word = 4
	list := func(record, field, entries int, words ...[]int32) {
		little.PutUint32(e.bytes[record+field:], uint32(len(e.bytes)/word))
		little.PutUint32(e.bytes[record+field+word:], uint32(entries))
		for _, some := range words {
			for _, w := range some {
				e.bytes = little.AppendUint32(e.bytes, uint32(w))
			}
		}
	}
	for i, ask := range asks {
		at := i * askBytes
		float := func(field int, v float64) { little.PutUint64(e.bytes[at+field:], math.Float64bits(v)) }
		number := func(field, v int) { little.PutUint32(e.bytes[at+field:], uint32(int32(v))) }
		number(askRow, ask.Row)
		number(askMode, modeNone)
		number(askCopy, noCopy)
		number(askAllowed, allAllowed)
		float(askLowest, math.Inf(-1))
		if d := ask.Draw; d != nil {
			number(askMode, modeLikeliest)
			if d.Temperature > 0 {
				number(askMode, modeDrawn)
				float(askInverse, min(1/d.Temperature, math.MaxFloat32))
			}
			if d.MinP > 0 {
				float(askLowest, math.Log(d.MinP))
			}
			float(askTopP, d.TopP)
			float(askUniform, d.Uniform)
			float(askRepetition, d.RepetitionPenalty)
			number(askTopK, min(d.TopK, math.MaxInt32))
			if d.ChangesLogits() {
				number(askCopy, e.copies)
				e.copies++
			}
			if d.Allowed != nil {
				number(askAllowed, len(e.bytes)/word)
				e.bytes = appendBits(e.bytes, d.Allowed, (vocabulary+31)/32)
			}
			list(at, askRepeated, len(d.Repeated), d.Repeated)
			list(at, askBias, len(d.Bias), adjustments(d.Bias))
			list(at, askPenalties, len(d.Penalties), adjustments(d.Penalties))
		}
		list(at, askScored, len(ask.Scores), ask.Scores)
		number(askScores, e.total)
		e.scores[i] = e.total
		e.total += len(ask.Scores)
	}
	return e
}

// appendBits appends so many words of 32 bits; those that are not there have none.
func appendBits(to []byte, bits []uint64, words int) []byte {
	for i := range words {
		word := uint64(0)
		if i/2 < len(bits) {
			word = bits[i/2] >> (i % 2 * 32)
		}
		to = binary.LittleEndian.AppendUint32(to, uint32(word))
	}
	return to
}

// adjustments are tokens and the bits of what is added to their logits.
func adjustments(list []sample.Adjustment) []int32 {
	words := make([]int32, 0, 2*len(list))
	for _, a := range list {
		words = append(words, a.Token, int32(math.Float32bits(a.Add)))
	}
	return words
}

// decided is what the kernel answers: tokens and states, and log-probabilities.
type decided struct {
	numbers []int32
	scores  []float64
}

// decide asks the kernel, and copies its answers and some rows.
func (b *Backend) decide(logits address, vocabulary int, asks encodedAsks, rows []piece) (decided, error) {
	const numbers, number, float = 2, 4, 8
	down := int64(asks.count*numbers*number + asks.total*float)
	up, err := b.holdStep(int64(len(asks.bytes)))
	if err != nil {
		return decided{}, err
	}
	defer up.giver.give()
	answers, err := b.holdStep(down)
	if err != nil {
		return decided{}, err
	}
	defer answers.giver.give()
	work := address(0)
	if asks.copies > 0 {
		changed, err := b.allocStep(backend.F32, asks.copies*vocabulary)
		if err != nil {
			return decided{}, err
		}
		defer b.Free(changed)
		work = changed.start
	}
	if err := b.stage(up.at(), asks.bytes); err != nil {
		return decided{}, err
	}
	states, scores := answers.at()+address(asks.count*number), answers.at()+address(asks.count*numbers*number)
	if err := b.launch(b.kernelOf(opDecide, backend.F32), [3]int{asks.count, 1, 1}, 0, answers.at(), states, scores, logits, work, up.at(), whole(asks.count), whole(vocabulary)); err != nil {
		return decided{}, err
	}
	data := make([]byte, down)
	if err := b.toHost(append(rows, pieceOf(data, answers.at()))); err != nil {
		return decided{}, err
	}
	out := decided{numbers: make([]int32, numbers*asks.count), scores: make([]float64, asks.total)}
	for i := range out.numbers {
		out.numbers[i] = int32(binary.LittleEndian.Uint32(data[number*i:]))
	}
	for i := range out.scores {
		out.scores[i] = math.Float64frombits(binary.LittleEndian.Uint64(data[numbers*number*asks.count+float*i:]))
	}
	return out, nil
}

// answer files what was answered to the i-th question.
func (d *decided) answer(a *backend.Answer, i int, ask backend.Ask, at int) {
	count := len(d.numbers) / 2
	switch status := d.numbers[count+i]; {
	case ask.Draw == nil && len(ask.Scores) == 0:
		return
	case status == 1:
		a.Err = fmt.Errorf("%w: a token has NaN", sample.ErrNotFinite)
		return
	case status != 0:
		a.Err = fmt.Errorf("%w: the largest is infinite", sample.ErrNotFinite)
		return
	}
	a.Token = d.numbers[i]
	if len(ask.Scores) > 0 {
		a.Scores = d.scores[at : at+len(ask.Scores) : at+len(ask.Scores)]
	}
}

// PolicyGradient implements backend.HeadOps.
func (b *Backend) PolicyGradient(logits, base backend.Buffer, positions []backend.Position, klWeight, scale float64) ([]backend.Loss, error) {
	const op, number, float, numbers = "policy gradient", 4, 8, 2
	n := len(positions)
	c, err := check.Columns(op, length(logits), n)
	if err != nil {
		return nil, err
	}
	args, err := operands(op, operand{"logits", logits, n * c})
	if err != nil {
		return nil, err
	}
	pi := address(0)
	if base != nil {
		own, err := operands(op, operand{"base", base, n * c})
		if err != nil {
			return nil, err
		}
		pi = own[0].start
	}
	if err := check.Positions(op, positions, c, base != nil, klWeight); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, b.Sync()
	}
	// Advantages, then tokens; and room for the losses behind.
	up := make([]byte, 0, n*(float+number))
	for _, p := range positions {
		up = binary.LittleEndian.AppendUint64(up, math.Float64bits(p.Advantage))
	}
	for _, p := range positions {
		up = binary.LittleEndian.AppendUint32(up, uint32(p.Token))
	}
	in, err := b.holdStep(int64(len(up)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	defer in.giver.give()
	losses, err := b.holdStep(int64(n * numbers * float))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	defer losses.giver.give()
	if err := b.stage(in.at(), up); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	err = b.launch(b.kernelOf(opPolicyGradient, backend.F32), b.blocksOf(n, 1), 0, args[0].start, pi, in.at()+address(n*float), in.at(), losses.at(), whole(n), whole(c), double(klWeight), double(scale))
	if err != nil {
		return nil, err
	}
	down := make([]float64, n*numbers)
	if err := download(b, down, losses.at()); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	out := make([]backend.Loss, n)
	for i := range out {
		out[i] = backend.Loss{LogProb: down[numbers*i], KL: down[numbers*i+1]}
	}
	return out, nil
}
