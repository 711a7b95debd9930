package main

import (
	"bytes"
	stdcontext "context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// Both objectives train on the demo's model and data, for so many iterations, and are
// scored after every second one.
const (
	demo               = "config/samples/demo"
	besideIterations   = 18
	besideInterval     = 2
	reinforcedAtOnce   = 64 // Answers to an iteration of Reinforce, and
	searchedQuestions  = 8  // questions to each candidate of a search.
	besideAnswer       = 24 // Tokens.
	besideLearningRate = 0.01
)

// mlpModules are what the demo's experts are compared on.
var mlpModules = []string{"gate_proj", "up_proj", "down_proj"}

// demoSkill is one of the demo's: its name is that of its folder.
type demoSkill struct{ name, format, reward, template string }

var demoSkills = []demoSkill{
	{name: "math", format: contract.FormatGSM8K, reward: contract.RewardNumeric},
	{name: "code", format: contract.FormatMBPP, reward: contract.RewardUnitTests, template: "{question}"},
	{name: "reasoning", format: contract.FormatARC, reward: contract.RewardMultipleChoice},
}

// search is a way to search.
type search struct {
	name, parameterization string
	sigma                  float64
	rank, population       int
	modules                []string // nil means all.
}

// searches are those of runtime/README.md; the first one has the API's defaults.
var searches = []search{
	{"defaults", contract.ParameterizationDirect, 0.15, 16, 16, mlpModules},
	{"all-modules", contract.ParameterizationDirect, 0.15, 16, 16, nil},
	{"rank=64", contract.ParameterizationDirect, 0.15, 64, 16, mlpModules},
	{"population=32", contract.ParameterizationDirect, 0.15, 16, 32, mlpModules},
	{"sigmoid", contract.ParameterizationSigmoid, 0.3, 16, 16, mlpModules},
}

func skillNames() (names []string) {
	for _, k := range demoSkills {
		names = append(names, k.name)
	}
	return names
}

func searchNames() (names []string) {
	for _, s := range searches {
		names = append(names, s.name)
	}
	return names
}

// cost is what one training took, alone, on one thread.
type cost struct {
	Score float64 // The best validation score, 0 to 1.
	// Seconds are of the clock and of the processor, and PeakBytes the most that the process
	// had in memory.
	Seconds, Processor, PeakBytes float64
	// Reached has the best score so far by the seconds in which it was reached.
	Reached []reached
}

type reached struct{ Seconds, Score float64 }

// until is how many seconds it took to reach a score.
func (c cost) until(score float64) float64 {
	for _, r := range c.Reached {
		if r.Score >= score {
			return r.Seconds
		}
	}
	return c.Seconds
}

// beside is a search and Reinforce from one seed.
type beside struct {
	Skill, Search        string
	Seed                 int
	Reinforce, Evolution cost
}

// time, processor and memory are Evolution's by Reinforce's, and toSameScore the times until
// both had the score that the worse of them ends with.
func (b *beside) time() float64      { return b.Evolution.Seconds / b.Reinforce.Seconds }
func (b *beside) processor() float64 { return b.Evolution.Processor / b.Reinforce.Processor }
func (b *beside) memory() float64    { return b.Evolution.PeakBytes / b.Reinforce.PeakBytes }
func (b *beside) toSameScore() float64 {
	score := min(b.Reinforce.Score, b.Evolution.Score)
	return b.Evolution.until(score) / b.Reinforce.until(score)
}

// evolution trains experts of the demo's skills by Reinforce and by searches, one process
// after the other, from o.rounds seeds.
func evolution(ctx stdcontext.Context, o options, r *report) error {
	data := filepath.Join(o.dir, "demo-volume")
	var fetched, decomposed contract.Termination
	if err := t2(ctx, o, &fetched, "fetch", filepath.Join(demo, "model"), "--data-dir", data); err != nil {
		return err
	}
	if err := t2(ctx, o, &decomposed, "decompose", "--base-digest", fetched.Model.Digest, "--data-dir", data, "--dtype", "F32"); err != nil {
		return err
	}
	for _, skill := range demoSkills {
		if !slices.Contains(o.skills, skill.name) {
			continue
		}
		for seed := 1; seed <= o.rounds; seed++ {
			spec := skill.reinforce(data, fetched.Model.Digest, decomposed.Decomposition.Digest, seed)
			own, err := trainAlone(ctx, o, spec)
			if err != nil {
				return fmt.Errorf("%s, seed %d, Reinforce: %w", skill.name, seed, err)
			}
			for _, s := range searches {
				if !slices.Contains(o.searches, s.name) {
					continue
				}
				searched, err := trainAlone(ctx, o, s.of(spec))
				if err != nil {
					return fmt.Errorf("%s, seed %d, search %s: %w", skill.name, seed, s.name, err)
				}
				b := &beside{Skill: skill.name, Search: s.name, Seed: seed, Reinforce: own, Evolution: searched}
				fmt.Fprint(os.Stderr, b.row())
				r.Beside = append(r.Beside, b)
			}
		}
	}
	return nil
}

// reinforce is the specification of a training by Reinforce.
func (k demoSkill) reinforce(data, base, decomposition string, seed int) contract.TrainSpec {
	set := func(split string) contract.DatasetSpec {
		return contract.DatasetSpec{Path: filepath.Join(demo, "data", k.name, split+".jsonl"), Format: k.format, PromptTemplate: k.template}
	}
	h := contract.DefaultHyper()
	h.Iterations, h.ValidationInterval, h.BatchSize, h.MaxNewTokens = besideIterations, besideInterval, reinforcedAtOnce, besideAnswer
	h.LearningRate, h.KLWeight, h.Seed = besideLearningRate, 0, uint64(seed)
	h.Rollout, h.Baseline = contract.RolloutSample, contract.BaselineMean
	return contract.TrainSpec{
		Name: k.name, Skill: k.name, RunID: "reinforce", DataDir: data, BaseDigest: base, DecompositionDigest: decomposition,
		Objective: contract.ObjectiveReinforce, Modules: mlpModules, Train: set("train"), Validation: set("validation"), Reward: k.reward,
		Hyperparameters: h,
	}
}

// of is the specification of a search for what a training by Reinforce is to learn.
func (s search) of(spec contract.TrainSpec) contract.TrainSpec {
	spec.Objective, spec.Modules, spec.RunID = contract.ObjectiveEvolution, s.modules, "evolution"
	h := &spec.Hyperparameters
	h.Rollout, h.Baseline, h.BatchSize = contract.RolloutGreedy, contract.BaselineNone, searchedQuestions
	h.Parameterization, h.Population, h.Sigma, h.TruncatedRank = s.parameterization, s.population, s.sigma, s.rank
	return spec
}

// trainAlone does one training from its beginning, in a process that computes on one
// thread.
func trainAlone(ctx stdcontext.Context, o options, spec contract.TrainSpec) (cost, error) {
	for _, made := range []string{contract.DirRuns, contract.DirExperts} {
		if err := os.RemoveAll(filepath.Join(spec.DataDir, made)); err != nil {
			return cost{}, err
		}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return cost{}, err
	}
	path := filepath.Join(spec.DataDir, "spec.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return cost{}, err
	}
	cmd := exec.CommandContext(ctx, o.t2, "train", "--spec", path, "--threads", "1", "--json") //nolint:gosec // The caller says which.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%w: %s", err, tail(stderr.Bytes()))
	}
	c := cost{Seconds: time.Since(began).Seconds()}
	var done contract.Termination
	if err := json.Unmarshal(stdout.Bytes(), &done); err != nil {
		return c, fmt.Errorf("its result: %w", err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok || done.Expert == nil {
		return c, errors.New("it tells neither its expert nor what it used")
	}
	c.Score = done.Expert.Training.BestScore
	c.Processor = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	c.PeakBytes = float64(usage.Maxrss) * 1024 // Linux counts KiB.
	c.Reached, err = scores(stderr.Bytes(), began)
	return c, err
}

// scores reads the best score by time out of a training's log.
func scores(log []byte, began time.Time) ([]reached, error) {
	var all []reached
	for line := range bytes.Lines(log) {
		var entry struct {
			Time      time.Time `json:"time"`
			Iteration *int      `json:"iteration"`
			Best      *float64  `json:"best"`
		}
		if err := json.Unmarshal(line, &entry); err != nil || entry.Iteration == nil || entry.Best == nil {
			continue // Another line.
		}
		all = append(all, reached{Seconds: entry.Time.Sub(began).Seconds(), Score: *entry.Best})
	}
	if len(all) == 0 {
		return nil, errors.New("its log tells no score: want lines with time, iteration and best")
	}
	return all, nil
}

// besideTable is the table of searches beside Reinforce: each seed, and the median of the
// ratios where there are several.
func besideTable(all []*beside) string {
	var t strings.Builder
	t.WriteString("Reinforce / Evolution, each alone on one thread\n\n" +
		"| skill | search | seed | score | seconds | processor seconds | peak memory | time | to the same score | processor time | memory |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, b := range all {
		t.WriteString(b.row())
	}
	for i, b := range all {
		same := func(other *beside) bool { return other.Skill == b.Skill && other.Search == b.Search }
		if slices.IndexFunc(all, same) < i {
			continue
		}
		seeds := slices.DeleteFunc(slices.Clone(all), func(other *beside) bool { return !same(other) })
		if len(seeds) < 2 {
			continue
		}
		of := func(ratio func(*beside) float64) float64 {
			var ratios []float64
			for _, s := range seeds {
				ratios = append(ratios, ratio(s))
			}
			return median(ratios)
		}
		fmt.Fprintf(&t, "| %s | %s | median | %.3f / %.3f | | | | %.2f | %.2f | %.2f | %.2f |\n", b.Skill, b.Search,
			of(func(b *beside) float64 { return b.Reinforce.Score }), of(func(b *beside) float64 { return b.Evolution.Score }),
			of((*beside).time), of((*beside).toSameScore), of((*beside).processor), of((*beside).memory))
	}
	return t.String()
}

// row is one line of the table.
func (b *beside) row() string {
	const mib = 1 << 20
	r, e := b.Reinforce, b.Evolution
	return fmt.Sprintf("| %s | %s | %d | %.3f / %.3f | %.1f / %.1f | %.1f / %.1f | %.0f / %.0f MiB | %.2f | %.2f | %.2f | %.2f |\n",
		b.Skill, b.Search, b.Seed, r.Score, e.Score, r.Seconds, e.Seconds, r.Processor, e.Processor, r.PeakBytes/mib, e.PeakBytes/mib,
		b.time(), b.toSameScore(), b.processor(), b.memory())
}
