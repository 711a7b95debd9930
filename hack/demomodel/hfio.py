"""Reading and writing models in Hugging Face's layout, safetensors done here."""

import json
import struct
from pathlib import Path

import torch

import bpe
import llama


def write_safetensors(path, tensors):
    """Write float tensors as BF16, names sorted, header padded to eight bytes."""
    header, at, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name in sorted(tensors):
        # NumPy has no bfloat16: its bits travel as 16-bit integers.
        blob = tensors[name].detach().to(torch.bfloat16).contiguous().view(torch.int16).numpy().astype("<i2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    """Read what write_safetensors wrote, as float32."""
    raw = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        if info["dtype"] != "BF16":
            raise ValueError(f"{path}: tensor {name} has dtype {info['dtype']}, expected BF16")
        first, last = info["data_offsets"]
        bits = torch.frombuffer(bytearray(raw[8 + size + first : 8 + size + last]), dtype=torch.int16)
        tensors[name] = bits.view(torch.bfloat16).reshape(info["shape"]).float()
    return tensors


def save(folder, cfg, weights, tokenizer):
    """Write every file of a model but its card."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", cfg)
    generation = {"do_sample": False, "eos_token_id": cfg["eos_token_id"], "pad_token_id": cfg["pad_token_id"]}
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "tokenizer.json", tokenizer.to_json())
    write_json(folder / "tokenizer_config.json", tokenizer.config_json())
    special = {"eos_token": bpe.SPECIALS[bpe.END], "pad_token": bpe.SPECIALS[bpe.PAD]}
    write_json(folder / "special_tokens_map.json", special)
    write_safetensors(folder / "model.safetensors", weights)


def load(folder):
    """Read (config, weights, tokenizer)."""
    folder = Path(folder)
    cfg = json.loads((folder / "config.json").read_text())
    weights = read_safetensors(folder / "model.safetensors")
    wanted = llama.shapes(cfg)
    if {n: tuple(t.shape) for n, t in weights.items()} != wanted:
        raise ValueError(f"{folder}: the tensors do not match config.json")
    return cfg, weights, bpe.load(folder / "tokenizer.json")


def write_json(path, value):
    """Write indented JSON with a final newline."""
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
