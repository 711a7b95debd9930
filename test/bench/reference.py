"""The SVF training step in PyTorch, as the paper's algorithm says it.

Each matrix is composed from its factors, W' = U·diag(σ⊙z)·Vᵀ, once a step
(differentiably in z alone), the model runs on the composed matrices, and
automatic differentiation gives the gradient of every z. Prints the tokens a
second of forward and backward pass as JSON.

    python3 reference.py '{"Hidden": 576, ...}' SEQUENCES TOKENS THREADS f32|bf16
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

shape = json.loads(sys.argv[1])
sequences, tokens, threads = (int(a) for a in sys.argv[2:5])
torch.set_num_threads(threads)
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


embed = matrix(V, H)
factors = []
for _ in range(L):
    layer = {}
    for name, (rows, cols) in MODULES.items():
        rank = min(rows, cols)
        z = torch.ones(rank, requires_grad=True)
        layer[name] = (matrix(rows, rank), torch.ones(rank), matrix(rank, cols), z)
    factors.append(layer)

positions = torch.arange(tokens).float()
angles = positions[:, None] / 10000 ** (torch.arange(0, D, 2).float() / D)
cos, sin = (f(torch.cat([angles, angles], -1)).to(dtype) for f in (torch.cos, torch.sin))
mask = torch.full((tokens, tokens), float("-inf")).triu(1).to(dtype)


def norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def rope(x):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def step(batch):
    x = F.embedding(batch, embed)
    for layer in factors:
        w = {name: (u * (s * z).to(dtype)) @ vt for name, (u, s, vt, z) in layer.items()}
        n = norm(x)
        q, k, v = (F.linear(n, w[m]).view(sequences, tokens, -1, D).transpose(1, 2) for m in "qkv")
        q, k = rope(q), rope(k)
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        p = torch.softmax(q @ k.transpose(-1, -2) / D**0.5 + mask, -1)
        x = x + F.linear((p @ v).transpose(1, 2).reshape(sequences, tokens, -1), w["o"])
        n = norm(x)
        x = x + F.linear(F.silu(F.linear(n, w["gate"])) * F.linear(n, w["up"]), w["down"])
    logits = F.linear(norm(x)[:, tokens // 2:], embed)
    logits.backward(torch.full_like(logits, 1e-3))


batch = torch.randint(0, V, (sequences, tokens))
step(batch)
begun = time.perf_counter()
step(batch)
print(json.dumps({"tokens_per_second": sequences * tokens / (time.perf_counter() - begun)}))
