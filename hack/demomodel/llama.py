"""The Llama architecture in plain PyTorch, on a dictionary of tensors with Hugging Face's names.

Letters: B sequences, T positions, C hidden size, H heads, G key/value heads, D head size, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 768,
}
EMBEDDING = "model.embed_tokens.weight"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def layer(i, module):
    """The tensor's name of a projection in layer i."""
    part = "self_attn" if module in ATTENTION else "mlp"
    return f"model.layers.{i}.{part}.{module}.weight"


def projections(cfg):
    """The names of every matrix that SVF can scale."""
    return [layer(i, m) for i in range(cfg["num_hidden_layers"]) for m in ATTENTION + MLP]


def shapes(cfg):
    """The shape of every tensor; matrices are (outputs, inputs)."""
    c, inner = cfg["hidden_size"], cfg["intermediate_size"]
    kv = c // cfg["num_attention_heads"] * cfg["num_key_value_heads"]
    out = {EMBEDDING: (cfg["vocab_size"], c), "model.norm.weight": (c,)}
    matrix = {"q_proj": (c, c), "k_proj": (kv, c), "v_proj": (kv, c), "o_proj": (c, c), "gate_proj": (inner, c),
              "up_proj": (inner, c), "down_proj": (c, inner)}
    for i in range(cfg["num_hidden_layers"]):
        for name, shape in matrix.items():
            out[layer(i, name)] = shape
        out[f"model.layers.{i}.input_layernorm.weight"] = (c,)
        out[f"model.layers.{i}.post_attention_layernorm.weight"] = (c,)
    return out


def initialise(cfg, seed):
    """Fresh weights; what writes into the residual stream starts smaller, by the number of writers."""
    gen = torch.Generator().manual_seed(seed)
    writers = 2 * cfg["num_hidden_layers"]
    weights = {}
    for name, shape in shapes(cfg).items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape)
            continue
        std = 0.02 if name == EMBEDDING else 0.6 / math.sqrt(shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= math.sqrt(writers)
        weights[name] = torch.randn(shape, generator=gen) * std
    return weights


def rms_norm(x, weight, eps):
    """RMSNorm over the last axis."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotary(cfg, first, count):
    """cos and sin (T, D) of the rotary embedding for positions first … first+count-1."""
    d = cfg["hidden_size"] // cfg["num_attention_heads"]
    inverse = cfg["rope_theta"] ** (-torch.arange(0, d, 2).float() / d)
    angle = torch.arange(first, first + count).float()[:, None] * inverse
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """Apply the rotary embedding to x (B, heads, T, D), halves as Hugging Face pairs them."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def forward(cfg, w, ids, pads=None, cache=None):
    """Logits (B, T, V) for ids (B, T).

    pads (B,) counts padding tokens on the left of each row; they are never attended to. Rotary positions are relative,
    so a row may start at any of them. cache, a list that starts empty, holds keys and values of earlier calls.
    """
    heads, groups = cfg["num_attention_heads"], cfg["num_key_value_heads"]
    eps = cfg["rms_norm_eps"]
    x = w[EMBEDDING][ids]
    b, t, c = x.shape
    d = c // heads
    past = cache[0][0].shape[2] if cache else 0
    cos, sin = rotary(cfg, past, t)
    query, key = torch.arange(past, past + t)[:, None], torch.arange(past + t)[None, :]
    hidden = (key > query)[None]
    if pads is not None:
        hidden = hidden | (key[None] < pads[:, None, None])
    bias = torch.zeros(hidden.shape).masked_fill_(hidden, -1e9)[:, None]
    for i in range(cfg["num_hidden_layers"]):
        h = rms_norm(x, w[f"model.layers.{i}.input_layernorm.weight"], eps)
        q = F.linear(h, w[layer(i, "q_proj")]).view(b, t, heads, d).transpose(1, 2)
        k = F.linear(h, w[layer(i, "k_proj")]).view(b, t, groups, d).transpose(1, 2)
        v = F.linear(h, w[layer(i, "v_proj")]).view(b, t, groups, d).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            if len(cache) > i:
                k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
                cache[i] = (k, v)
            else:
                cache.append((k, v))
        k, v = k.repeat_interleave(heads // groups, 1), v.repeat_interleave(heads // groups, 1)
        p = (q @ k.transpose(2, 3) / math.sqrt(d) + bias).softmax(-1)
        x = x + F.linear((p @ v).transpose(1, 2).reshape(b, t, c), w[layer(i, "o_proj")])
        h = rms_norm(x, w[f"model.layers.{i}.post_attention_layernorm.weight"], eps)
        h = F.silu(F.linear(h, w[layer(i, "gate_proj")])) * F.linear(h, w[layer(i, "up_proj")])
        x = x + F.linear(h, w[layer(i, "down_proj")])
    return F.linear(rms_norm(x, w["model.norm.weight"], eps), w[EMBEDDING])


def left_pad(rows, pad):
    """ids (B, T) with padding on the left, and how much of it each row has."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
    return ids, torch.tensor([width - len(r) for r in rows])


@torch.no_grad()
def generate(cfg, w, prompts, end, pad, limit, temperature=0.0, gen=None):
    """Answers (lists of ids, the end token included if it came) to prompts (lists of ids)."""
    ids, pads = left_pad(prompts, pad)
    cache, answers = [], [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    logits = forward(cfg, w, ids, pads, cache)[:, -1]
    for _ in range(limit):
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=gen)[:, 0]
        for r in list(open_rows):
            answers[r].append(int(token[r]))
            if token[r] == end:
                open_rows.discard(r)
        if not open_rows:
            break
        logits = forward(cfg, w, token[:, None], pads, cache)[:, -1]
    return answers
