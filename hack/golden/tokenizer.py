#!/usr/bin/env python3
"""Goldens of runtime/tokenizer: two small tokenizers with the encodings of a
straightforward implementation, and chat templates as Jinja2 renders them.

    python3 hack/golden/tokenizer.py runtime/tokenizer/testdata

Needs jinja2 (made with 3.1.6). The implementation here shares no idea with the
one under test: it scans for the best merge again and again, splits words by
hand with unicodedata, and knows no regular expression.
"""

import json
import os
import random
import sys
import unicodedata

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

VERSION = 1

CORPUS = """
the cat sat on the mat and the dog ate the hat. that is what they said, isn't it?
we're adding 12 and 34 to 567; they've counted 1000 times. don't worry, i'll help.
def add(a, b):
    return a + b
for i in range(10):
    print(i, add(i, 1))
Grüße aus Köln — naïve café. これは日本語です。これはペンです。
""" * 3

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t x", "the", " the", "  the", "the the", "theatre", "Hello, world!",
    "isn't it? They've DON'T we'll", "12345 and 6.7", "x=1;y=22", "def add(a, b):\n    return a + b\n",
    "trailing   ", "a  b   c", "naïve café — Grüße", "これは日本語のペンです。", "🦙 and 👩‍🚀", "a\u00a0b\u3000c",
    "ⅷ ½ ٣", "\u0000\u0001", "!!!???...", "'s 't 're", "aaaaaaaaaaaaaaaa", "ababababab thethethe", "mixed日本語and English",
    "end.\r\nnext\rline", "e\u0301 combining", "the cat sat on the mat and the dog ate the hat. " * 4,
]


# Byte-level: words as GPT-2 splits them, bytes spelled as characters.


def byte_alphabet():
    table, extra = {}, 0
    for b in range(256):
        printable = 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or 0xAE <= b <= 0xFF
        table[b] = chr(b) if printable else chr(0x100 + extra)
        extra += not printable
    return table


ALPHABET = byte_alphabet()


def kind(c):
    category = unicodedata.category(c)
    if category[0] == "L":
        return "letter"
    if category[0] == "N":
        return "number"
    return "space" if c.isspace() else "other"


def gpt2_words(text):
    words, i = [], 0
    while i < len(text):
        for suffix in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"):
            if text.startswith(suffix, i):
                words.append(suffix)
                i += len(suffix)
                break
        else:
            start = i
            j = i + 1 if text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "space" else i
            if kind(text[j]) == "space":
                while j < len(text) and kind(text[j]) == "space":
                    j += 1
                # The last space belongs to the word after it.
                if j < len(text) and j - start > 1:
                    j -= 1
            else:
                group = kind(text[j])
                while j < len(text) and kind(text[j]) == group:
                    j += 1
            words.append(text[start:j])
            i = j
    return words


def spell(word):
    return [ALPHABET[b] for b in word.encode()]


# Merging.


def join(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def train(words, count):
    merges = []
    while len(merges) < count:
        frequency = {}
        for w in words:
            for pair in zip(w, w[1:]):
                frequency[pair] = frequency.get(pair, 0) + 1
        if not frequency:
            break
        best = max(frequency, key=lambda p: (frequency[p], p))
        words = [join(w, best) for w in words]
        merges.append(best)
    return merges


def merge(symbols, merges):
    rank = {pair: i for i, pair in enumerate(merges)}
    while True:
        pairs = [p for p in zip(symbols, symbols[1:]) if p in rank]
        if not pairs:
            return symbols
        symbols = join(symbols, min(pairs, key=rank.get))


def byte_level():
    merges = train([spell(w) for w in gpt2_words(CORPUS)], 150)
    tokens = [ALPHABET[b] for b in range(256)] + [a + b for a, b in merges] + ["<|end|>"]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    end = vocab.pop("<|end|>")
    file = {
        "version": "1.0",
        "added_tokens": [{"id": end, "content": "<|end|>", "special": True, "normalized": False}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(m) for m in merges]},
    }

    def encode(text):
        return [vocab[s] for w in gpt2_words(text) for s in merge(spell(w), merges)]

    return file, encode


def sentence_piece():
    def prepare(text):
        return list("▁" + text.replace(" ", "▁")) if text else []

    merges = train([prepare(line) for line in CORPUS.split("\n") if line.isascii()], 150)
    characters = sorted({c for line in CORPUS.split("\n") if line.isascii() for c in prepare(line)})
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + characters + [a + b for a, b in merges]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    file = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": t, "special": True, "normalized": False} for i, t in enumerate(tokens[:3])],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                  "merges": [a + " " + b for a, b in merges]},
    }

    def encode(text):
        symbols = []
        for c in prepare(text):
            symbols += [c] if c in vocab else [f"<0x{b:02X}>" for b in c.encode()]
        return [vocab[s] for s in merge(symbols, merges)]

    return file, encode


# Chat templates: each uses constructs that published ones use.

TEMPLATES = {
    "headers and trimming": """{% for message in messages %}
    {% if loop.first %}{{ bos_token }}{% endif %}
<|{{ message['role'] }}|>
{{ message['content'] | trim }}<|end|>
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}""",
    "system message first": """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{{- bos_token }}
{%- for m in rest %}
    {%- if m.role == 'user' %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + m.content + '[/INST]' }}
        {%- endif %}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content + eos_token }}
    {%- else %}
        {{- raise_exception('no role ' + m.role) }}
    {%- endif %}
{%- endfor %}""",
    "namespace and reversal": """{%- set ns = namespace(seen=0, last=-1) %}
{%- for m in messages[::-1] %}
    {%- if m['role'] == 'user' and ns.last < 0 %}{%- set ns.last = (messages | length) - 1 - loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if loop.index0 == ns.last %}{{ '>>' }}{%- endif %}
    {{- loop.index ~ '/' ~ loop.length ~ ' ' ~ (m['role'] | upper) ~ ': ' ~ m['content'].split('|')[-1].strip() }}
    {%- if not loop.last %}{{ '\\n' }}{% endif %}
{%- endfor %}
{%- if tools is defined and tools is not none %}TOOLS{% endif %}
{%- if add_generation_prompt is defined and add_generation_prompt %}{{ '\\nASSISTANT:' }}{%- endif %}""",
    "macro and conditional expression": """{%- macro turn(role, content) -%}
<{{ role }}>{{ content }}</{{ role }}>
{%- endmacro -%}
{%- for m in messages -%}
{{ turn('human' if m['role'] == 'user' else m['role'], m['content'].replace('a', 'A') if 'a' in m['content'] else m['content']) }}
{%- endfor -%}
{{ '<assistant>' if add_generation_prompt else '' }}""",
}

CONVERSATIONS = [
    [("user", "Hello there")],
    [("system", "Be brief."), ("user", "  What is 2+2? ")],
    [("user", "a | b"), ("assistant", "c"), ("user", "banana\nsplit")],
    [("system", "Ünïcode 日本 <b>&amp;</b> \"quotes\""), ("user", "one"), ("assistant", "two {{ x }}"), ("user", "three")],
]


def render(template, messages, generation):
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template).render(
        messages=[{"role": r, "content": c} for r, c in messages],
        add_generation_prompt=generation, tools=None, documents=None, bos_token="<s>", eos_token="</s>")


def main():
    out = sys.argv[1]
    rng = random.Random(5)
    words = CORPUS.split()
    texts = TEXTS + [" ".join(rng.choice(words) for _ in range(rng.randint(1, 30))) for _ in range(20)]
    for name, (file, encode) in {"bytelevel": byte_level(), "sentencepiece": sentence_piece()}.items():
        os.makedirs(os.path.join(out, name), exist_ok=True)
        with open(os.path.join(out, name, "tokenizer.json"), "w") as f:
            json.dump(file, f, ensure_ascii=False)
            f.write("\n")
        with open(os.path.join(out, name, "golden.json"), "w") as f:
            json.dump({"version": VERSION, "made by": "hack/golden/tokenizer.py",
                       "cases": [{"text": t, "ids": encode(t)} for t in texts]}, f)
            f.write("\n")
    cases = []
    for name, template in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            for generation in (False, True):
                cases.append({
                    "name": name, "template": template, "generation": generation,
                    "messages": [{"role": r, "content": c} for r, c in conversation],
                    "text": render(template, conversation, generation)})
    with open(os.path.join(out, "chat.json"), "w") as f:
        json.dump({"version": VERSION, "made by": "hack/golden/tokenizer.py, jinja2 " + jinja2.__version__, "cases": cases}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
