package main

import (
	stdcontext "context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// What is served: so many clients, each of which asks anew as soon as it has its answer, of
// experts that are computed unmerged. Prompts begin with one of a few system prompts.
const (
	clients        = 32
	servedRequests = 96
	servedAnswer   = 200 // At most.
	servedUser     = 512 // Tokens of the user's, at most, and of a system prompt.
	tailTokens     = 12  // Of pass 1's prompt behind the question.
)

// picked is how one way to choose experts went, one figure a round.
type picked struct {
	Shape, DType, How string
	// Requests a second of the clock, and Processor seconds of each request.
	Requests, Processor []float64
	// FirstP50 and FirstP99 are times to the first token in seconds; WorkP50 and WorkP99
	// are the same in tokens that the engine computed meanwhile, and StepsP99 in steps, which
	// other programs on the machine do not change.
	FirstP50, FirstP99, WorkP50, WorkP99, StepsP50, StepsP99 []float64
	// Tokens and Batches are what was computed for each request.
	Tokens, Batches []float64
}

// choosing measures the engine under load: experts that pass 1 chooses, beside pinned ones.
func choosing(ctx stdcontext.Context, o options, s shape, r *report) error {
	return eachDType(ctx, o, s, r, func(subject *subject, dtype string) error {
		return choosingOf(ctx, o, s, subject, dtype, r)
	})
}

func choosingOf(ctx stdcontext.Context, o options, s shape, subject *subject, dtype string, r *report) error {
	e, err := engine.New(ctx, engine.Options{Base: subject.model, ContextLength: context, MaxBatch: o.maxBatch, Factors: madeUpFactors(subject.model)})
	if err != nil {
		return err
	}
	defer e.Close()
	mixtures, err := madeUpExperts(subject.model, servedExperts)
	if err != nil {
		return err
	}
	set := engine.Set{Mixtures: mixtures}
	if err := e.Prepare(ctx, set); err != nil {
		return err
	}
	e.Retain(set)
	pinned, choosing := &picked{Shape: s.Name, DType: dtype, How: "pinned"}, &picked{Shape: s.Name, DType: dtype, How: "chosen by pass 1"}
	r.Picked = append(r.Picked, pinned, choosing)
	for round := range o.rounds + 1 { // The first warms up, and brings what prompts begin with into the cache.
		for i, into := range []*picked{pinned, choosing} {
			fmt.Fprintf(os.Stderr, "%s %s %s: round %d of %d\n", s.Name, dtype, into.How, round, o.rounds)
			l := &crowd{engine: e, mixtures: mixtures, vocabulary: s.Vocab, chooses: into == choosing, texts: uint64(2*round + i), lengths: uint64(round)}
			if err := l.run(ctx); err != nil {
				return err
			}
			if round > 0 {
				l.tell(into)
			}
		}
	}
	return nil
}

// crowd is the load of a round.
type crowd struct {
	engine         *engine.Engine
	mixtures       []engine.Mixture
	vocabulary     int
	chooses        bool
	texts, lengths uint64 // Rounds with equal lengths are as much work; those with equal texts would find them cached.

	mu                 sync.Mutex
	first, work, steps []float64
	seconds, processor float64
	computed, batches  int64
}

func (l *crowd) run(ctx stdcontext.Context) error {
	before, busy, begun := l.engine.Stats(), processorSeconds(), time.Now()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range clients {
		group.Go(func() error {
			for {
				i := next.Add(1) - 1
				if i >= servedRequests {
					return nil
				}
				if err := l.ask(ctx, uint64(i)); err != nil {
					return err
				}
			}
		})
	}
	err := group.Wait()
	l.seconds, l.processor = time.Since(begun).Seconds(), processorSeconds()-busy
	after := l.engine.Stats()
	l.computed, l.batches = work(after)-work(before), after.Merged.Batches+after.Unmerged.Batches-before.Merged.Batches-before.Unmerged.Batches
	return err
}

// work is how many tokens an engine has computed.
func work(s engine.Stats) int64 { return s.Merged.Tokens + s.Unmerged.Tokens }

// ask asks the i-th request of a round, as the server does.
func (l *crowd) ask(ctx stdcontext.Context, i uint64) error {
	lengths := rand.New(rand.NewPCG(l.lengths, i)) //nolint:gosec // The same each time.
	texts := rand.New(rand.NewPCG(1+l.texts, i))   //nolint:gosec // As above.
	text := func(n int) []int32 {
		out := make([]int32, n)
		for k := range out {
			out[k] = int32(texts.IntN(l.vocabulary))
		}
		return out
	}
	system := servedUser >> lengths.IntN(4)
	user := text(servedUser>>4<<lengths.IntN(4) + lengths.IntN(servedUser>>1))
	answer := 1 + lengths.IntN(servedAnswer)
	begun, before := time.Now(), l.engine.Stats()
	ctx, leave, err := l.engine.Admit(ctx, 1)
	if err != nil {
		return err
	}
	defer leave()
	if l.chooses {
		prompt := slices.Concat(tokens(instructionTokens, 7, l.vocabulary), user[max(0, len(user)-contract.DefaultRequestTokens):], tokens(tailTokens, 5, l.vocabulary))
		request := engine.ScoreRequest{Prompt: prompt}
		for k := range servedExperts + 1 {
			request.Labels = append(request.Labels, tokens(2+k%2, 100*k, l.vocabulary))
		}
		if _, err := l.engine.Score(ctx, request); err != nil {
			return err
		}
	}
	told := false
	_, err = l.engine.Generate(ctx, engine.Request{
		Mixture: l.mixtures[i%uint64(len(l.mixtures))], Prompt: slices.Concat(tokens(system, system, l.vocabulary), user),
		MaxTokens: answer, Logprobs: -1,
	}, func(engine.Delta) error {
		if !told {
			told = true
			now := l.engine.Stats()
			l.mu.Lock()
			defer l.mu.Unlock()
			l.first = append(l.first, time.Since(begun).Seconds())
			l.work = append(l.work, float64(work(now)-work(before)))
			l.steps = append(l.steps, float64(now.Steps-before.Steps))
		}
		return nil
	})
	return err
}

// tell adds a round's figures.
func (l *crowd) tell(into *picked) {
	at := func(v []float64, share float64) float64 {
		slices.Sort(v)
		return v[int(share*float64(len(v)-1)+0.5)]
	}
	const p50, p99 = 0.5, 0.99
	add := func(to *[]float64, v float64) { *to = append(*to, v) }
	add(&into.Requests, servedRequests/l.seconds)
	add(&into.Processor, l.processor/servedRequests)
	add(&into.FirstP50, at(l.first, p50))
	add(&into.FirstP99, at(l.first, p99))
	add(&into.WorkP50, at(l.work, p50))
	add(&into.WorkP99, at(l.work, p99))
	add(&into.StepsP50, at(l.steps, p50))
	add(&into.StepsP99, at(l.steps, p99))
	add(&into.Tokens, float64(l.computed)/servedRequests)
	add(&into.Batches, float64(l.batches)/servedRequests)
}

// madeUpFactors are factors of every matrix, at full rank, of no meaning.
func madeUpFactors(m *model.Model) engine.Factors {
	shapes, names := map[string]model.LinearInfo{}, []string{}
	for _, info := range m.Linears() {
		shapes[info.Name] = info
		names = append(names, info.Name)
	}
	rank := func(name string) int { return min(shapes[name].Out, shapes[name].In) }
	return engine.Factors{Matrices: names, Rank: rank, Attach: func(_ stdcontext.Context, m *model.Model, matrices []string) (*model.Model, error) {
		for _, name := range matrices {
			info, r := shapes[name], rank(name)
			f := model.Factors{
				U:  &tensor.Tensor{Shape: []int{info.Out, r}, Data: matrix{rows: info.Out, cols: r}.values()},
				Vt: &tensor.Tensor{Shape: []int{r, info.In}, Data: matrix{rows: r, cols: info.In}.values()},
				S:  ones(r),
			}
			var err error
			if m, err = m.WithFactors(map[string]model.Factors{name: f}); err != nil {
				return nil, err
			}
		}
		return m, nil
	}}
}

// madeUpExperts scale every matrix, each by a number of its own.
func madeUpExperts(m *model.Model, n int) ([]engine.Mixture, error) {
	mixtures := make([]engine.Mixture, n)
	for i := range mixtures {
		a := expert.Adapter{Manifest: contract.ExpertManifest{Digest: fmt.Sprintf("made-up-%d", i)}, Z: map[string][]float32{}}
		for _, info := range m.Linears() {
			z := ones(min(info.Out, info.In))
			for k := range z {
				z[k] += float32(i) / 100
			}
			a.Z[info.Name] = z
		}
		var err error
		if mixtures[i], err = engine.NewMixture(expert.Weighted{Adapter: a, Alpha: 1}); err != nil {
			return nil, err
		}
	}
	return mixtures, nil
}

func ones(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// pickedTable has a line for each way, and their ratios.
func pickedTable(all []*picked) string {
	var b strings.Builder
	b.WriteString("| shape | dtype | experts | requests/s | processor, s a request | first token p50, p99, s | in tokens computed | in steps | tokens, batches a request |\n|---|---|---|---|---|---|---|---|---|\n")
	for i, s := range all {
		fmt.Fprintf(&b, "| %s | %s | %s | %.2f | %.2f | %.2f, %.2f | %.0f, %.0f | %.0f, %.0f | %.0f, %.2f |\n", s.Shape, s.DType, s.How,
			median(s.Requests), median(s.Processor), median(s.FirstP50), median(s.FirstP99), median(s.WorkP50), median(s.WorkP99),
			median(s.StepsP50), median(s.StepsP99), median(s.Tokens), median(s.Batches))
		if i%2 == 0 {
			continue
		}
		of := func(get func(*picked) []float64) float64 {
			var ratios []float64
			for k, v := range get(s) {
				ratios = append(ratios, v/get(all[i-1])[k])
			}
			return median(ratios)
		}
		fmt.Fprintf(&b, "| | | ratio | %.2f | %.2f | %.2f, %.2f | %.2f, %.2f | %.2f, %.2f | %.2f, %.2f |\n",
			of(func(s *picked) []float64 { return s.Requests }), of(func(s *picked) []float64 { return s.Processor }),
			of(func(s *picked) []float64 { return s.FirstP50 }), of(func(s *picked) []float64 { return s.FirstP99 }),
			of(func(s *picked) []float64 { return s.WorkP50 }), of(func(s *picked) []float64 { return s.WorkP99 }),
			of(func(s *picked) []float64 { return s.StepsP50 }), of(func(s *picked) []float64 { return s.StepsP99 }),
			of(func(s *picked) []float64 { return s.Tokens }), of(func(s *picked) []float64 { return s.Batches }))
	}
	return b.String()
}
