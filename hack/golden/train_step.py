#!/usr/bin/python3
"""Golden values for runtime/train: steps of the training algorithm.

    /usr/bin/python3 hack/golden/train_step.py

writes runtime/train/testdata/step-<case>.json, for the model in
runtime/model/testdata/llama or, where a case names one, another (made by model.py).
Made with PyTorch 1.13 in float64.

It is the algorithm as published: every matrix is composed densely,
W' = U diag(sigma*z) Vt * sum(sigma)/sum(sigma*z), autograd goes through W' to
the parameters p, gradients are clipped by clip_grad_norm_ and Adam takes the
step. The runtime never forms W' for its gradients, so this checks the formulas
that it uses instead.

So are the other methods: LoRA's W' = W + alpha/r B A, DoRA's
W' = m (W + alpha/r B A) / |W + alpha/r B A| by rows, with the norm detached as in
section 4.3 of its paper and in PEFT, and IA3's gains of outputs with their biases, and
of the inputs of down_proj. Objective NextToken is the mean negative log-likelihood of an answer's
tokens.
"""

import json
import os

import numpy as np
import torch

import model_llama as llama

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "..", "runtime", "model", "testdata")
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "train", "testdata")

STEPS = 3
CASES = {
    "sigmoid": {
        "parameterization": "Sigmoid",
        "klWeight": 0.2,
        "baseline": "Mean",
        "maxGradNorm": 1e-3,
        "learningRate": 2e-3,
    },
    "direct": {
        "parameterization": "Direct",
        "klWeight": 0.0,
        "baseline": "None",
        "maxGradNorm": 0.0,
        "learningRate": 1e-2,
    },
    "lora": {
        "method": "LoRA",
        "rank": 3,
        "alpha": 6.0,
        "klWeight": 0.1,
        "baseline": "Group",
        "groupSize": 5,
        "maxGradNorm": 0.5,
        "learningRate": 1e-3,
    },
    "dora": {
        "method": "DoRA",
        "rank": 2,
        "alpha": 3.0,
        "klWeight": 0.3,
        "baseline": "Mean",
        "maxGradNorm": 0.0,
        "learningRate": 1e-3,
    },
    "ia3": {
        "method": "IA3",
        "klWeight": 0.2,
        "baseline": "None",
        "maxGradNorm": 0.1,
        "learningRate": 5e-3,
    },
    "nexttoken": {
        "objective": "NextToken",
        "parameterization": "Direct",
        "klWeight": 0.0,
        "baseline": "None",
        "maxGradNorm": 0.0,
        "learningRate": 1e-2,
    },
    "nexttoken-dora": {
        "objective": "NextToken",
        "method": "DoRA",
        "rank": 4,
        "alpha": 4.0,
        "klWeight": 0.0,
        "baseline": "None",
        "maxGradNorm": 1.0,
        "learningRate": 1e-3,
    },
    "nexttoken-lora": {
        "objective": "NextToken",
        "method": "LoRA",
        "rank": 2,
        "alpha": 4.0,
        "klWeight": 0.0,
        "baseline": "None",
        "maxGradNorm": 0.5,
        "learningRate": 1e-3,
    },
    "nexttoken-ia3": {
        "objective": "NextToken",
        "method": "IA3",
        "klWeight": 0.0,
        "baseline": "None",
        "maxGradNorm": 0.0,
        "learningRate": 5e-3,
    },
    "ia3-bias": {
        "model": "qwen2",
        "method": "IA3",
        "klWeight": 0.1,
        "baseline": "Mean",
        "maxGradNorm": 0.0,
        "learningRate": 5e-3,
    },
    "dora-bias": {
        "model": "qwen2",
        "method": "DoRA",
        "rank": 2,
        "alpha": 3.0,
        "klWeight": 0.0,
        "baseline": "None",
        "maxGradNorm": 0.0,
        "learningRate": 1e-3,
    },
}
# (prompt length, answer length, right?)
EPISODES = [(5, 4, True), (3, 7, False), (8, 1, False), (2, 6, True), (4, 4, False)]


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    out = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        a, b = (8 + n + o for o in info["data_offsets"])
        out[name] = torch.from_numpy(np.frombuffer(raw[a:b], "<f4").reshape(info["shape"]).copy())
    return out


def rounded(values):
    return [float("%.9g" % v) for v in values]


def golden(case, hyper, seed):
    generator = torch.Generator().manual_seed(seed)
    model = os.path.join(MODELS, hyper.get("model", "llama"))
    with open(os.path.join(model, "config.json")) as f:
        config = json.load(f)
    weights = read_safetensors(os.path.join(model, "model.safetensors"))
    names = sorted(llama.shapes(config))
    svd = {n: torch.linalg.svd(weights[n + ".weight"].double(), full_matrices=False) for n in names}
    base = llama.Llama(config, weights)

    method = hyper.get("method", "SVF")
    p = {}

    def parameter(name, values):
        p[name] = values.float().double().requires_grad_()

    for n in names:
        out, inner = weights[n + ".weight"].shape
        if method == "SVF":
            noise = torch.randn(len(svd[n][1]), generator=generator).double()
            # Wider than the real initialisation, so that the normaliser matters.
            start = 0.1 + 0.3 * noise if hyper["parameterization"] == "Sigmoid" else 1 + 0.1 * noise
            p[n] = start.float().double().requires_grad_()
        elif method == "IA3":
            size = inner if n.endswith("down_proj") else out
            parameter(n, 1 + 0.3 * torch.randn(size, generator=generator).double())
        else:
            # Not zeros, so that both matrices have a gradient from the first step on.
            rank = hyper["rank"]
            parameter(n + ".lora_A", 0.2 * torch.randn(rank, inner, generator=generator).double())
            parameter(n + ".lora_B", 0.2 * torch.randn(out, rank, generator=generator).double())
            if method == "DoRA":
                norm = weights[n + ".weight"].double().norm(dim=1)
                parameter(n + ".magnitude", norm * (1 + 0.2 * torch.randn(out, generator=generator).double()))
    parameters = sorted(p)

    episodes = []
    for prompt, answer, right in EPISODES:
        tokens = torch.randint(config["vocab_size"], (prompt + answer,), generator=generator).tolist()
        episodes.append({"tokens": tokens, "prompt": prompt, "right": right})
    rewards = torch.tensor([1.0 if e["right"] else -1.0 for e in episodes]).double()
    advantages = rewards - (rewards.mean() if hyper["baseline"] in ("Mean", "Group") else 0)
    if hyper["baseline"] == "Group":
        advantages = advantages / advantages.std(unbiased=False)
    supervised = hyper.get("objective") == "NextToken"
    over = len(episodes)
    if supervised:
        advantages = torch.ones(len(episodes)).double()
        over = sum(len(e["tokens"]) - e["prompt"] for e in episodes)

    def compose(name):
        w = weights[name + ".weight"].double()
        if method == "IA3":
            return w * (p[name] if name.endswith("down_proj") else p[name][:, None])
        if method != "SVF":
            adapted = w + hyper["alpha"] / hyper["rank"] * p[name + ".lora_B"] @ p[name + ".lora_A"]
            if method == "LoRA":
                return adapted
            return (p[name + ".magnitude"] / adapted.norm(dim=1).detach())[:, None] * adapted
        u, s, vt = svd[name]
        if hyper["parameterization"] == "Direct":
            return (u * (s * p[name])) @ vt
        z = torch.sigmoid(p[name])
        return (u * (s * z)) @ vt * (s.sum() / (s * z).sum())

    optimizer = torch.optim.Adam([p[n] for n in parameters], lr=hyper["learningRate"])
    out = {"hyper": hyper, "episodes": episodes, "initial": {n: rounded(p[n].flatten().tolist()) for n in parameters}, "steps": []}
    for _ in range(STEPS):
        adapted = llama.Llama(config, weights)
        for n in names:
            adapted.w[n + ".weight"] = compose(n)
            if method == "IA3" and n + ".bias" in weights:
                adapted.w[n + ".bias"] = weights[n + ".bias"].double() * p[n]
        loss, kl, tokens = 0.0, 0.0, 0
        for e, advantage in zip(episodes, advantages):
            answer = e["tokens"][e["prompt"] :]
            wanted = slice(e["prompt"] - 1, -1)
            new = adapted.logits(e["tokens"])[wanted].log_softmax(-1)
            old = base.logits(e["tokens"])[wanted].log_softmax(-1)
            divergence = (new.exp() * (new - old)).sum()
            likelihood = new[range(len(answer)), answer].sum()
            loss = loss + (-likelihood * advantage + hyper["klWeight"] * divergence) / over
            kl, tokens = kl + divergence.item(), tokens + len(answer)
        optimizer.zero_grad()
        loss.backward()
        gradient = {n: rounded(p[n].grad.flatten().tolist()) for n in parameters}
        limit = hyper["maxGradNorm"] or float("inf")
        norm = torch.nn.utils.clip_grad_norm_([p[n] for n in parameters], limit)
        optimizer.step()
        out["steps"].append({
            "loss": loss.item(), "kl": kl / tokens, "gradNorm": norm.item(),
            "gradient": gradient, "p": {n: rounded(p[n].flatten().tolist()) for n in parameters},
        })

    os.makedirs(TESTDATA, exist_ok=True)
    with open(os.path.join(TESTDATA, "step-%s.json" % case), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


for i, (case, hyper) in enumerate(CASES.items()):
    golden(case, hyper, 11 + i)
