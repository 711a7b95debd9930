#!/usr/bin/python3
"""What models say under mixtures of experts of every method, and of several.

    /usr/bin/python3 hack/golden/mixtures.py

writes runtime/engine/testdata/mixtures/<model>/, for models of
runtime/model/testdata: an adapter in PEFT's file format for each expert of LoRA, DoRA
and IA3, scales.json with z of the experts of SVF, and golden.json: mixtures, and for
each the model's greedy answer to a prompt with the logits that it is chosen by.

A mixture is W' = W + sum_k a_k (W'_k - W), matrix by matrix, and the same of biases,
from what PEFT's merge makes of each expert alone (peft.py). SVF is mixed by
z' = sum_k a_k z_k as in the paper's section 3.2, where an expert that does not scale a
matrix, or the base, counts as ones; that is the same where the weights add up to 1,
and else scales the whole matrix. Only then are several methods mixed with SVF. Weights
may differ by layer.

What PEFT 0.20 makes of weights is beside that:

- add_weighted_adapter of LoRA makes the same matrix by combination_type "cat", the same
  of less rank by "svd", and by "linear" another one: the sums of sqrt(a_k s_k) A_k and of
  sqrt(a_k s_k) B_k, whose product has A of one expert times B of another in it.
- Of DoRA it mixes A and B, and leaves the magnitudes that the new adapter begins with.
  Several active adapters of DoRA add up as here in its forward pass (with weight 1
  each), but are merged one into what the last made.
- Of IA3 it makes sum_k a_k l_k, the same where the weights add up to 1 and all of the
  experts have the matrix; several active adapters multiply each other.
- Its batches of several adapters have one for each sequence, and none of DoRA.

Everything is computed in float64. Made with PyTorch 1.13.
"""

import json
import os
import re

import torch

import model_llama as llama
import peft
import reference

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "engine", "testdata", "mixtures")
MODELS = os.path.dirname(reference.MODEL)

PROMPT, ANSWER = 7, 5  # Tokens.
MARGIN = 1e-3  # Between the two likeliest tokens, far more than float32 rounds.


def low_rank(rank, alpha, *modules, dora=False):
    return {**peft.LORA, "r": rank, "lora_alpha": alpha, "target_modules": list(modules), "use_dora": dora}


def gains(*modules):
    feedforward = [m for m in modules if m == "down_proj"]
    return {**peft.IA3, "target_modules": list(modules), "feedforward_modules": feedforward}


# Two of each method, with one matrix at least that both have, and one that one has.
EXPERTS = {
    "llama": {
        "lora-a": low_rank(2, 3, "q_proj", "v_proj"),
        "lora-b": low_rank(3, 4, "q_proj", "up_proj", "down_proj"),
        "dora-a": low_rank(2, 4, "q_proj", "gate_proj", dora=True),
        "dora-b": low_rank(1, 2, "gate_proj", "k_proj", dora=True),
        "ia3-a": gains("k_proj", "v_proj", "down_proj"),
        "ia3-b": gains("k_proj", "down_proj"),
        "svf-a": ["o_proj"],
        "svf-b": ["o_proj", "up_proj"],
    },
    # Its queries, keys and values have biases, which IA3 scales and the others do not.
    "qwen2": {
        "lora-a": low_rank(2, 3, "q_proj", "o_proj"),
        "dora-a": low_rank(2, 4, "q_proj", "k_proj", dora=True),
        "dora-b": low_rank(3, 2, "k_proj", "v_proj", dora=True),
        "ia3-a": gains("q_proj", "k_proj", "v_proj", "down_proj"),
        "ia3-b": gains("k_proj", "v_proj"),
    },
}

# Weights of experts, or lists of them: one for each layer.
MIXTURES = {
    "llama": [
        {"lora-a": 0.7, "lora-b": 0.3},
        {"lora-a": 0.5, "lora-b": 0.9},
        {"lora-a": -0.4, "lora-b": 1.2},
        {"base": 0.5, "lora-a": 0.2, "lora-b": 0.3},
        {"dora-a": 0.6, "dora-b": 0.4},
        {"dora-a": 0.8, "dora-b": 0.7},
        {"ia3-a": 0.25, "ia3-b": 0.75},
        {"ia3-a": 0.9, "ia3-b": 0.6},
        {"svf-a": 0.3, "svf-b": 0.7},
        {"svf-a": 0.5, "svf-b": 0.7},
        {"lora-a": 0.5, "lora-b": 0.4, "dora-a": 0.6, "dora-b": 0.3, "ia3-a": 0.7, "ia3-b": 0.2},
        {"svf-a": 0.4, "svf-b": 0.2, "lora-b": 0.15, "dora-a": 0.15, "ia3-a": 0.1},
        {"base": 0.25, "svf-b": 0.5, "lora-b": 0.25},
        {"lora-a": [0.9, 0.1], "lora-b": [0.3, 0.6]},
        {"svf-b": [0.8, 0.3], "lora-b": [0.2, 0.7]},
    ],
    "qwen2": [
        {"dora-a": 0.6, "dora-b": 0.4},
        {"dora-a": 0.9, "dora-b": 0.5},
        {"ia3-a": 0.3, "ia3-b": 0.7},
        {"ia3-a": 0.8, "ia3-b": 0.6},
        {"lora-a": 0.5, "dora-a": 0.4, "ia3-a": 0.3, "ia3-b": -0.2},
        {"ia3-a": [0.2, 0.9], "lora-a": [0.7, 0.1]},
    ],
}


def layer_of(name):
    return int(re.match(r"model\.layers\.(\d+)\.", name).group(1))


def share(weight, name):
    return weight[layer_of(name)] if isinstance(weight, list) else weight


def make(folder, config, base):
    """Writes an expert of PEFT's and returns what its merge makes of tensors."""
    tensors, merged = peft.adapt(config, base)
    os.makedirs(folder, exist_ok=True)
    peft.save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))
    peft.save_config(config, folder)
    return merged


def scales(modules, base):
    """z of an expert of SVF, in float32."""
    z = {}
    for weight, w in base.items():
        if weight.split(".")[-2] in modules:
            z[weight] = (1 + torch.randn(min(w.shape)) / 3).clamp(0.1, 2)
    return z


def mix(mixture, merged, scaled, base):
    """The tensors of a mixture."""
    mixed = dict(base)
    for name, w in base.items():
        of = [(share(a, name), e) for e, a in mixture.items() if name.startswith("model.layers.")]
        if any(name in scaled.get(e, {}) for _, e in of):
            u, s, vt = torch.linalg.svd(w, full_matrices=False)
            ones = torch.ones_like(s)
            z = sum(a * scaled.get(e, {}).get(name, ones).double() for a, e in of)
            mixed[name] = u @ torch.diag(s * z) @ vt
        for a, e in of:
            if name in merged.get(e, {}):
                mixed[name] = mixed[name] + a * (merged[e][name] - w)
    return mixed


def answer(config, weights, prompt):
    """The greedy answer, and the logits [ANSWER, V] of each of its tokens."""
    model, tokens, rows = llama.Llama(config, weights), list(prompt), []
    for _ in range(ANSWER):
        row = model.logits(tokens)[-1]
        first, second = row.topk(2).values.tolist()
        if first - second < MARGIN:
            raise ValueError(f"two tokens are nearly as likely behind {tokens}: choose another seed")
        tokens.append(int(row.argmax()))
        rows.append([round(v, 9) for v in row.tolist()])
    return tokens[len(prompt) :], rows


def main():
    for model, experts in EXPERTS.items():
        with open(os.path.join(MODELS, model, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        base = reference.read_f32(os.path.join(MODELS, model, "model.safetensors"))
        folder = os.path.join(TESTDATA, model)
        torch.manual_seed(3)
        merged, scaled = {}, {}
        for name, expert in experts.items():
            if isinstance(expert, list):
                scaled[name] = scales(expert, base)
            else:
                expert = {**expert, "base_model_name_or_path": "models/" + model}
                merged[name] = make(os.path.join(folder, name), expert, base)
        prompt = torch.randint(config["vocab_size"], (PROMPT,)).tolist()
        golden = {"prompt": prompt, "mixtures": []}
        for mixture in MIXTURES[model]:
            tokens, rows = answer(config, mix(mixture, merged, scaled, base), prompt)
            weights = {e: a if isinstance(a, list) else [a] for e, a in mixture.items()}
            golden["mixtures"].append({"weights": weights, "answer": tokens, "logits": rows})
        listed = {e: {n[: -len(".weight")]: z.tolist() for n, z in of.items()} for e, of in scaled.items()}
        for file, content in (("golden.json", golden), ("scales.json", listed)):
            with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
                json.dump(content, f, separators=(",", ":"))
                f.write("\n")


if __name__ == "__main__":
    main()
