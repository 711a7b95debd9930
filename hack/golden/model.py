#!/usr/bin/python3
"""Golden values for runtime/model: logits and gradients of tiny random models.

    /usr/bin/python3 hack/golden/model.py

writes runtime/model/testdata/<case>/: the model (config.json,
model.safetensors), its decomposition (factors.safetensors) and golden.json.
Made with PyTorch 1.13. Every value is computed in float64 from the float32
numbers in the files, so only float32 rounding separates a right implementation
from it.
"""

import json
import os

import torch

import model_llama as llama

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "model", "testdata")

COMMON = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

CASES = {
    # Grouped queries, heads wider than hidden/heads, untied, stretched rope.
    "llama": {
        **COMMON,
        "model_type": "llama",
        "hidden_size": 20,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 45,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    # One key-value head for each query head, tied.
    "mistral": {
        **COMMON,
        "model_type": "mistral",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 33,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    # Biases on queries, keys and values, and a sliding window that is off.
    "qwen2": {
        **COMMON,
        "model_type": "qwen2",
        "hidden_size": 16,
        "intermediate_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "vocab_size": 37,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "sliding_window": 32,
        "use_sliding_window": False,
    },
    # A norm on each head of queries and keys.
    "qwen3": {
        **COMMON,
        "model_type": "qwen3",
        "hidden_size": 20,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "vocab_size": 41,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "layer_types": ["full_attention", "full_attention"],
    },
}

# Sequences of different lengths, and from which position logits are wanted.
LENGTHS = [(3, 0), (17, 5), (9, 7)]


def rows(t):
    return [[round(v, 9) for v in row] for row in t.tolist()]


def golden(name, config, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = llama.random_weights(config, generator)
    factors, stored = {}, {}
    for projection in llama.shapes(config):
        u, s, vt = torch.linalg.svd(weights[projection + ".weight"].double(), full_matrices=False)
        # An expert: every singular value scaled by a factor of its own.
        s = s * (0.5 + torch.rand(len(s), generator=generator).double())
        u, s, vt = (x.float() for x in (u, s, vt))
        stored.update({projection + ".U": u, projection + ".s": s, projection + ".Vt": vt})
        factors[projection] = (u.double(), s.double().requires_grad_(), vt.double())

    sequences = [
        {
            "tokens": torch.randint(config["vocab_size"], (n,), generator=generator).tolist(),
            "from": start,
        }
        for n, start in LENGTHS
    ]
    dense = llama.Llama(config, weights)
    scaled = llama.Llama(config, weights, factors)
    # As in policy-gradient training: a weight for each sequence times the
    # log-likelihood of its answer.
    rewards = [1.0, -0.7, 0.4]
    loss = 0.0
    out = {"sequences": sequences, "rewards": rewards, "dense": [], "factored": []}
    for q, reward in zip(sequences, rewards):
        tokens, start = q["tokens"], q["from"]
        out["dense"].append(rows(dense.logits(tokens)))
        wanted = scaled.logits(tokens)[start:-1]
        out["factored"].append(rows(wanted))
        picked = wanted.log_softmax(-1)[range(len(wanted)), tokens[start + 1 :]]
        loss = loss - reward * picked.sum()
    loss.backward()
    out["loss"] = loss.item()
    out["gradients"] = {
        p: [round(v, 9) for v in factors[p][1].grad.tolist()] for p in factors
    }

    folder = os.path.join(TESTDATA, name)
    llama.write_model(folder, config, weights)
    llama.write_safetensors(os.path.join(folder, "factors.safetensors"), stored)
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    for i, (case, config) in enumerate(CASES.items()):
        golden(case, config, 7 + i)
