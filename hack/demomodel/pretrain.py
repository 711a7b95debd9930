"""Training of the base model on the corpus."""

import math
import time

import torch
import torch.nn.functional as F

import bpe
import llama

STEPS = 2800
TOKENS = 2000  # a batch, padding included
POOL = 2048  # samples sorted by length at a time, so that batches hold little padding
CLEAN = 0.5  # of the steps show right answers only; the rest show the sloppy ones too
MATRIX_PEAK = 0.02  # learning rate of the projections, by Muon
PEAK = 4e-3  # learning rate of everything else, by Adam
WARMUP = 60
# A last, short stage adds what only it shows (how people say a sum), at a share of the learning rates.
LAST_STEPS = 400
LAST_RATE = 0.3
PROMPT_WEIGHT = 0.1  # of the loss on prompt tokens, against 1 on answer tokens


class Muon:
    """Momentum whose step is made orthogonal, for matrices (Jordan et al. 2024): here it needs half of Adam's steps.

    The Newton-Schulz iteration x ← a·x + b·(xxᵀ)x + c·(xxᵀ)²x drives all singular values of a step towards one.
    """

    MOMENTUM = 0.95
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(self, matrices):
        # Matrices of one shape (the layers' copies of a projection) step together, transposed to be wide.
        by_shape = {}
        for m in matrices:
            by_shape.setdefault(tuple(m.shape), []).append(m)
        self.groups = [(g, torch.zeros(len(g), *shape)) for shape, g in by_shape.items()]

    @torch.no_grad()
    def step(self, lr):
        a, b, c = self.COEFFICIENTS
        for group, momentum in self.groups:
            grad = torch.stack([m.grad for m in group])
            momentum.lerp_(grad, 1 - self.MOMENTUM)
            x = grad.lerp(momentum, self.MOMENTUM)
            rows, columns = x.shape[1:]
            if rows > columns:
                x = x.transpose(1, 2)
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                xx = x @ x.transpose(1, 2)
                x = a * x + (b * xx + c * xx @ xx) @ x
            if rows > columns:
                x = x.transpose(1, 2)
            for m, update in zip(group, x):
                m.sub_(update, alpha=lr * max(1, rows / columns) ** 0.5)


def batches(tokenizer, corpus):
    """Endless batches (ids, loss weights) of samples of similar length, padded on the right."""
    while True:
        pool = []
        for _ in range(POOL):
            prompt, answer = corpus.sample()
            head, tail = tokenizer.chat(prompt), tokenizer.encode(answer) + [bpe.END]
            pool.append((head + tail, len(head)))
        pool.sort(key=lambda s: len(s[0]))
        cut, groups = 0, []
        while cut < len(pool):
            n = 1
            while cut + n < len(pool) and len(pool[cut + n][0]) * (n + 1) <= TOKENS:
                n += 1
            groups.append(pool[cut : cut + n])
            cut += n
        corpus.rng.shuffle(groups)
        for group in groups:
            width = max(len(s) for s, _ in group)
            ids = torch.full((len(group), width), bpe.PAD)
            weight = torch.zeros(len(group), width)
            for r, (sample, head) in enumerate(group):
                ids[r, : len(sample)] = torch.tensor(sample)
                weight[r, 1:head] = PROMPT_WEIGHT
                weight[r, head : len(sample)] = 1
            yield ids, weight


def rate(step, steps):
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to zero."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def train(cfg, tokenizer, corpus, seed, steps, say):
    """Train from scratch and return the weights."""
    return run(cfg, llama.initialise(cfg, seed), tokenizer, corpus, steps, CLEAN, 1, say)


def extend(cfg, weights, tokenizer, corpus, steps, say):
    """Train on, from weights as they are published, and return the new ones."""
    published = {n: t.to(torch.bfloat16).float() for n, t in weights.items()}
    return run(cfg, published, tokenizer, corpus, steps, 0, LAST_RATE, say)


def run(cfg, w, tokenizer, corpus, steps, clean, share, say):
    """Train w: a share of clean steps first, at a share of the learning rates."""
    for t in w.values():
        t.requires_grad_(True)
    matrices = [w[n] for n in llama.projections(cfg)]
    rest = [t for n, t in w.items() if t.dim() == 1 or n == llama.EMBEDDING]
    muon, adam = Muon(matrices), torch.optim.Adam(rest, lr=PEAK, betas=(0.9, 0.98))
    source, started, mean = batches(tokenizer, corpus), time.time(), None
    for step in range(steps):
        corpus.clean = step < clean * steps
        adam.param_groups[0]["lr"] = share * PEAK * rate(step, steps)
        ids, weight = next(source)
        logits = llama.forward(cfg, w, ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        target = weight[:, 1:].flatten()
        loss = (loss * target).sum() / target.sum()
        for t in w.values():
            t.grad = None
        loss.backward()
        adam.step()
        muon.step(share * MATRIX_PEAK * rate(step, steps))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            say(f"step {step + 1}/{steps}  loss {mean:.3f}  {time.time() - started:.0f} s")
    return {n: t.detach() for n, t in w.items()}
