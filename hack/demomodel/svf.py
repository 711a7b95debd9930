"""SVF experts trained by REINFORCE, as the runtime trains them: W' = U diag(σ⊙z) Vᵀ · Σσ / Σ(σ⊙z), z = sigmoid(p)."""

import random
import time
from dataclasses import dataclass

import torch

import bpe
import corpus
import llama
import rewards
import score


@dataclass
class Options:
    """Hyperparameters of a training run; the defaults are those of the demo's samples."""

    rate: float = 2e-2  # Adam's learning rate
    batch: int = 64  # prompts an iteration, one rollout each
    iterations: int = 40
    kl: float = 0.0  # λ of KL(π'‖π), summed over an answer's tokens
    clip: float = 1e-3  # gradient norm
    rollout: str = "Sample"
    baseline: str = "Mean"
    interval: int = 10  # iterations between validations


def decompose(weights, modules, cfg):
    """{name: (U, σ, Vᵀ)} of the chosen projections of every layer."""
    names = [llama.layer(i, m) for i in range(cfg["num_hidden_layers"]) for m in modules]
    return {n: torch.linalg.svd(weights[n], full_matrices=False) for n in names}


def compose(weights, factors, z):
    """The weights with each decomposed matrix scaled by its z."""
    out = dict(weights)
    for name, (u, s, vt) in factors.items():
        scaled = s * z[name]
        out[name] = (u * scaled) @ vt * (s.sum() / scaled.sum())
    return out


def train(cfg, weights, factors, tokenizer, skill, splits, options, seed, say):
    """Train one expert; returns its best z on validation, that score, and the seconds it took."""
    gen = torch.Generator().manual_seed(seed)
    order = random.Random(seed)
    p = {n: (0.1 + 0.01 * torch.randn(s.shape, generator=gen)).requires_grad_(True) for n, (_, s, _) in factors.items()}
    optimizer = torch.optim.Adam(p.values(), lr=options.rate)
    started, queue = time.time(), []
    best, best_z = -1.0, None
    for step in range(options.iterations + 1):
        z = {n: torch.sigmoid(v) for n, v in p.items()}
        expert = compose(weights, factors, z)
        plain = {n: t.detach() for n, t in expert.items()}
        if step % options.interval == 0 or step == options.iterations:
            value = score.accuracy(cfg, plain, tokenizer, skill, splits["validation"])
            say(f"{skill} seed {seed} iteration {step}: validation {value:.1f} %")
            if value > best:
                best, best_z = value, {n: t.detach().clone() for n, t in z.items()}
        if step == options.iterations:
            break
        while len(queue) < options.batch:
            queue += order.sample(splits["train"], len(splits["train"]))
        records, queue = queue[: options.batch], queue[options.batch :]
        loss, reward = objective(cfg, weights, expert, plain, tokenizer, skill, records, options, gen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.values(), options.clip)
        optimizer.step()
        if step % 5 == 0:
            say(f"{skill} seed {seed} iteration {step}: reward {reward:+.2f}")
    return {"z": best_z, "best": round(best, 1), "seconds": time.time() - started}


def objective(cfg, weights, expert, plain, tokenizer, skill, records, options, gen):
    """−E[Σ log π'(token)·advantage] + λ·E[Σ KL(π'‖π)] over one rollout for each record, and the mean reward."""
    prompts = [tokenizer.chat(corpus.prompt_of(r)) for r in records]
    temperature = 1.0 if options.rollout == "Sample" else 0.0
    rollouts = llama.generate(cfg, plain, prompts, bpe.END, bpe.PAD, score.LIMIT, temperature, gen)
    got = torch.tensor(
        [float(rewards.BY_SKILL[skill](tokenizer.decode(a), r)) for a, r in zip(rollouts, records)]
    )
    advantage = got - got.mean() if options.baseline == "Mean" else got
    rows = [q + a for q, a in zip(prompts, rollouts)]
    ids, pads = llama.left_pad(rows, bpe.PAD)
    # A position counts if the token after it belongs to the answer.
    first = pads + torch.tensor([len(q) for q in prompts]) - 1
    counts = (torch.arange(ids.shape[1] - 1)[None] >= first[:, None]).float()
    logp = llama.forward(cfg, expert, ids[:, :-1], pads).log_softmax(-1)
    chosen = logp.gather(2, ids[:, 1:, None])[..., 0]
    loss = -((chosen * counts).sum(1) * advantage).mean()
    if options.kl > 0:
        with torch.no_grad():
            base = llama.forward(cfg, weights, ids[:, :-1], pads).log_softmax(-1)
        divergence = (logp.exp() * (logp - base)).sum(-1)
        loss = loss + options.kl * (divergence * counts).sum(1).mean()
    return loss, float(got.mean())
