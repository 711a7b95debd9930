package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// leastSeeds are those of the comparison of activations, however few all else has: what it
// asks is smaller than what one seed says.
const leastSeeds = 3

// acting is one way to serve experts, in the table of activations.
type acting struct {
	name       string
	activation string // What they are trained for.
	served     string // What they are served as, if it is something else.
}

// actings in the order of the rows; the second is compared with the first.
var actings = []acting{
	{name: "Prompt", activation: ""},
	{name: "Answer", activation: contract.ActivationAnswer},
	{name: "Prompt, served as Answer", activation: "", served: contract.ActivationAnswer},
}

// answers is the table of experts that act on answers alone.
func (m *measurement) answers(p *plan) []table {
	m = &measurement{lab: m.lab, seeds: slices.Clone(m.seeds)}
	for len(m.seeds) < leastSeeds {
		m.seeds = append(m.seeds, uint64(len(m.seeds))+1)
	}
	t := table{
		title: "Experts that act on the answer", unseeded: true,
		head: skillHead("base", "set", "objective", "activation"),
		before: fmt.Sprintf("Right answers in percent of SVF experts that act on all of a request, as the paper's do (Prompt), and of those that act from its last token on, "+
			"behind a prompt that the base has read (Answer); means of %d seeds, and their standard errors (those of a base alone are binomial). The difference is that of "+
			"each seed's two experts, with the standard error of its mean. What other questions would change no error says. \"Prompt, served as Answer\" are the Prompt experts, behind a prompt that the base has read.\n\n"+
			"The long sets are the transfer sets with questions of the other skills and their answers in front, %d to %d times as long as the question in all. "+
			"Base a has seen nothing of the kind; base long is a, trained on with such prompts in its corpus. Experts are trained with short ones on either.",
			len(m.seeds), stretch/2, stretch),
	}
	var verdicts []string
	for _, of := range []struct {
		base, split string
		objectives  []string
	}{
		{expertBase, splitTest, objectives},
		{expertBase, splitTransfer, objectives},
		{expertBase, splitLong, objectives[:1]},
		{longBase, splitTransfer, objectives[:1]},
		{longBase, splitLong, objectives[:1]},
	} {
		if _, made := m.lab.bases[of.base]; !made {
			continue
		}
		t.row(append([]string{of.base, of.split, "", "none"}, scores(perSkill(func(k skill) estimate { return m.ofBase(p, of.base, k, of.split) }))...)...)
		for _, objective := range of.objectives {
			verdicts = append(verdicts, m.compareActings(p, &t, of.base, of.split, objective))
		}
	}
	t.after = strings.Join(slices.DeleteFunc(verdicts, func(text string) bool { return text == "" }), "\n\n")
	return []table{t}
}

// compareActings adds the rows of one objective and set, and says what they show.
func (m *measurement) compareActings(p *plan, t *table, base, split, objective string) string {
	var all [][][]score // By acting, skill and seed.
	for _, way := range actings {
		r := recipe{base: base, method: contract.MethodSVF, objective: objective, activation: way.activation}
		var change func(*exam)
		if way.served != "" {
			change = func(e *exam) { e.Acting = way.served }
		}
		var of [][]score
		var values []estimate
		for _, r.skill = range skills {
			got := m.scores(func(seed uint64) (answered, bool) { return m.taken(p, r, split, seed, change) })
			of = append(of, got)
			values = append(values, estimated(got, len(m.seeds)))
		}
		all = append(all, of)
		t.row(append([]string{base, split, objective, way.name}, scores(values)...)...)
	}
	var gaps []estimate
	for i := range skills {
		gaps = append(gaps, difference(all[1][i], all[0][i], len(m.seeds)))
	}
	t.row(append([]string{base, split, objective, "Answer − Prompt"}, signed(gaps)...)...)
	when := fmt.Sprintf("On base %s, %s sets, with %s", base, split, objective)
	if most, ok := best(all[:2]); ok && most < hopeless {
		return when + ", nothing is decided: no expert of either kind answers a hundredth of the questions."
	}
	return verdict(when, gaps)
}

// hopeless is a share of right answers below which no kind of expert is better than another.
const hopeless = 0.01

// best is the largest share of right answers in any of these scores, by acting, skill and
// seed.
func best(all [][][]score) (most float64, ok bool) {
	for _, of := range all {
		for _, seeds := range of {
			for _, s := range seeds {
				most, ok = max(most, s.share()), true
			}
		}
	}
	return most, ok
}

// taken is what the expert of a recipe and a seed makes of a split.
func (m *measurement) taken(p *plan, r recipe, split string, seed uint64, change func(*exam)) (answered, bool) {
	r.seed = seed
	t, ok := m.expert(p, r)
	if !ok {
		return answered{}, false
	}
	name := r.name() + "-" + split
	if change != nil {
		name += "-changed"
	}
	return ask(p, m.lab.answering(name, r.base, alone(t.Digest), m.lab.set(r.skill, split), change))
}

// difference is the mean of what each seed's a has more than its b, with its standard
// error; unknown if a seed is missing or there is one alone.
func difference(a, b []score, seeds int) estimate {
	if len(a) < seeds || len(b) < seeds || seeds < 2 {
		return estimate{}
	}
	var values []float64
	for i := range min(seeds, len(a), len(b)) {
		values = append(values, a[i].share()-b[i].share())
	}
	mean, err := meanAndError(values)
	return estimate{mean: mean, err: err, known: true}
}

// signed are a row's cells of differences, and their mean.
func signed(of []estimate) []string {
	var cells []string
	for _, e := range append(slices.Clip(of), average(of...)) {
		text := e.String()
		if e.known && e.mean >= 0 {
			text = "+" + text
		}
		cells = append(cells, text)
	}
	return cells
}

// verdict says on how many skills Answer is no worse than a standard error of the
// difference, and by how much it loses on the others.
func verdict(when string, gaps []estimate) string {
	var lost []string
	known := 0
	for i, gap := range gaps {
		if !gap.known {
			continue
		}
		known++
		if -gap.mean > gap.err {
			lost = append(lost, fmt.Sprintf("%s by %.1f points (± %.1f)", skills[i].name, math.Abs(100*gap.mean), 100*gap.err))
		}
	}
	if known == 0 {
		return ""
	}
	text := fmt.Sprintf("%s, Answer is no worse than one standard error on %d of %d skills", when, known-len(lost), known)
	if len(lost) > 0 {
		text += "; it loses on " + strings.Join(lost, ", ")
	}
	return text + "."
}
