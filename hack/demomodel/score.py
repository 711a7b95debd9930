"""Scores of a model: accuracy on each data set, and how well it follows the classification prompt."""

import torch

import bpe
import corpus
import dispatch
import llama
import rewards

LIMIT = 32  # tokens of an answer


def answers(cfg, w, tokenizer, records, temperature=0.0, gen=None):
    """The texts that the model answers to the records' prompts."""
    prompts = [tokenizer.chat(corpus.prompt_of(r)) for r in records]
    out = llama.generate(cfg, w, prompts, bpe.END, bpe.PAD, LIMIT, temperature, gen)
    return [tokenizer.decode(a) for a in out]


def accuracy(cfg, w, tokenizer, skill, records, temperature=0.0, gen=None):
    """The share of records answered right, in percent."""
    texts = answers(cfg, w, tokenizer, records, temperature, gen)
    right = sum(rewards.BY_SKILL[skill](a, r) > 0 for a, r in zip(texts, records))
    return 100 * right / len(records)


@torch.no_grad()
def classify(cfg, w, tokenizer, skills, request):
    """The label with the highest log-likelihood, its end token included, and all probabilities."""
    prompt = tokenizer.chat(dispatch.prompt_for(skills, request))
    labels = [name for name, _ in skills] + ["others"]
    rows = [prompt + tokenizer.encode(l) + [bpe.END] for l in labels]
    ids, pads = llama.left_pad(rows, bpe.PAD)
    logp = llama.forward(cfg, w, ids, pads).log_softmax(-1)
    score = []
    for r, row in enumerate(rows):
        at = range(len(prompt) + int(pads[r]), ids.shape[1])
        score.append(sum(float(logp[r, t - 1, ids[r, t]]) for t in at))
    probabilities = torch.tensor(score).softmax(0).tolist()
    return labels[max(range(len(labels)), key=score.__getitem__)], dict(zip(labels, probabilities))


def classification(cfg, w, tokenizer, rows):
    """Accuracy in percent on rows of the dispatch test, by skill, with the demo's list of skills."""
    skills = list(dispatch.SKILLS.items())
    right, count = {}, {}
    for row in rows:
        label, _ = classify(cfg, w, tokenizer, skills, row["prompt"])
        count[row["skill"]] = count.get(row["skill"], 0) + 1
        right[row["skill"]] = right.get(row["skill"], 0) + (label == row["skill"])
    return {s: 100 * right[s] / n for s, n in count.items()}


def unlisted(cfg, w, tokenizer, rows):
    """Accuracy in percent of "others" when the skill that a request needs is left out of the list."""
    right = total = 0
    for row in rows:
        if row["skill"] == "others":
            continue
        skills = [(n, d) for n, d in dispatch.SKILLS.items() if n != row["skill"]]
        total += 1
        right += classify(cfg, w, tokenizer, skills, row["prompt"])[0] == "others"
    return 100 * right / total


def report(cfg, w, tokenizer, sets, rows, gen):
    """Every score of a model, as a dictionary."""
    out = {"greedy": {}, "sampled": {}}
    for skill, splits in sets.items():
        for split in ("test", "transfer"):
            for mode, temperature in (("greedy", 0.0), ("sampled", 1.0)):
                value = accuracy(cfg, w, tokenizer, skill, splits[split], temperature, gen)
                out[mode][f"{skill} {split}"] = round(value, 1)
    out["classification"] = {s: round(v, 1) for s, v in classification(cfg, w, tokenizer, rows).items()}
    out["classification, skill not listed"] = round(unlisted(cfg, w, tokenizer, rows), 1)
    return out
