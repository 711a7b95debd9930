#!/usr/bin/python3
"""Logits of a checkpoint that t2 export wrote, loaded by PyTorch.

    go test ./runtime/export -run PyTorch -update
    /usr/bin/python3 hack/golden/exported.py

reads runtime/export/testdata/exported, which is runtime/model/testdata/llama
with the expert of runtime/expert/testdata/reference composed into it, as a
checkpoint in shards is read, and writes runtime/export/testdata/logits.json:
its logits, and those of the base model with the matrices that the reference
implementation's formula gives (reference.py), all in float64. Made with
PyTorch 1.13.
"""

import json
import os

import torch

import model_llama as llama
import reference

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "export", "testdata")
EXPORTED = os.path.join(TESTDATA, "exported")


def load(folder):
    """The tensors of a sharded checkpoint, each from where the index says."""
    with open(os.path.join(folder, "model.safetensors.index.json"), encoding="utf-8") as f:
        index = json.load(f)
    shards = {name: reference.read_f32(os.path.join(folder, name)) for name in set(index["weight_map"].values())}
    weights = {tensor: shards[shard][tensor] for tensor, shard in index["weight_map"].items()}
    if sum(map(len, shards.values())) != len(weights):
        raise ValueError("the shards have tensors that the index has not")
    size = sum(4 * w.numel() for w in weights.values())
    if index["metadata"]["total_size"] != size:
        raise ValueError(f"the index says {index['metadata']['total_size']} bytes, there are {size}")
    return weights


def main():
    with open(os.path.join(EXPORTED, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    weights = load(EXPORTED)
    base = reference.read_f32(os.path.join(reference.MODEL, "model.safetensors"))
    if {n: w.shape for n, w in base.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError("the tensors are others than the base model's")
    composed = reference.read_f32(os.path.join(reference.EXPERT, "composed.safetensors"))
    changed = dict(base)
    changed.update({n[len("expert/") :]: w for n, w in composed.items() if n.startswith("expert/")})
    if any(not torch.equal(weights[n], base[n]) for n in base if "mlp" not in n):
        raise ValueError("a tensor that the expert does not scale was changed")

    torch.manual_seed(5)
    tokens = torch.randint(config["vocab_size"], (13,)).tolist()
    out = {"tokens": tokens}
    for key, w in (("logits", weights), ("reference", changed)):
        out[key] = [[round(x, 9) for x in row] for row in llama.Llama(config, w).logits(tokens).tolist()]
    with open(os.path.join(TESTDATA, "logits.json"), "w", encoding="utf-8") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
