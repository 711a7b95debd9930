package train

import (
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transformersquared/operator/runtime/contract"
)

// trainProgress describes the present state.
func (t *trainer) trainProgress() contract.TrainProgress {
	s := t.state
	p := contract.TrainProgress{
		Iteration: s.Iteration, Iterations: t.hyper.Iterations,
		KL: unknownKL, ValidationScore: unknownScore, BestScore: s.BestScore, BaselineScore: s.BaselineScore,
	}
	for _, h := range s.History {
		p.Reward = h.Reward
		if h.KL != nil {
			p.KL = *h.KL
		}
		if h.Score != nil {
			p.ValidationScore = *h.Score
		}
	}
	return p
}

// report shows the present state on /progress, /curve and /metrics, and in the log.
func (t *trainer) report() {
	p := t.trainProgress()
	t.options.Progress.Training(p)
	t.options.Progress.Curve(contract.Curve{
		Skill: t.spec.Skill, Iterations: t.hyper.Iterations, BaselineScore: t.state.BaselineScore,
		Points: t.state.History, // Which a further iteration copies, and nobody changes.
	})
	t.options.Progress.Done(int64(p.Iteration))
	t.metrics.set(p)
	if n := len(t.state.History); n > 0 {
		h := t.state.History[n-1]
		t.options.Log.Info("Iteration was finished", "iteration", p.Iteration, "iterations", p.Iterations,
			"reward", h.Reward, "kl", p.KL, "loss", h.Loss, "gradNorm", h.GradNorm,
			"validation", p.ValidationScore, "best", p.BestScore, "baseline", p.BaselineScore)
	}
}

// metrics are the run's Prometheus metrics. A pod trains one expert, so they
// need no labels.
type metrics struct {
	iterations, reward, kl          prometheus.Gauge
	validation, best, baseline      prometheus.Gauge
	tokensPerSecond, iterationTimes prometheus.Gauge
	tokens                          prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "t2", Subsystem: "train", Name: name, Help: help})
		r.MustRegister(g)
		return g
	}
	m := &metrics{
		iterations:      gauge("iteration", "Optimiser steps done."),
		reward:          gauge("reward", "Mean reward of the last batch, from -1 to 1."),
		kl:              gauge("kl", "KL divergence from the base model, mean per answer token of the last batch that it was measured of; -1 before the first."),
		validation:      gauge("validation_score", "Score of the last validation, 0 to 1; -1 before the first."),
		best:            gauge("best_score", "Best validation score, 0 to 1; -1 before the first."),
		baseline:        gauge("baseline_score", "Validation score of the base model, 0 to 1; -1 before it is known."),
		tokensPerSecond: gauge("tokens_per_second", "Answer tokens of the last iteration by its duration."),
		iterationTimes:  gauge("iteration_seconds", "Duration of the last iteration, validation not included."),
		tokens: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "t2", Subsystem: "train", Name: "answer_tokens_total", Help: "Answer tokens generated and trained on.",
		}),
	}
	r.MustRegister(m.tokens)
	return m
}

func (m *metrics) set(p contract.TrainProgress) {
	m.iterations.Set(float64(p.Iteration))
	m.reward.Set(p.Reward)
	m.kl.Set(p.KL)
	m.validation.Set(p.ValidationScore)
	m.best.Set(p.BestScore)
	m.baseline.Set(p.BaselineScore)
}

func (m *metrics) iteration(tokens int, took time.Duration) {
	m.tokens.Add(float64(tokens))
	m.iterationTimes.Set(took.Seconds())
	m.tokensPerSecond.Set(float64(tokens) / took.Seconds())
}

// writeMetrics writes a run's history as JSON lines.
func writeMetrics(w io.Writer, history []point) error {
	e := json.NewEncoder(w)
	for _, p := range history {
		if err := e.Encode(p); err != nil {
			return err
		}
	}
	return nil
}

// strictJSON decodes JSON and refuses fields that are not known.
func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
