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
		if r.rate, ok = m.rate(p, r.method, r.objective); !ok {
			return trained{}, false
		}
	}
	return ask(p, m.lab.training(r))
}

// rate is the best of the rates of a method by the validation set of the first skill, with
// the first seed; of equals the lowest.
func (m *measurement) rate(p *plan, method, objective string) (best float64, ok bool) {
	if method == contract.MethodDoRA {
		method = contract.MethodLoRA
	}
	score := -1.0
	ok = true
	for _, rate := range rates[method] {
		t, has := ask(p, m.lab.training(tried(method, objective, rate)))
		if ok = ok && has; t.Best > score {
			best, score = rate, t.Best
		}
	}
	return best, ok
}

// tried is the recipe by which a rate is judged.
func tried(method, objective string, rate float64) recipe {
	return recipe{base: expertBase, skill: skills[0], method: method, objective: objective, rate: rate, seed: 1}
}

// rates shows what the learning rates were chosen by.
func (m *measurement) rates(p *plan) []table {
	t := table{
		title: "Learning rates", unseeded: true,
		head: []string{"method", "objective", "rate", "validation, percent", ""},
		before: fmt.Sprintf("The best validation score of %s within %d iterations, the first seed, by which the rate of all trainings of a method and an objective was chosen. DoRA takes LoRA's.",
			skills[0].name, iterations),
	}
	for _, method := range methods {
		for _, objective := range objectives {
			best, chosen := m.rate(p, method, objective)
			for _, rate := range rates[method] {
				r, ok := ask(p, m.lab.training(tried(method, objective, rate)))
				score, mark := "–", ""
				if ok {
					score = fmt.Sprintf("%.1f", 100*r.Best)
				}
				if chosen && rate == best {
					mark = "taken"
				}
				t.row(method, objective, fmt.Sprint(rate), score, mark)
			}
		}
	}
	t.after = noted("The paper and its code have 2e-3 for SVF, with models thousands of times as large and more iterations.")
	return []table{t}
}
