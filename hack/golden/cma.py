#!/usr/bin/python3
"""Golden trajectories of runtime/search's evolution, by NumPy from the random
numbers of testdata/draws.json.

    go test ./runtime/search -run TestDraws -write-draws
    /usr/bin/python3 hack/golden/cma.py

writes runtime/search/testdata/cma.json. Made with NumPy 1.24.

It follows Hansen's tutorial (arXiv 1604.00772) formula by formula, with matrices
where the runtime has loops: C^-1/2 is inverted here, and used. Points are drawn
with the symmetric root of C, so that they do not depend on the eigenvectors that a
library finds. sep-CMA-ES is the same with a diagonal C that is learnt (n+2)/3 times
as fast (Ros and Hansen, 2008).
"""

import json
import math
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "search", "testdata")
VERSION = 1
GENERATIONS = 30


def ellipsoid(n):
    """Minus a quadratic function that turns and stretches space: condition 1e3."""
    turn = np.linalg.qr(np.array([[math.cos(1 + i + 3 * i * j + j * j) for j in range(n)] for i in range(n)]))[0]
    stretch = 10 ** (3 * np.arange(n) / (n - 1) / 2)
    return lambda x: -float(np.sum((stretch * (turn @ (x - 0.3))) ** 2))


def separable(n):
    """The same along the axes, with no score where the first number is too large."""
    stretch = 10 ** (3 * np.arange(n) / (n - 1) / 2)
    return lambda x: -float(np.sum((stretch * (x - 0.3)) ** 2)) if x[0] < 1.5 else None


def parameters(n, lam, diagonal):
    """Table 1 of the tutorial."""
    raw = np.array([math.log((lam + 1) / 2) - math.log(i) for i in range(1, lam + 1)])
    mu = lam // 2
    mueff = raw[:mu].sum() ** 2 / (raw[:mu] ** 2).sum()
    mueff_minus = raw[mu:].sum() ** 2 / (raw[mu:] ** 2).sum()
    cc = (4 + mueff / n) / (n + 4 + 2 * mueff / n)
    csigma = (mueff + 2) / (n + mueff + 5)
    dsigma = 1 + 2 * max(0, math.sqrt((mueff - 1) / (n + 1)) - 1) + csigma
    faster = (n + 2) / 3 if diagonal else 1
    c1 = min(1, faster * 2 / ((n + 1.3) ** 2 + mueff))
    cmu = min(1 - c1, faster * 2 * (1 / 4 + mueff + 1 / mueff - 2) / ((n + 2) ** 2 + mueff))
    alpha = min(1 + c1 / cmu, 1 + 2 * mueff_minus / (mueff + 2), (1 - c1 - cmu) / (n * cmu))
    plus, minus = raw[raw > 0].sum(), -raw[raw < 0].sum()
    weights = np.where(raw >= 0, raw / plus, alpha * raw / minus)
    return mu, mueff, cc, csigma, dsigma, c1, cmu, weights


def run(draws, function, start, sigma, lam, diagonal, far):
    n = len(start)
    mu, mueff, cc, csigma, dsigma, c1, cmu, weights = parameters(n, lam, diagonal)
    chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    m, c, psigma, pc = np.array(start), np.eye(n), np.zeros(n), np.zeros(n)
    generations, stopped = [], 0
    for g in range(GENERATIONS):
        eigenvalues, b = np.linalg.eigh(c)
        root = b @ np.diag(np.sqrt(eigenvalues)) @ b.T
        inverse = np.linalg.inv(root)
        x = np.array([m + sigma * (root @ np.array(z[:n])) for z in draws[g][:lam]])
        scores = [function(v) for v in x]
        order = sorted(range(lam), key=lambda i: -scores[i] if scores[i] is not None else math.inf)
        y = (x[order] - m) / sigma
        yw = weights[:mu] @ y[:mu]
        m = m + sigma * yw
        psigma = (1 - csigma) * psigma + math.sqrt(csigma * (2 - csigma) * mueff) * (inverse @ yw)
        length = np.linalg.norm(psigma)
        sigma = sigma * math.exp(min(1, csigma / dsigma * (length / chi - 1)))
        h = 1 if length / math.sqrt(1 - (1 - csigma) ** (2 * (g + 1))) < (1.4 + 2 / (n + 1)) * chi else 0
        pc = (1 - cc) * pc + h * math.sqrt(cc * (2 - cc) * mueff) * yw
        scaled = [w if w >= 0 else w * n / np.linalg.norm(inverse @ v) ** 2 for w, v in zip(weights, y)]
        c = ((1 + c1 * (1 - h) * cc * (2 - cc) - c1 - cmu * weights.sum()) * c
             + c1 * np.outer(pc, pc) + cmu * sum(w * np.outer(v, v) for w, v in zip(scaled, y)))
        if diagonal:
            c = np.diag(np.diag(c))
        stopped += 1 - h
        generations.append({
            "population": x.tolist(), "scores": scores, "mean": m.tolist(), "sigma": sigma,
            "covariance": (np.diag(c) if diagonal else c.flatten()).tolist(),
            "pathSigma": psigma.tolist(), "pathC": pc.tolist(),
        })
    assert (stopped > 0) == far
    return generations, weights


def case(source, name, function, start, sigma, lam, diagonal, far=False):
    generations, weights = run(source["draws"], function, start, sigma, lam, diagonal, far)
    return {
        "name": name,
        "options": {
            "start": start, "sigma": sigma, "population": 0, "covariance": "Diagonal" if diagonal else "Full",
            "generations": GENERATIONS, "minStd": 0, "seed": source["seed"],
        },
        "weights": weights.tolist(), "generations": generations,
    }


def main():
    with open(os.path.join(TESTDATA, "draws.json")) as f:
        source = json.load(f)
    cases = [
        case(source, "full, a turned ellipsoid", ellipsoid(5), [1.0, -0.5, 0.0, 2.0, 0.25], 0.5, 4 + int(3 * math.log(5)), False),
        case(source, "diagonal, some without a score", separable(6), [1.0, -0.5, 0.0, 2.0, 0.25, 0.5], 0.5, 4 + int(3 * math.log(6)), True),
        # So far away that the path is long and stops C's (h = 0).
        case(source, "full, a sphere far away", lambda x: -float(np.sum(x**2)), [50.0, 40.0, -50.0], 0.01, 4 + int(3 * math.log(3)), False, far=True),
    ]
    with open(os.path.join(TESTDATA, "cma.json"), "w") as f:
        json.dump({"version": VERSION, "made by": "hack/golden/cma.py, NumPy " + np.__version__, "cases": cases}, f, allow_nan=False)
        f.write("\n")


if __name__ == "__main__":
    main()
