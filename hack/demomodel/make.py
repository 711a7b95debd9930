#!/usr/bin/python3
"""Make, score and probe the demo model.

    make.py --out ../../config/samples/demo/model --data ../../config/samples/demo/data --seed 0
    make.py score --model DIR --data DIR
    make.py probe --model DIR --data DIR --skill math --seeds 3
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import bpe
import corpus
import dispatch
import hfio
import llama
import pretrain
import score
import svf

TOKENIZER_TEXTS = 12000
DEMO = Path(__file__).resolve().parents[2] / "config" / "samples" / "demo"


def say(text):
    """Progress goes to standard error, results to standard output."""
    print(text, file=sys.stderr, flush=True)


def build(args):
    """Make the data sets and the model."""
    sets, talk = corpus.make_datasets(args.seed)
    corpus.write_datasets(args.data, sets, talk)
    say(f"Wrote the data sets to {args.data}")
    if args.data_only:
        return
    banned = corpus.held_out(sets, talk)
    if args.base:
        _, weights, tokenizer = hfio.load(args.base)
    else:
        source = corpus.Corpus(args.seed, banned)
        texts = [text for _ in range(TOKENIZER_TEXTS // 2) for text in source.sample()]
        tokenizer = bpe.Tokenizer(bpe.learn_merges(texts, llama.CONFIG["vocab_size"] - 256 - len(bpe.SPECIALS)))
        say(f"Learned {len(tokenizer.merges)} merges; training {args.steps} steps")
        weights = pretrain.train(llama.CONFIG, tokenizer, source, args.seed, args.steps, say)
    say(f"The last stage: {args.last_steps} steps")
    source = corpus.Corpus(args.seed, banned, spoken=True)
    weights = pretrain.extend(llama.CONFIG, weights, tokenizer, source, args.last_steps, say)
    hfio.save(args.out, llama.CONFIG, weights, tokenizer)
    say(f"Wrote the model, {sum(t.numel() for t in weights.values())} parameters, to {args.out}")


def read_sets(folder):
    """The data sets that build wrote, and the dispatch test."""
    sets = {
        skill: {split: corpus.read_jsonl(Path(folder) / skill / f"{split}.jsonl") for split in corpus.SPLITS}
        for skill in dispatch.SKILLS
    }
    return sets, corpus.read_jsonl(Path(folder) / "dispatch" / "test.jsonl")


def show_score(args):
    """Print the scores of the base model as JSON."""
    cfg, weights, tokenizer = hfio.load(args.model)
    sets, rows = read_sets(args.data)
    gen = torch.Generator().manual_seed(args.seed)
    print(json.dumps(score.report(cfg, weights, tokenizer, sets, rows, gen), indent=2))


def probe(args):
    """Train experts by reinforcement learning and print what they gain, a line of JSON for each skill and seed."""
    cfg, weights, tokenizer = hfio.load(args.model)
    sets, _ = read_sets(args.data)
    factors = svf.decompose(weights, args.modules.split(",") if args.modules else llama.ATTENTION + llama.MLP, cfg)
    options = svf.Options(
        rate=args.rate, batch=args.batch, iterations=args.iterations, kl=args.kl, clip=args.clip,
        rollout=args.rollout, baseline=args.baseline, interval=args.interval,
    )
    for skill in args.skill.split(","):
        for seed in range(args.seed, args.seed + args.seeds):
            result = svf.train(cfg, weights, factors, tokenizer, skill, sets[skill], options, seed, say)
            expert = svf.compose(weights, factors, result["z"])
            line = {"skill": skill, "seed": seed, "best": result["best"], "seconds": round(result["seconds"])}
            for other in sets:
                for split in ("test", "transfer"):
                    if other == skill or args.cross:
                        before = score.accuracy(cfg, weights, tokenizer, other, sets[other][split])
                        after = score.accuracy(cfg, expert, tokenizer, other, sets[other][split])
                        line[f"{other} {split}"] = [round(before, 1), round(after, 1)]
            print(json.dumps(line), flush=True)


def parse(argv):
    """Parse the command line; without a subcommand, build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("build", help="make the data sets and the model")
    p.add_argument("--out", default=DEMO / "model", help="folder of the model")
    p.add_argument("--data", default=DEMO / "data", help="folder of the data sets")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=pretrain.STEPS)
    p.add_argument("--last-steps", type=int, default=pretrain.LAST_STEPS)
    p.add_argument("--base", help="folder of a model of the first stage to go on from, instead of training one")
    p.add_argument("--data-only", action="store_true", help="write the data sets and stop")
    p.set_defaults(run=build)
    for name, run, text in (("score", show_score, "score the base model"), ("probe", probe, "train experts")):
        p = sub.add_parser(name, help=text)
        p.add_argument("--model", default=DEMO / "model")
        p.add_argument("--data", default=DEMO / "data")
        p.add_argument("--seed", type=int, default=0)
        p.set_defaults(run=run)
    default = svf.Options()
    p.add_argument("--skill", default="math,code,reasoning")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--modules", default="", help="projections to scale, separated by commas; default all seven")
    p.add_argument("--rate", type=float, default=default.rate)
    p.add_argument("--batch", type=int, default=default.batch)
    p.add_argument("--iterations", type=int, default=default.iterations)
    p.add_argument("--kl", type=float, default=default.kl)
    p.add_argument("--clip", type=float, default=default.clip)
    p.add_argument("--rollout", choices=["Greedy", "Sample"], default=default.rollout)
    p.add_argument("--baseline", choices=["None", "Mean"], default=default.baseline)
    p.add_argument("--interval", type=int, default=default.interval, help="iterations between validations")
    p.add_argument("--cross", action="store_true", help="score the experts on the other skills too")
    if not argv or argv[0].startswith("--") and argv[0] != "--help":
        argv = ["build", *argv]
    return parser.parse_args(argv)


def main():
    # One thread and no denormals: the same sums in the same order on each run, and no slow ones.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    args = parse(sys.argv[1:])
    args.run(args)


if __name__ == "__main__":
    main()
