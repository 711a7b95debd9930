#!/usr/bin/python3
"""Adapters in PEFT's file format, and what they make of a model's weights.

    /usr/bin/python3 hack/golden/peft.py

writes runtime/peft/testdata/<case>/: adapter_config.json, the adapter's weights,
and merged.safetensors, the weights of runtime/model/testdata/llama (of ia3-bias:
qwen2, which has biases) that the adapter changes, as PEFT's merge computes them, in
float64. Of ia3-bias there is logits.json, too: what the model says of some tokens with
shares of the adapter, whose forward pass scales outputs with their bias.

The names, the shapes, the order of the tensors and the spelling of the JSON follow
the code of PEFT 0.18 to 0.20 (config.py: save_pretrained; save_and_load.py:
get_peft_model_state_dict; tuners/lora and tuners/ia3) and of safetensors
(serialize). Made with PyTorch 1.13.
"""

import json
import math
import os
import re
import struct

import torch

import model_llama as llama
import reference

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "..", "..", "runtime", "peft", "testdata")

COMMON = {
    "auto_mapping": None,
    "base_model_name_or_path": "models/llama",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "modules_to_save": None,
    "peft_version": "0.18.1",
    "revision": None,
    "task_type": "CAUSAL_LM",
}

LORA = {
    **COMMON,
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 2,
    "rank_pattern": {},
    "target_modules": ["v_proj", "q_proj"],  # A set in memory: in no order.
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}

IA3 = {
    **COMMON,
    "feedforward_modules": ["down_proj"],
    "init_ia3_weights": True,
    "peft_type": "IA3",
    "target_modules": ["k_proj", "v_proj", "down_proj"],
}

# Name: (configuration, dtypes of LoRA's weights and of DoRA's magnitudes).
CASES = {
    "lora": (LORA, torch.float32, None),
    "patterns": (
        {
            **LORA,
            "alpha_pattern": {"layers.1.self_attn.o_proj": 5, "up_proj": 0.5},
            "base_model_name_or_path": "models/größe 🙂\t\"llama\"",
            "peft_version": "0.99.0",
            "rank_pattern": {"^model.layers.0.mlp.down_proj": 3, "o_proj": 1},
            "some_new_field": {"list": [1, 2.5e-07, None, [], {}], "text": "\u007f\u2028"},
            "target_modules": r"model\.layers\.\d+\.(self_attn\.o_proj|mlp\.(up|down)_proj)",
            "use_rslora": True,
        },
        torch.bfloat16,
        None,
    ),
    "dora": (
        {**LORA, "layers_to_transform": [1], "target_modules": ["gate_proj", "k_proj"], "use_dora": True},
        torch.float16,
        torch.float32,
    ),
    "ia3": (IA3, torch.float32, None),
    "ia3-bias": (
        {**IA3, "base_model_name_or_path": "models/qwen2", "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"]},
        torch.float32,
        None,
    ),
    "pickle": ({**LORA, "lora_alpha": 3}, torch.float32, None),
}

BASES = {"ia3-bias": "qwen2"}  # Of the others: llama.
SHARES = [1, 0.6, 0]  # Of the adapter in a mixture with the base.

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ALIGNED = ["F16", "BF16", "F32"]  # In the order of safetensors' Dtype.


def save_file(tensors, path):
    """What safetensors.torch.save_file(tensors, path, {"format": "pt"}) writes."""
    header, at, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name in sorted(tensors, key=lambda n: (-ALIGNED.index(NAMES[tensors[n].dtype]), n)):
        t = tensors[name].contiguous()
        # NumPy has no bfloat16: its bits travel as 16-bit integers.
        blob = (t.view(torch.int16) if t.element_size() == 2 else t).numpy().tobytes()
        header[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def targeted(config, name):
    """PEFT's check_target_module_exists, of what the cases use."""
    targets = config["target_modules"]
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    found = any(name.endswith(f".{t}") for t in targets)
    layers = config.get("layers_to_transform")
    if found and layers is not None:
        return int(re.match(r".*?\.[^.]*\.(\d+)\.", name).group(1)) in layers
    return found


def pattern(patterns, name, default):
    """PEFT's get_pattern_key and what it is used for."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def lora(config, name, w, dtype, magnitudes):
    """The tensors of a matrix, and the merged matrix."""
    rank = pattern(config["rank_pattern"], name, config["r"])
    alpha = pattern(config["alpha_pattern"], name, config["lora_alpha"])
    scaling = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
    a = (torch.randn(rank, w.shape[1]) / 4).to(dtype)
    b = (torch.randn(w.shape[0], rank) / 4).to(dtype)
    key = f"base_model.model.{name}"
    tensors = {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    merged = w + scaling * (b.double() @ a.double())
    if config["use_dora"]:
        m = (torch.linalg.norm(w, dim=1) * (1 + torch.randn(w.shape[0]) / 8)).to(magnitudes)
        tensors[f"{key}.lora_magnitude_vector"] = m
        merged = (m.double() / torch.linalg.norm(merged, dim=1)).view(-1, 1) * merged
    return tensors, merged


def ia3(config, name, w, bias):
    """The tensor of a matrix, the merged matrix, and its merged bias if it has one."""
    feedforward = any(name.endswith(m) for m in config["feedforward_modules"])
    vector = 1 + torch.randn((1, w.shape[1]) if feedforward else (w.shape[0], 1)) / 4
    made = {f"base_model.model.{name}.ia3_l": vector}, w * vector.double()
    return made if bias is None or feedforward else (*made, bias * vector.double().flatten())


def adapt(config, base, dtype=torch.float32, magnitudes=torch.float32):
    """A random adapter's tensors, and those of the model that it changes, merged."""
    tensors, merged = {}, {}
    for weight, w in base.items():
        name = weight[: -len(".weight")]
        if not weight.endswith("_proj.weight") or not targeted(config, name):
            continue
        made = ia3(config, name, w, base.get(name + ".bias")) if config["peft_type"] == "IA3" else lora(config, name, w, dtype, magnitudes)
        tensors.update(made[0])
        merged[weight] = made[1]
        if len(made) > 2:
            merged[name + ".bias"] = made[2]
    return tensors, merged


def save_config(config, folder):
    """What PEFT's save_pretrained writes beside the weights."""
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(config, indent=2, sort_keys=True))


def logits(folder, base, merged):
    """Writes what the model says with shares of an adapter, W + share (W' - W)."""
    with open(os.path.join(os.path.dirname(reference.MODEL), "qwen2", "config.json")) as f:
        config = json.load(f)
    tokens = torch.randint(config["vocab_size"], (11,)).tolist()
    out = {"tokens": tokens, "shares": SHARES, "logits": []}
    for share in SHARES:
        mixed = {n: w + share * (merged[n] - w) if n in merged else w for n, w in base.items()}
        rows = llama.Llama(config, mixed).logits(tokens)
        out["logits"].append([[round(v, 9) for v in row] for row in rows.tolist()])
    with open(os.path.join(folder, "logits.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


def main():
    for case, (config, dtype, magnitudes) in CASES.items():
        model = os.path.join(os.path.dirname(reference.MODEL), BASES.get(case, "llama"))
        base = reference.read_f32(os.path.join(model, "model.safetensors"))
        torch.manual_seed(len(case))
        folder = os.path.join(TESTDATA, case)
        os.makedirs(folder, exist_ok=True)
        tensors, merged = adapt(config, base, dtype, magnitudes)
        if case == "pickle":
            torch.save(tensors, os.path.join(folder, "adapter_model.bin"))
        else:
            save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))
        save_config(config, folder)
        llama.write_safetensors(os.path.join(folder, "merged.safetensors"), merged)
        if case in BASES:
            logits(folder, base, merged)


if __name__ == "__main__":
    main()
