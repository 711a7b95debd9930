#!/usr/bin/python3
"""Golden values for model.ForwardAnswers: experts that act on answers alone.

    /usr/bin/python3 hack/golden/answer.py

writes runtime/model/testdata/<case>/answer.json beside the model and the
decomposition that model.py has made, which it reads. Positions before `from`
are computed by the base's dense matrices, those from there on by the scaled
factors, all in one pass: each attends to whatever was computed before it. That
no gradient reaches the former follows from autograd and is not arranged.
Made with PyTorch 1.13, in float64.
"""

import json
import os
import struct

import numpy as np
import torch

import model_llama as llama
from model import TESTDATA, rows


def read_safetensors(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    out = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        assert about["dtype"] == "F32", about
        a, b = about["data_offsets"]
        out[name] = torch.from_numpy(np.frombuffer(data[a:b], "<f4").copy().reshape(about["shape"]))
    return out


class Answering(llama.Llama):
    """Rows before self.start are dense, whatever the factors are."""

    def linear(self, name, x):
        u, s, vt = self.factors[name]
        bias = self.w.get(name + ".bias", 0)
        dense = x @ self.w[name + ".weight"].T
        scaled = (x @ vt.T * s) @ u.T
        answering = torch.arange(len(x))[:, None] >= self.start
        return torch.where(answering, scaled, dense) + bias


def golden(folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(folder, "golden.json")) as f:
        old = json.load(f)
    weights = read_safetensors(os.path.join(folder, "model.safetensors"))
    stored = read_safetensors(os.path.join(folder, "factors.safetensors"))
    factors = {
        name: (stored[name + ".U"].double(), stored[name + ".s"].double().requires_grad_(), stored[name + ".Vt"].double())
        for name in llama.shapes(config)
    }
    model = Answering(config, weights, factors)
    loss, out = 0.0, {"factored": []}
    for q, reward in zip(old["sequences"], old["rewards"]):
        tokens, model.start = q["tokens"], q["from"]
        wanted = model.logits(tokens)[model.start : -1]
        out["factored"].append(rows(wanted))
        loss = loss - reward * wanted.log_softmax(-1)[range(len(wanted)), tokens[model.start + 1 :]].sum()
    loss.backward()
    out["loss"] = loss.item()
    out["gradients"] = {p: [round(v, 9) for v in factors[p][1].grad.tolist()] for p in factors}
    with open(os.path.join(folder, "answer.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    for case in sorted(os.listdir(TESTDATA)):
        golden(os.path.join(TESTDATA, case))
