"""A Llama-family transformer in PyTorch, written for golden values.

It follows the published architecture (RMSNorm, rotary embeddings in the
half-split layout, grouped-query attention, SwiGLU) as plainly as possible and
computes in float64, so that golden values are exact to float32. A projection is
dense, or factored as U·diag(s)·Vt when its name is in `factors`.
"""

import json
import math
import os
import struct

import numpy as np
import torch

PROJECTIONS = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]


def shapes(c):
    """Every projection of every layer: name -> (out, in)."""
    width = c["num_attention_heads"] * c["head_dim"]
    keys = c["num_key_value_heads"] * c["head_dim"]
    h, inner = c["hidden_size"], c["intermediate_size"]
    sizes = [(width, h), (keys, h), (keys, h), (h, width), (inner, h), (inner, h), (h, inner)]
    return {
        f"model.layers.{i}.{p}": size
        for i in range(c["num_hidden_layers"])
        for p, size in zip(PROJECTIONS, sizes)
    }


def random_weights(c, generator):
    """Random float32 weights that keep activations near one."""

    def normal(*shape, mean=0.0, deviation=1.0):
        return (mean + deviation * torch.randn(*shape, generator=generator)).float()

    h = c["hidden_size"]
    w = {"model.embed_tokens.weight": normal(c["vocab_size"], h)}
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = normal(c["vocab_size"], h, deviation=1 / math.sqrt(h))
    w["model.norm.weight"] = normal(h, mean=1.0, deviation=0.1)
    for i in range(c["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            w[f"model.layers.{i}.{norm}.weight"] = normal(h, mean=1.0, deviation=0.1)
    for name, (out, inputs) in shapes(c).items():
        w[name + ".weight"] = normal(out, inputs, deviation=1 / math.sqrt(inputs))
    if c["model_type"] == "qwen2":
        for name, (out, _) in shapes(c).items():
            if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                w[name + ".bias"] = normal(out, deviation=0.5)
    if c["model_type"] == "qwen3":
        for i in range(c["num_hidden_layers"]):
            for norm in ("q_norm", "k_norm"):
                w[f"model.layers.{i}.self_attn.{norm}.weight"] = normal(c["head_dim"], mean=1.0, deviation=0.3)
    return w


def frequencies(c):
    """Rotary frequencies, rounded to float32 as the reference does."""
    d = c["head_dim"]
    f = 1.0 / (c["rope_theta"] ** (torch.arange(0, d, 2).float() / d))
    scaling = c.get("rope_scaling")
    if scaling:
        original = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelength = 2 * math.pi / f
        smooth = (original / wavelength - low) / (high - low)
        blended = (1 - smooth) * f / scaling["factor"] + smooth * f
        f = torch.where(
            wavelength > original / low,
            f / scaling["factor"],
            torch.where(wavelength < original / high, f, blended),
        )
    return f


class Llama:
    def __init__(self, config, weights, factors=None):
        self.c = config
        self.w = {k: v.double() for k, v in weights.items()}
        self.factors = factors or {}  # name -> (U, s, Vt), float64

    def linear(self, name, x):
        bias = self.w.get(name + ".bias", 0)
        if name in self.factors:
            u, s, vt = self.factors[name]
            return (x @ vt.T * s) @ u.T + bias
        return x @ self.w[name + ".weight"].T + bias

    def norm(self, name, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"])
        return x * scale * self.w[name + ".weight"]

    def head_norm(self, name, x):
        """Qwen3's norm of each head; nothing in other families."""
        return self.norm(name, x) if name + ".weight" in self.w else x

    def rotate(self, x):
        t, d = x.shape[0], self.c["head_dim"]
        angle = (torch.arange(t).float()[:, None] * frequencies(self.c)).double()
        cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def logits(self, tokens):
        """tokens: a list of T ids -> [T, V]."""
        c = self.c
        t, d = len(tokens), c["head_dim"]
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        mask = torch.full((t, t), -math.inf, dtype=torch.float64).triu(1)
        x = self.w["model.embed_tokens.weight"][tokens]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            n = self.norm(p + "input_layernorm", x)
            q = self.linear(p + "self_attn.q_proj", n).view(t, heads, d)
            k = self.linear(p + "self_attn.k_proj", n).view(t, kv, d)
            q = self.rotate(self.head_norm(p + "self_attn.q_norm", q))
            k = self.rotate(self.head_norm(p + "self_attn.k_norm", k))
            v = self.linear(p + "self_attn.v_proj", n).view(t, kv, d)
            k, v = (y.repeat_interleave(heads // kv, 1) for y in (k, v))
            scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(d) + mask
            out = torch.einsum("hts,shd->thd", scores.softmax(-1), v).reshape(t, heads * d)
            x = x + self.linear(p + "self_attn.o_proj", out)
            m = self.norm(p + "post_attention_layernorm", x)
            gate = self.linear(p + "mlp.gate_proj", m)
            up = self.linear(p + "mlp.up_proj", m)
            x = x + self.linear(p + "mlp.down_proj", gate * torch.sigmoid(gate) * up)
        head = "model.embed_tokens" if c["tie_word_embeddings"] else "lm_head"
        return self.norm("model.norm", x) @ self.w[head + ".weight"].T


def write_safetensors(path, tensors):
    """Writes float32 tensors, sorted by name, with an aligned header."""
    header, data = {}, b""
    for name in sorted(tensors):
        raw = np.ascontiguousarray(tensors[name].detach().numpy().astype("<f4")).tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def write_model(folder, config, weights):
    """Writes config.json and model.safetensors."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1, sort_keys=True)
        f.write("\n")
    write_safetensors(os.path.join(folder, "model.safetensors"), weights)
