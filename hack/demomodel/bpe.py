"""A byte-level BPE tokenizer in Hugging Face's tokenizer.json format: trainer, encoder and decoder."""

import json
import re
from collections import Counter

SPECIALS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, END, SYSTEM, USER, ASSISTANT = range(5)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# GPT-2's pattern. Python's re has no \p{L} and \p{N}; [^\W\d_] and \d stand for them, which is the same for the
# text that this program generates.
PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
SPLIT_SPECIALS = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")


def byte_alphabet():
    """GPT-2's reversible map from bytes to printable characters."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in plain}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(plain))
    return table


BYTES = byte_alphabet()
UNBYTES = {c: b for b, c in BYTES.items()}


def pieces(text):
    """The words of a text as strings over the byte alphabet."""
    return ["".join(BYTES[b] for b in p.encode()) for p in PIECES.findall(text)]


def join(symbols, pair):
    """Merge each occurrence of a pair."""
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def learn_merges(texts, count):
    """Learn merges from texts by pair frequency; digits never merge, so each stays a token of its own."""
    words = Counter(p for t in texts for p in pieces(t))
    split = {w: list(w) for w in words}
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, n in words.items():
            symbols = split[word]
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += n
        ranked = [(-n, p) for p, n in pairs.items() if not any(c.isdigit() for c in p[0] + p[1])]
        if not ranked:
            raise ValueError(f"the texts allow only {len(merges)} merges of {count}: give more texts")
        best = min(ranked)[1]
        merges.append(best)
        for word, symbols in split.items():
            if len(symbols) > 1:
                split[word] = join(symbols, best)
    return merges


class Tokenizer:
    """Encodes and decodes as the runtime does with the same tokenizer.json."""

    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.rank = {m: i for i, m in enumerate(self.merges)}
        tokens = SPECIALS + [BYTES[b] for b in range(256)] + [a + b for a, b in self.merges]
        self.ids = {t: i for i, t in enumerate(tokens)}
        if len(self.ids) != len(tokens):
            raise ValueError("two merges make the same token")
        self.tokens = tokens
        self.cache = {}

    def __len__(self):
        return len(self.tokens)

    def word(self, piece):
        """Token ids of one word."""
        if piece not in self.cache:
            symbols = list(piece)
            while len(symbols) > 1:
                best = min(zip(symbols, symbols[1:]), key=lambda p: self.rank.get(p, len(self.rank)))
                if best not in self.rank:
                    break
                symbols = join(symbols, best)
            self.cache[piece] = [self.ids[s] for s in symbols]
        return self.cache[piece]

    def encode(self, text):
        """Token ids of a text; special tokens written out in it are recognised."""
        out = []
        for part in SPLIT_SPECIALS.split(text):
            if part in SPECIALS:
                out.append(self.ids[part])
            else:
                out.extend(i for p in pieces(part) for i in self.word(p))
        return out

    def chat(self, prompt):
        """Token ids of a user message, ready for the assistant's answer, as the chat template makes them."""
        return [USER, *self.encode(prompt), END, ASSISTANT]

    def decode(self, ids):
        """The text of token ids, special tokens left out."""
        chars = "".join(self.tokens[i] for i in ids if i >= len(SPECIALS))
        return bytes(UNBYTES[c] for c in chars).decode(errors="replace")

    def to_json(self):
        """The content of tokenizer.json."""
        added = [
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i, t in enumerate(SPECIALS)
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": self.ids, "merges": [f"{a} {b}" for a, b in self.merges],
            },
        }

    def config_json(self):
        """The content of tokenizer_config.json."""
        decoder = {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                     "special": True}
            for i, t in enumerate(SPECIALS)
        }
        return {
            "added_tokens_decoder": decoder,
            "additional_special_tokens": [SPECIALS[SYSTEM], SPECIALS[USER], SPECIALS[ASSISTANT]],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": SPECIALS[END],
            "model_max_length": 512,
            "pad_token": SPECIALS[PAD],
            "tokenizer_class": "PreTrainedTokenizerFast",
        }


def load(path):
    """Read a tokenizer that to_json wrote."""
    with open(path, encoding="utf-8") as f:
        return Tokenizer(m.split(" ") for m in json.load(f)["model"]["merges"])
