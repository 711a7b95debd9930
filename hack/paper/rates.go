package main

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/contract"
)

// expert is what a recipe makes, with the learning rate that suits its method and
// objective.
func (m *measurement) expert(p *plan, r recipe) (trained, bool) {
	if r.objective != contract.ObjectiveEvolution {
		var ok bool
		if r.rate, ok = m.rate(p, r); !ok {
			return trained{}, false
		}
	}
	return ask(p, m.lab.training(r))
}

// rate is the best of the rates of a recipe's method, objective and activation by the
// validation set of the first skill, with the first seed; of equals the lowest.
func (m *measurement) rate(p *plan, r recipe) (best float64, ok bool) {
	if r.method == contract.MethodDoRA {
		r.method = contract.MethodLoRA
	}
	score := -1.0
	ok = true
	for _, rate := range rates[r.method] {
		t, has := ask(p, m.lab.training(tried(r, rate)))
		if ok = ok && has; t.Best > score {
			best, score = rate, t.Best
		}
	}
	return best, ok
}

// tried is the recipe by which a rate is judged.
func tried(r recipe, rate float64) recipe {
	return recipe{base: expertBase, skill: skills[0], method: r.method, objective: r.objective, activation: r.activation, rate: rate, seed: 1}
}

// rates shows what the learning rates were chosen by.
func (m *measurement) rates(p *plan) []table {
	t := table{
		title: "Learning rates", unseeded: true,
		head: []string{"method", "objective", "rate", "validation, percent", ""},
		before: fmt.Sprintf("The best validation score of %s within %d iterations, the first seed, by which the rate of all trainings of a method and an objective was chosen. DoRA takes LoRA's.",
			skills[0].name, iterations),
	}
	var kinds []recipe
	for _, method := range methods {
		for _, objective := range objectives {
			kinds = append(kinds, recipe{method: method, objective: objective})
		}
	}
	for _, objective := range objectives {
		kinds = append(kinds, onAnswers(objective))
	}
	for _, kind := range kinds {
		best, chosen := m.rate(p, kind)
		for _, rate := range rates[kind.method] {
			r, ok := ask(p, m.lab.training(tried(kind, rate)))
			score, mark := "–", ""
			if ok {
				score = fmt.Sprintf("%.1f", 100*r.Best)
			}
			if chosen && rate == best {
				mark = "taken"
			}
			t.row(kind.label(), kind.objective, fmt.Sprint(rate), score, mark)
		}
	}
	t.after = noted("The paper and its code have 2e-3 for SVF, with models thousands of times as large and more iterations.")
	return []table{t}
}
