#!/usr/bin/python3
"""Make the data sets and the base models that `make paper` measures; score a model on the sets.

    make.py data  --data ../data
    make.py model --seed 0 --out ../models/a
    make.py long  --model ../models/a --out ../models/long
    make.py score --model ../models/a --data ../data
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "demomodel"))

import torch  # noqa: E402

import bpe  # noqa: E402
import corpus  # noqa: E402
import hardcorpus  # noqa: E402
import hfio  # noqa: E402
import llama  # noqa: E402
import pretrain  # noqa: E402
import score  # noqa: E402

CONFIG = {**llama.CONFIG, "num_hidden_layers": 4}
# The sets and the tokenizer are the same for every base: experts of one can then be asked of another.
SHARED_SEED = 0
TOKENIZER_TEXTS = 12000
STEPS = 2800
LONG_STEPS = 1000
LIMIT = 48  # tokens of an answer: three steps of code need more than the demo's


def say(text):
    """Progress goes to standard error, results to standard output."""
    print(text, file=sys.stderr, flush=True)


def data(args):
    """Write the data sets."""
    hardcorpus.write_datasets(args.data, hardcorpus.make_datasets(SHARED_SEED))


def model(args):
    """Train a base model from scratch."""
    sets = hardcorpus.make_datasets(SHARED_SEED)
    banned = corpus.held_out(sets, [])
    source = hardcorpus.Corpus(SHARED_SEED, banned)
    texts = [text for _ in range(TOKENIZER_TEXTS // 2) for text in source.sample()]
    tokenizer = bpe.Tokenizer(bpe.learn_merges(texts, CONFIG["vocab_size"] - 256 - len(bpe.SPECIALS)))
    say(f"Learned {len(tokenizer.merges)} merges; training {args.steps} steps")
    source = hardcorpus.Corpus(f"of base {args.seed}", banned)
    weights = pretrain.train(CONFIG, tokenizer, source, args.seed, args.steps, say)
    hfio.save(args.out, CONFIG, weights, tokenizer)
    say(f"Wrote the model, {sum(t.numel() for t in weights.values())} parameters, to {args.out}")


def long(args):
    """Train a base model on, until it reads questions that stand behind others."""
    cfg, weights, tokenizer = hfio.load(args.model)
    banned = corpus.held_out(hardcorpus.make_datasets(SHARED_SEED), [])
    source = hardcorpus.LongCorpus("of long prompts", banned)
    weights = pretrain.extend(cfg, weights, tokenizer, source, args.steps, say)
    hfio.save(args.out, cfg, weights, tokenizer)
    say(f"Wrote the model to {args.out}")


def show_score(args):
    """Print the base's right answers in percent on each test and transfer set, greedy and sampled."""
    cfg, weights, tokenizer = hfio.load(args.model)
    gen = torch.Generator().manual_seed(0)
    score.LIMIT = LIMIT
    out = {}
    for skill in hardcorpus.DRAW:
        for split in ("test", "transfer"):
            records = corpus.read_jsonl(Path(args.data) / skill / f"{split}.jsonl")
            for mode, temperature in (("greedy", 0.0), ("sampled", 1.0)):
                value = score.accuracy(cfg, weights, tokenizer, skill, records, temperature, gen)
                out.setdefault(mode, {})[f"{skill} {split}"] = round(value, 1)
    print(json.dumps(out, indent=2))


def main():
    # One thread and no denormals: the same sums in the same order on each run, and no slow ones.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("data", help="write the data sets")
    p.add_argument("--data", default=HERE.parent / "data")
    p.set_defaults(run=data)
    p = sub.add_parser("model", help="train a base model")
    p.add_argument("--out", required=True, help="folder of the model")
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--steps", type=int, default=STEPS)
    p.set_defaults(run=model)
    p = sub.add_parser("long", help="train a base model on, with long prompts")
    p.add_argument("--model", required=True, help="folder of the model to begin with")
    p.add_argument("--out", required=True, help="folder of the model")
    p.add_argument("--steps", type=int, default=LONG_STEPS)
    p.set_defaults(run=long)
    p = sub.add_parser("score", help="score a base model")
    p.add_argument("--model", required=True)
    p.add_argument("--data", default=HERE.parent / "data")
    p.set_defaults(run=show_score)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
