#!/usr/bin/python3
"""Files as PyTorch and the paper's reference implementation write them.

    /usr/bin/python3 hack/golden/reference.py

writes runtime/checkpoint/torch/testdata/*.pt, files of torch.save with their
values beside them in values.json, and runtime/expert/testdata/reference/: what
SakanaAI/self-adaptive-llms saves of an expert of runtime/model/testdata/llama,

    learnable_params.pt   the parameters p by the names of the matrices
    policy_params.pt      the state_dict of its Policy: p without names
    combination.pt        the state_dict of its WeightedCombination: masks
                          sigmoid(p) of two experts, and their weights
    composed.safetensors  W' of each matrix, by its compose_new_params in float64

combination.pt is of the experts 0 and 1; the other files are of expert 0. Made
anew, all files are the same but legacy.pt and script.pt, which have addresses of
memory in them.
Made with PyTorch 1.13.
"""

import collections
import json
import os
import struct

import torch

import model_llama as llama

HERE = os.path.dirname(os.path.abspath(__file__))
RUNTIME = os.path.join(HERE, "..", "..", "runtime")
SAVES = os.path.join(RUNTIME, "checkpoint", "torch", "testdata")
EXPERT = os.path.join(RUNTIME, "expert", "testdata", "reference")
MODEL = os.path.join(RUNTIME, "model", "testdata", "llama")
ALPHAS = (0.7, 0.4)


def read_f32(path):
    """The float32 tensors of a safetensors file, in its order, as float64."""
    with open(path, "rb") as f:
        raw = f.read()
    (size,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, info in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        first, last = info["data_offsets"]
        t = torch.frombuffer(bytearray(raw[8 + size + first : 8 + size + last]), dtype=torch.float32)
        tensors[name] = t.reshape(info["shape"]).double()
    return tensors


class Small(torch.nn.Module):
    """Has parameters, a buffer and metadata in its state_dict."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("buffer", torch.tensor([1.5, -2.0], dtype=torch.float16))


def saves():
    """Every kind of tensor that is read."""
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8 - 1
    tensors = {
        "float": base.clone(),
        "bfloat16": base.to(torch.bfloat16),
        "half": base.to(torch.float16),
        "double": base.double() / 3,
        "parameter": torch.nn.Parameter(base[:1].clone()),
        "transposed": base.t(),
        "slice": base[1:3, 2:5],
        "every second": base[:, ::2],
        "shared": base,
        "scalar": torch.tensor(0.25),
        "empty": torch.zeros(0, 3),
        "more dimensions": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).permute(2, 0, 1),
        "infinite": torch.tensor([float("inf"), float("-inf")]),
        "größe": torch.tensor([7.0]),
    }
    module = Small().state_dict()
    os.makedirs(SAVES, exist_ok=True)
    torch.save(tensors, os.path.join(SAVES, "tensors.pt"))
    torch.save(tensors, os.path.join(SAVES, "protocol4.pt"), pickle_protocol=4)
    torch.save(module, os.path.join(SAVES, "module.pt"))
    torch.save({"a": base}, os.path.join(SAVES, "legacy.pt"), _use_new_zipfile_serialization=False)
    torch.save(collections.OrderedDict(x=torch.tensor([1, 2])), os.path.join(SAVES, "integers.pt"))
    torch.save([base], os.path.join(SAVES, "list.pt"))
    torch.save({"a": {"b": base}}, os.path.join(SAVES, "nested.pt"))
    torch.save({"a": base, "device": torch.device("cpu")}, os.path.join(SAVES, "device.pt"))
    torch.save(Small(), os.path.join(SAVES, "whole.pt"))
    torch.save({"a": torch.ones(1).expand(5)}, os.path.join(SAVES, "expanded.pt"))
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), os.path.join(SAVES, "script.pt"))

    def value(t):
        return {"shape": list(t.shape), "dtype": str(t.dtype), "values": [str(v) for v in t.detach().float().flatten().tolist()]}

    with open(os.path.join(SAVES, "values.json"), "w", encoding="utf-8") as f:
        json.dump({"tensors": {k: value(v) for k, v in tensors.items()}, "module": {k: value(v) for k, v in module.items()}}, f, indent=1)
        f.write("\n")


class Policy(torch.nn.Module):
    """Saves what the reference's Policy saves."""

    def __init__(self, params):
        super().__init__()
        self.learnable_params_module_list = torch.nn.ParameterList(params)


class WeightedCombination(torch.nn.Module):
    """Saves what the reference's WeightedCombination saves."""

    def __init__(self, experts, alphas):
        super().__init__()
        self.adaptive_weights = torch.nn.Parameter(torch.tensor(alphas).reshape(-1, 1))
        for name in experts[0]:
            for i, expert in enumerate(experts):
                self.register_buffer(f"weights_{i}_k_{name.replace('.', '_')}", torch.sigmoid(expert[name].detach()))


def compose(w, mask):
    """The reference's compose_new_params, mask given, in float64."""
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    return u @ torch.diag(s * mask) @ vt * (s.sum() / (s * mask).sum())


def reference():
    """Two experts of a model."""
    os.makedirs(EXPERT, exist_ok=True)
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as f:
        layers = json.load(f)["num_hidden_layers"]
    base = read_f32(os.path.join(MODEL, "model.safetensors"))
    # In the order of the model's modules, which that of a state_dict is.
    names = [f"model.layers.{i}.mlp.{m}.weight" for i in range(layers) for m in ("gate_proj", "up_proj", "down_proj")]
    torch.manual_seed(1)
    experts = []
    for _ in ALPHAS:
        experts.append({n: torch.nn.Parameter((torch.randn(min(base[n].shape)) + 0.1).to(torch.bfloat16)) for n in names})
    torch.save(experts[0], os.path.join(EXPERT, "learnable_params.pt"))
    torch.save(Policy(list(experts[0].values())).state_dict(), os.path.join(EXPERT, "policy_params.pt"))
    combination = WeightedCombination(experts, ALPHAS).state_dict()
    torch.save(combination, os.path.join(EXPERT, "combination.pt"))

    composed = {}
    weights = combination["adaptive_weights"].double().flatten()
    for n in names:
        p = experts[0][n].detach().double()
        composed["expert/" + n] = compose(base[n], torch.sigmoid(p))
        masks = [combination[f"weights_{i}_k_{n.replace('.', '_')}"].double() for i in range(len(ALPHAS))]
        composed["combination/" + n] = compose(base[n], sum(a * m for a, m in zip(weights, masks)))
    llama.write_safetensors(os.path.join(EXPERT, "composed.safetensors"), composed)


if __name__ == "__main__":
    saves()
    reference()
