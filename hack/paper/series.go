package main

import (
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// lengths of answers that both passes are timed with, in tokens.
var lengths = []int{1, 8, 32, 128, 256}

// passes is table 3: what pass 1 costs.
func (m *measurement) passes(p *plan) []table {
	return []table{m.bothPasses(p), m.choosing(p)}
}

// choosing is what it costs to choose, beside the same requests with their expert pinned.
func (m *measurement) choosing(p *plan) table {
	t := table{
		title: "Time to choose", unseeded: true,
		head: []string{"experts", "strategy", "questions", "prompt, tokens each", "answer, tokens each", "chosen, ms each", "pinned, ms each", "chosen / pinned"},
		before: fmt.Sprintf("Questions of math with the expert that the strategy chooses, and with the same one, pinned by the request: %d questions one after another, the two "+
			"ways in turns, of each question the median of %d rounds. The long set is that of the table of activations. Probe is the one without others.", timedQuestions, pairedRounds),
	}
	for _, way := range []struct {
		recipe
		strategy string
	}{{onAnswers(contract.ObjectiveReinforce), contract.StrategyProbe}, {svf, contract.StrategyProbe}, {svf, contract.StrategyPrompt}} {
		digests, ok := m.experts(p, way.recipe, m.seeds[0])
		set := m.lab.expertSet(way.strategy, digests)
		ok = ok && m.withProbe(p, &set)
		for _, split := range []string{splitTransfer, splitLong} {
			for _, tokens := range []int{1, 32} {
				label := []string{way.label(), way.strategy, skills[0].name + ", " + split}
				if !ok {
					t.row(label...)
					continue
				}
				c, measured := ask(p, m.lab.choosingTime(expertBase, set, skills[0], split, tokens))
				if !measured {
					t.row(append(label, "–", "–", "–", "–", "–")...)
					continue
				}
				n := float64(c.Questions)
				const thousand = 1000
				t.row(append(label, fmt.Sprintf("%.0f", float64(c.Prompt)/n), fmt.Sprintf("%.0f", float64(c.Tokens)/n),
					fmt.Sprintf("%.2f", thousand*c.Chosen/n), fmt.Sprintf("%.2f", thousand*c.Pinned/n), fmt.Sprintf("%.2f", c.Chosen/c.Pinned))...)
			}
		}
	}
	t.after = "Behind Answer experts the base's reading of the prompt, by which Probe chooses, is the request's own; Prompt experts read the prompt once more. " +
		"What is left then is a request's way to the engine and back, once more, which counts beside a model of 0.9 million parameters."
	return t
}

// bothPasses is the table of the paper.
func (m *measurement) bothPasses(p *plan) table {
	t := table{
		title: "Time of both passes", unseeded: true,
		head: []string{"questions", "answer, tokens each", "pass 1, ms each", "pass 2, ms each", "pass 1 / pass 2", "pass 1 / whole"},
		before: fmt.Sprintf("Strategy Prompt with three SVF experts, %d questions one after another on this machine, the median of %d rounds. "+
			"The first rows end answers where the model ends them, as the paper's table does; the others let each have the given length. Whatever else the machine did shows in the times.", timedQuestions, timedRounds),
	}
	digests, ok := m.experts(p, svf, m.seeds[0])
	if !ok {
		return t
	}
	set := m.lab.expertSet(contract.StrategyPrompt, digests)
	row := func(k skill, split string, tokens int, label string) {
		x, ok := ask(p, m.lab.timing(expertBase, set, m.lab.set(k, split), tokens))
		if !ok {
			t.row(label, "–", "–", "–", "–", "–")
			return
		}
		n := float64(x.Questions)
		const thousand = 1000
		t.row(label, fmt.Sprintf("%.1f", float64(x.Tokens)/n), fmt.Sprintf("%.2f", thousand*x.First/n), fmt.Sprintf("%.2f", thousand*x.Second/n),
			fmt.Sprintf("%.0f %%", 100*x.First/x.Second), fmt.Sprintf("%.0f %%", 100*x.First/(x.First+x.Second)))
	}
	for _, k := range skills {
		row(k, splitTransfer, 0, k.name+", transfer")
	}
	for _, tokens := range lengths {
		row(skills[0], splitTransfer, tokens, "math, transfer")
	}
	t.after = noted("The paper has both times and their ratio for its three transfer sets. There pass 1 generates the category; here one " +
		"reading of the prompt compares the categories' likelihoods, and the beginning that all prompts share is read once.")
	return t
}

// What the few-shot tables vary.
var (
	generationsTried = []int{1, 3, 10, 20}
	shotsTried       = []int{3, 5, 10, 20}
)

// fewshot is table 4: generations, and examples.
func (m *measurement) fewshot(p *plan) []table {
	return []table{m.generations(p), m.shots(p)}
}

// searched is the score of a search's result on the transfer set of the examples' skill.
func (m *measurement) searched(p *plan, k skill, shots, generations int) estimate {
	return m.over(func(seed uint64) (answered, bool) {
		digests, ok := m.experts(p, svf, seed)
		if !ok {
			return answered{}, false
		}
		s := m.lab.search(expertBase, digests, k, shots, generations, seed)
		r, ok := ask(p, m.lab.searching(s, contract.MethodSVF+"-"+k.name))
		if !ok {
			return answered{}, false
		}
		name := fmt.Sprintf("%s-%s-%s-shots%d-generations%d", contract.MethodSVF, contract.StrategyFewShot, k.name, shots, generations)
		if shots == lightShots && generations == lightGenerations { // Which the table of strategies has, too.
			name = contract.MethodSVF + "-" + contract.StrategyFewShot + "-" + k.name
		}
		return ask(p, m.lab.answering(name, expertBase, m.lab.found(digests, r), m.lab.set(k, splitTransfer), nil))
	})
}

func (m *measurement) generations(p *plan) table {
	t := table{
		title:  "Generations of the search",
		head:   skillHead("generations"),
		before: fmt.Sprintf("Right answers in percent to the transfer sets with the weights that the cross-entropy method finds by %d examples: 32 mixtures in a generation.", lightShots),
	}
	c := chart{title: "Generations of the cross-entropy method", x: "generations"}
	lines := make([]series, len(skills))
	for i, k := range skills {
		lines[i].name = k.name
	}
	add := func(tick string, values []estimate) {
		t.row(append([]string{tick}, scores(values)...)...)
		c.ticks = append(c.ticks, tick)
		for i, v := range values {
			lines[i].values = append(lines[i].values, v)
		}
	}
	add("0 (uniform)", perSkill(func(k skill) estimate {
		return m.adapted(p, svf, contract.StrategyFixed, k)
	}))
	for _, g := range generationsTried {
		add(fmt.Sprint(g), perSkill(func(k skill) estimate { return m.searched(p, k, lightShots, g) }))
	}
	c.series = lines
	t.pictures = []picture{{"generations.svg", c}}
	t.after = m.weights(p) + "\n\n" + noted("Population, elite fraction and the choice by likelihood between equals are the paper's. What is mixed is z, as the paper says; "+
		"the released code mixes p before the sigmoid.")
	return t
}

// weights says what the light search has found, with the first seed.
func (m *measurement) weights(p *plan) string {
	digests, ok := m.experts(p, svf, m.seeds[0])
	if !ok {
		return ""
	}
	var found []string
	for _, k := range skills {
		r, ok := ask(p, m.lab.searching(m.lab.search(expertBase, digests, k, lightShots, lightGenerations, m.seeds[0]), contract.MethodSVF+"-"+k.name))
		if !ok {
			return ""
		}
		var of []string
		for i, w := range r.Weights {
			of = append(of, fmt.Sprintf("%s %.2f", skills[i].name, w.Weight))
		}
		found = append(found, fmt.Sprintf("for %s, %s (%d evaluations for %d candidates)", k.name, strings.Join(of, ", "), r.Evaluations, contract.DefaultFewShot().Population*r.Generations))
	}
	return fmt.Sprintf("Weights found in %d generations, the first seed: %s.", lightGenerations, strings.Join(found, "; "))
}

func (m *measurement) shots(p *plan) table {
	t := table{
		title: "Examples of the search, and IA3 on the same examples",
		head:  skillHead("examples", "method"),
		before: fmt.Sprintf("Right answers in percent to the transfer sets. FewShot: %d generations. IA3: trained on the same examples by next tokens, %d steps of all examples "+
			"at most, and chosen by its score on them, as the search's result is.", lightGenerations, fewIterations),
	}
	c := chart{title: "Examples against score, mean of the transfer sets", x: "examples"}
	lines := []series{{name: "FewShot"}, {name: "IA3", dashed: true}}
	base := perSkill(func(k skill) estimate { return m.ofBase(p, expertBase, k, splitTransfer) })
	t.row(append([]string{"0", "base"}, scores(base)...)...)
	c.ticks = append(c.ticks, "0")
	for i := range lines {
		lines[i].values = append(lines[i].values, average(base...))
	}
	var wins []named
	for _, n := range shotsTried {
		found := perSkill(func(k skill) estimate { return m.searched(p, k, n, lightGenerations) })
		tuned := perSkill(func(k skill) estimate {
			return m.of(p, recipe{base: expertBase, skill: k, method: contract.MethodIA3, objective: contract.ObjectiveNextToken, shots: n, iterations: fewIterations}, splitTransfer)
		})
		t.row(append([]string{fmt.Sprint(n), "FewShot (SVF)"}, scores(found)...)...)
		t.row(append([]string{fmt.Sprint(n), "IA3"}, scores(tuned)...)...)
		c.ticks = append(c.ticks, fmt.Sprint(n))
		lines[0].values = append(lines[0].values, average(found...))
		lines[1].values = append(lines[1].values, average(tuned...))
		if n == lightShots {
			wins = []named{{"SVF", found}, {"IA3", tuned}}
		}
	}
	c.series = lines
	t.pictures = []picture{{"shots.svg", c}}
	t.after = compared(fmt.Sprintf("By %d examples", lightShots), wins) + "\n\n" +
		noted("The comparison with IA3 is the one that the paper's reviewers asked for; its numbers of examples are the paper's, its steps are ours.")
	return t
}

// ablations is table 5.
func (m *measurement) ablations(p *plan) []table {
	t := table{
		title:  "Ablations",
		head:   skillHead("what", "of SVF"),
		before: "Right answers in percent to the test sets. The first row of each kind that says \"as above\" is that of SVF in the first table.",
	}
	common := recipe{base: expertBase, method: contract.MethodSVF, objective: contract.ObjectiveReinforce}
	row := func(kind, label string, r recipe) {
		values := perSkill(func(k skill) estimate {
			r.skill = k
			return m.of(p, r, splitTest)
		})
		t.row(append([]string{kind, label}, scores(values)...)...)
	}
	base := perSkill(func(k skill) estimate { return m.ofBase(p, expertBase, k, splitTest) })
	t.row(append([]string{"none", "base"}, scores(base)...)...)
	change := func(set func(*recipe)) recipe {
		r := common
		set(&r)
		return r
	}
	row("modules", "attention and MLP, as above", common)
	row("modules", "attention", change(func(r *recipe) { r.modules = attention }))
	row("modules", "MLP", change(func(r *recipe) { r.modules = mlp }))
	row("objective", "Reinforce, as above", common)
	row("objective", "NextToken, as above", change(func(r *recipe) { r.objective = contract.ObjectiveNextToken }))
	row("objective", "Evolution, all singular values", change(func(r *recipe) { r.objective = contract.ObjectiveEvolution }))
	for _, rank := range ranks {
		row("rank", fmt.Sprintf("Evolution, the first %d", rank), change(func(r *recipe) { r.objective, r.rank = contract.ObjectiveEvolution, rank }))
	}
	row("baseline", "Mean, as above", common)
	for _, baseline := range []string{contract.BaselineNone, contract.BaselineGroup} {
		row("baseline", baseline, change(func(r *recipe) { r.baseline = baseline }))
	}
	row("parameterisation", "Sigmoid, as above", common)
	row("parameterisation", "Direct", change(func(r *recipe) { r.parameterization = contract.ParameterizationDirect }))
	t.after = noted("Modules and objective are the paper's ablations; the released code scales the MLP's matrices only. Evolution, truncated ranks " +
		"(of 128, the model's width), baselines and Direct are this project's. The paper subtracts no baseline, nor does the released code.")
	return []table{t}
}

// ranks are how many singular values of each matrix are searched.
var ranks = []int{64, 16}

// cross is table 6: experts of one base on another.
func (m *measurement) cross(p *plan) []table {
	const other = "b"
	t := table{
		title: "Experts of another base",
		head:  append(append([]string{"on base b"}, names("test")...), names("transfer")...),
		before: "Right answers in percent of base b: the same architecture and data as base a, trained from another seed. The vectors of a are applied " +
			"to b by their shapes alone; the shuffled ones are the same numbers in another order within each vector.",
	}
	if _, made := m.lab.bases[other]; !made {
		t.after = "Base b is not there: `make paper-bases` makes it."
		return []table{t}
	}
	kinds := []struct {
		label string
		one   func(k skill, split string, seed uint64) (answered, bool)
	}{
		{"its own experts", func(k skill, split string, seed uint64) (answered, bool) {
			return m.on(p, other, other, k, split, seed, nil)
		}},
		{"experts of a", func(k skill, split string, seed uint64) (answered, bool) {
			return m.on(p, expertBase, other, k, split, seed, func(e *exam) { e.Foreign = true })
		}},
		{"experts of a, shuffled", func(k skill, split string, seed uint64) (answered, bool) {
			return m.on(p, expertBase, other, k, split, seed, func(e *exam) { e.Foreign, e.Shuffled = true, seed+1 })
		}},
	}
	splits := []string{splitTest, splitTransfer}
	cells := []string{"none"}
	for _, split := range splits {
		for _, k := range skills {
			cells = append(cells, m.ofBase(p, other, k, split).String())
		}
	}
	t.row(cells...)
	for _, kind := range kinds {
		cells := []string{kind.label}
		for _, split := range splits {
			for _, k := range skills {
				cells = append(cells, m.over(func(seed uint64) (answered, bool) { return kind.one(k, split, seed) }).String())
			}
		}
		t.row(cells...)
	}
	t.after = noted("The paper applies vectors of Llama-3-8B to Mistral-7B, whose matrices have the same shapes, and shuffles them for comparison. " +
		"Here each expert answers alone.")
	return []table{t}
}

// on is the score of an expert of one base on another.
func (m *measurement) on(p *plan, from, to string, k skill, split string, seed uint64, change func(*exam)) (answered, bool) {
	t, ok := m.expert(p, recipe{base: from, skill: k, method: contract.MethodSVF, objective: contract.ObjectiveReinforce, seed: seed})
	if !ok {
		return answered{}, false
	}
	return ask(p, m.lab.answering("from-"+from+"-"+k.name+"-"+split, to, alone(t.Digest), m.lab.set(k, split), change))
}

// names are the skills' columns of a split.
func names(split string) []string {
	var out []string
	for _, k := range skills {
		out = append(out, k.name+" "+split)
	}
	return out
}
