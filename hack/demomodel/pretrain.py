"""Training of the base model on the corpus."""

import math
import time

import torch
import torch.nn.functional as F

import bpe
import llama

STEPS = 2000
TOKENS = 3000  # a batch, padding included
POOL = 2048  # samples sorted by length at a time, so that batches hold little padding
PEAK = 4e-3
WARMUP = 60
DECAY = 0.05
PROMPT_WEIGHT = 0.1  # of the loss on prompt tokens, against 1 on answer tokens


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
    """Learning rate: linear warm-up, then a cosine down to zero."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def train(cfg, tokenizer, corpus, seed, steps, say):
    """Train from scratch and return the weights."""
    w = llama.initialise(cfg, seed)
    for t in w.values():
        t.requires_grad_(True)
    matrices = [t for t in w.values() if t.dim() == 2]
    vectors = [t for t in w.values() if t.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), foreach=True)
    source, started, mean = batches(tokenizer, corpus), time.time(), None
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        ids, weight = next(source)
        logits = llama.forward(cfg, w, ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        target = weight[:, 1:].flatten()
        loss = (loss * target).sum() / target.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + vectors, 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            say(f"step {step + 1}/{steps}  loss {mean:.3f}  {time.time() - started:.0f} s")
    return {n: t.detach() for n, t in w.items()}
