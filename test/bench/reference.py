"""The SVF training step in PyTorch, in two ways.

"reference" goes as the paper's published code goes: every matrix is composed,
W' = (U·diag(σ⊙z))·Vᵀ·(Σσ / Σ(σ⊙z)) with the diagonal as a matrix, and put into the
model; the sequences go forward and backward one by one, which sums the gradients
of the matrices up; then every matrix is composed once more, to take its gradient
back to z. Two things the code does and this does not: it also computes gradients
of matrices that nobody trains, and a loss.

"batched" is the same mathematics for somebody who has read a profile: composed
once, differentiably, without the diagonal's matrix, all sequences in one batch,
and logits only where they are wanted.

"prefill" reads sequences with dense matrices, and "decode" goes on with them token by
token, with keys and values kept, as somebody writes it who uses nothing but PyTorch.

Prints the tokens a second, of training those of forward and backward pass, as JSON.

    python3 reference.py '{"Hidden": 576, ...}' SEQUENCES TOKENS THREADS f32|bf16 reference|batched|prefill|decode cpu|cuda
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

shape = json.loads(sys.argv[1])
sequences, tokens, threads = (int(a) for a in sys.argv[2:5])
torch.set_num_threads(threads)
device = sys.argv[7] if len(sys.argv) > 7 else "cpu"
if device != "cpu":
    torch.set_default_device(device)
torch.manual_seed(0)
dtype = torch.bfloat16 if sys.argv[5] == "bf16" else torch.float32
H, I, L = shape["Hidden"], shape["Inner"], shape["Layers"]
heads, kv_heads, D, V = shape["Heads"], shape["KVHeads"], shape["HeadDim"], shape["Vocab"]
MODULES = {
    "q": (heads * D, H), "k": (kv_heads * D, H), "v": (kv_heads * D, H), "o": (H, heads * D),
    "gate": (I, H), "up": (I, H), "down": (H, I),
}


def matrix(rows, cols):
    return ((torch.rand(rows, cols) - 0.5) * 0.04).to(dtype)


class Matrix:
    """One matrix's factors, its trained parameter, and itself."""

    def __init__(self, rows, cols):
        rank = min(rows, cols)
        self.u, self.s, self.vt = matrix(rows, rank), torch.ones(rank, dtype=dtype), matrix(rank, cols)
        self.p = torch.full((rank,), 0.1, dtype=dtype, requires_grad=True)

    def scaled(self):
        scaled = self.s * torch.sigmoid(self.p)
        return scaled, self.s.sum() / scaled.sum()

    def composed_as_published(self):
        scaled, norm = self.scaled()
        return self.u @ torch.diag_embed(scaled) @ self.vt * norm

    def composed(self):
        scaled, norm = self.scaled()
        return (self.u * (scaled * norm)) @ self.vt


embed = matrix(V, H)
training = sys.argv[6] in ("reference", "batched")
layers = [{name: Matrix(*size) for name, size in MODULES.items()} for _ in range(L)] if training else []

positions = torch.arange(tokens).float()
angles = positions[:, None] / 10000 ** (torch.arange(0, D, 2).float() / D)
cos, sin = (f(torch.cat([angles, angles], -1)).to(dtype) for f in (torch.cos, torch.sin))
mask = torch.full((tokens, tokens), float("-inf")).triu(1).to(dtype)


def norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def rope(x):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def hidden(batch, weights):
    """The states after the last layer; weights(layer, module) is a matrix."""
    x = F.embedding(batch, embed)
    n = len(batch)
    for i in range(L):
        normed = norm(x)
        q, k, v = (F.linear(normed, weights(i, m)).view(n, tokens, -1, D).transpose(1, 2) for m in "qkv")
        q, k = rope(q), rope(k)
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        p = torch.softmax(q @ k.transpose(-1, -2) / D**0.5 + mask, -1)
        x = x + F.linear((p @ v).transpose(1, 2).reshape(n, tokens, -1), weights(i, "o"))
        normed = norm(x)
        x = x + F.linear(F.silu(F.linear(normed, weights(i, "gate"))) * F.linear(normed, weights(i, "up")), weights(i, "down"))
    return norm(x)


def batched(batch):
    composed = [{name: m.composed() for name, m in layer.items()} for layer in layers]
    logits = F.linear(hidden(batch, lambda i, m: composed[i][m])[:, tokens // 2:], embed)
    logits.backward(torch.full_like(logits, 1e-3))


model = [{name: matrix(*size).requires_grad_(training) for name, size in MODULES.items()} for _ in range(L)]


def reference(batch):
    with torch.no_grad():
        for weights, layer in zip(model, layers):
            for name, m in layer.items():
                weights[name].copy_(m.composed_as_published())
                weights[name].grad = None
    for sequence in batch:
        logits = F.linear(hidden(sequence[None], lambda i, m: model[i][m]), embed)[:, tokens // 2:]
        logits.backward(torch.full_like(logits, 1e-3))
    for weights, layer in zip(model, layers):
        for name, m in layer.items():
            m.composed_as_published().backward(weights[name].grad)


def prefill(batch):
    with torch.no_grad():
        F.linear(hidden(batch, lambda i, m: model[i][m])[:, -1:], embed)


def decode(batch):
    """Appends a token to each sequence, as many times as the batch has columns."""
    n, cache = len(batch), torch.zeros(L, 2, len(batch), kv_heads, tokens, D, dtype=dtype)
    with torch.no_grad():
        for t in range(tokens):
            turned = lambda x: x * cos[t] + torch.cat([-x[..., D // 2:], x[..., :D // 2]], -1) * sin[t]
            x = F.embedding(batch[:, t], embed)
            for i in range(L):
                normed, w = norm(x), model[i]
                q, k, v = (F.linear(normed, w[m]).view(n, -1, D) for m in "qkv")
                cache[i, 0, :, :, t], cache[i, 1, :, :, t] = turned(k), v
                keys, values = (c[:, :, : t + 1].repeat_interleave(heads // kv_heads, 1) for c in cache[i])
                p = torch.softmax((turned(q)[:, :, None] @ keys.transpose(-1, -2)) / D**0.5, -1)
                x = x + F.linear((p @ values).reshape(n, -1), w["o"])
                normed = norm(x)
                x = x + F.linear(F.silu(F.linear(normed, w["gate"])) * F.linear(normed, w["up"]), w["down"])
            F.linear(norm(x), embed).argmax(-1)


def synchronize():
    if device != "cpu":
        torch.cuda.synchronize()


step = {"reference": reference, "batched": batched, "prefill": prefill, "decode": decode}[sys.argv[6]]
batch = torch.randint(0, V, (sequences, tokens))
step(batch)
synchronize()
begun = time.perf_counter()
step(batch)
synchronize()
print(json.dumps({"tokens_per_second": sequences * tokens / (time.perf_counter() - begun)}))
