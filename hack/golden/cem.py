#!/usr/bin/python3
"""Golden trajectories of runtime/search's cross-entropy method, by PyTorch in
float64 from the random numbers of testdata/draws.json.

    go test ./runtime/search -run TestDraws -write-draws
    /usr/bin/python3 hack/golden/cem.py

writes runtime/search/testdata/cem.json. Made with torch 1.13.

It is the algorithm of the released code of Transformer-squared
(SakanaAI/self-adaptive-llms 03a41ae, optim_modules.CEM with cfgs/optimization/
cem.yaml and policy.WeightedCombination): uniform weights and half the range as
the first distribution, clipping, the best so far in the first place,
int(0.2 * 32) elites, torch.std (which divides by E - 1), weights divided by their
sum only when they are used. The code evaluates in float32.

One thing is not the code's: equal scores are told apart by the log-likelihood of
the correct answers for all elites. The code does so for the best one only and
leaves the rest to np.argpartition, whose choice among equal scores is arbitrary; in
the cases that have none at its edge this script checks that both choose the same elites.
"""

import json
import os

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "search", "testdata")
VERSION = 1

CASES = [
    {"name": "one weight an expert, normalized", "layers": 1, "normalize": True, "examples": 0},
    {"name": "a weight for each layer, not normalized", "layers": 2, "normalize": False, "examples": 0},
    {"name": "a weight for each layer, normalized, equal scores", "layers": 2, "normalize": True, "examples": 5},
]
EXPERTS, POPULATION, ELITE, GENERATIONS = 3, 32, 0.2, 10


def evaluate(alpha, examples):
    """Scores of alpha [K, L], and log-likelihoods: smooth, or as few examples give."""
    target = torch.tensor([0.65, 0.3, 0.05], dtype=torch.float64)
    distance = ((alpha - target[:, None]) ** 2 * torch.tensor([1.0, 2.0, 3.0])[:, None]).mean().item()
    if not examples:
        return -distance, None
    score = max(0, round(examples * (1 - 2 * distance**0.5))) / examples
    # Where nothing is correct there is no likelihood of correct answers.
    return score, -distance if score > 0 else float("nan")


def choose(scores, ties):
    """Indices, best first; what comes first in the population wins a draw."""
    def key(i):
        tie = 0.0 if ties is None else ties[i]
        return (-scores[i], -tie if tie == tie else float("inf"), i)
    return sorted(range(len(scores)), key=key)


def run(draws, case):
    layers, elites = case["layers"], int(ELITE * POPULATION)
    size = EXPERTS * layers
    mean = torch.full([size], 1 / EXPERTS, dtype=torch.float64)
    std = torch.full([size], 0.5, dtype=torch.float64)
    best = mean.clone()
    generations = []
    for g in range(GENERATIONS):
        z = torch.tensor(draws[g], dtype=torch.float64)[:, :size]
        population = (z * std + mean).clamp(0, 1)
        population[0] = best
        used = population.reshape(POPULATION, EXPERTS, layers)
        if case["normalize"]:
            total = used.sum(1, keepdim=True)
            # The code divides by zero where all weights are clipped to it.
            used = torch.where(total > 0, used / total, torch.full_like(used, 1 / EXPERTS))
        evaluated = [evaluate(alpha, case["examples"]) for alpha in used]
        scores = [score for score, _ in evaluated]
        ties = [tie for _, tie in evaluated] if case["examples"] else None
        order = choose(scores, ties)
        if ties is None:
            assert scores[order[elites - 1]] > scores[order[elites]]
            assert set(order[:elites]) == set(np.argpartition(scores, -elites)[-elites:].tolist())
        elif g == 0:
            assert scores[order[elites - 1]] == scores[order[elites]]
        chosen = population[order[:elites]]
        mean, std, best = torch.mean(chosen, dim=0), torch.std(chosen, dim=0), population[order[0]].clone()
        generations.append({
            "population": used.reshape(POPULATION, size).tolist(), "scores": scores,
            "ties": ties and [tie if tie == tie else None for tie in ties],
            "mean": mean.tolist(), "std": std.tolist(), "best": best.tolist(),
        })
    return generations


def main():
    with open(os.path.join(TESTDATA, "draws.json")) as f:
        source = json.load(f)
    cases = [{
        "name": case["name"],
        "options": {
            "experts": EXPERTS, "layers": case["layers"], "normalize": case["normalize"], "population": POPULATION,
            "eliteFraction": ELITE, "generations": GENERATIONS, "minStd": 0, "seed": source["seed"],
        },
        "generations": run(source["draws"], case),
    } for case in CASES]
    with open(os.path.join(TESTDATA, "cem.json"), "w") as f:
        json.dump({"version": VERSION, "made by": "hack/golden/cem.py, torch " + torch.__version__, "cases": cases}, f, allow_nan=False)
        f.write("\n")


if __name__ == "__main__":
    main()
