#!/usr/bin/env python3
"""Goldens of runtime/expert: composing and the gradient of the sigmoid
parameterisation, by PyTorch's autograd in float64.

    /usr/bin/python3 hack/golden/svd.py runtime/expert/testdata/svf.json

For each matrix W, parameters p and a linear loss L = sum(C * W'), with

    z  = m * sigmoid(p)
    W' = U diag(sigma * z) V^T * sum(sigma) / sum(sigma * z)

the file has W', the effective z (normaliser included), dL/ds for the scaled
singular values s, dL/dp, and the mixture of two experts a*z1 + (1-a)*z2 with
its W'. Made with torch 1.13.
"""

import json
import sys

import torch

VERSION = 1


def case(name, out, inp, seed, m=1.0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        # Round to float32, in which the tests hold weights and parameters.
        return torch.randn(*shape, generator=generator, dtype=torch.float32).double()

    w = normal(out, inp)
    u, sigma, vt = torch.linalg.svd(w, full_matrices=False)
    c = normal(out, inp)
    rank = sigma.numel()

    def effective(p):
        z = m * torch.sigmoid(p)
        return z * sigma.sum() / (sigma * z).sum()

    def compose(z):
        return u @ torch.diag(sigma * z) @ vt

    p1 = (0.1 + spread * normal(rank)).float().double().requires_grad_(True)
    p2 = (0.1 + spread * normal(rank)).float().double()
    composed = compose(effective(p1))
    (c * composed).sum().backward()
    alpha = 0.3
    mixed = alpha * effective(p1.detach()) + (1 - alpha) * effective(p2)
    ds = torch.einsum("or,oi,ri->r", u, c, vt)
    return {
        "name": name, "out": out, "in": inp, "m": m, "alpha": alpha,
        "w": w.flatten().tolist(), "c": c.flatten().tolist(),
        "p": p1.tolist(), "p2": p2.tolist(), "sigma": sigma.tolist(),
        "z": effective(p1).tolist(), "composed": composed.flatten().tolist(),
        "dLds": ds.tolist(), "dLdp": p1.grad.tolist(),
        "mixed": mixed.tolist(), "mixedComposed": compose(mixed).flatten().tolist(),
    }


def main():
    cases = [
        case("taller than wide", 9, 5, 1),
        case("wider than tall", 4, 11, 2),
        case("square, and twice the range", 6, 6, 3, m=2.0),
        case("as initialised", 8, 8, 4, spread=0.01),
    ]
    with open(sys.argv[1], "w") as f:
        json.dump({"version": VERSION, "made by": "hack/golden/svd.py, torch " + torch.__version__, "cases": cases}, f)
        f.write("\n")


if __name__ == "__main__":
    main()
