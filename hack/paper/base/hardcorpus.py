"""The harder data sets, and the corpus of the base models that are measured on them."""

import random
from pathlib import Path

import corpus
import dispatch
import hardcode
import hardmath
import hardreason
import practice

DRAW = {"math": hardmath.draw, "code": hardcode.draw, "reasoning": hardreason.draw}
# The examples that a few-shot search may look at have the shape of the transfer set and are in no other set.
SPLITS = {"train": 384, "validation": 64, "test": 256, "transfer": 256, "fewshot": 20}
TRANSFER_SHAPE = {"transfer", "fewshot"}
# What a base that reads long prompts is shown: how often the others come first, and how long a prompt may then be,
# beside the question at its end.
BEHIND_SHARE = 0.75
STRETCH = 8
MIX = {"math": 0.30, "code": 0.17, "reasoning": 0.20, "sums": 0.16, "kinds": 0.04, "talk": 0.03, "dispatch": 0.10}


def make_datasets(seed):
    """All data sets: {skill: {split: [record]}}; no prompt occurs in two of them."""
    rng = random.Random(f"paper data {seed}")
    sets, taken = {}, set()
    for skill, draw in DRAW.items():
        sets[skill] = {}
        for split, count in SPLITS.items():
            records = []
            while len(records) < count:
                item = draw(rng, transfer=split in TRANSFER_SHAPE)
                if item.prompt not in taken:
                    taken.add(item.prompt)
                    records.append(with_id(skill, split, len(records), item.record))
            sets[skill][split] = records
    return sets


def with_id(skill, split, index, record):
    """The record with the identifier that its format has."""
    if skill == "code":
        return {"task_id": 1000 * list(SPLITS).index(split) + index + 1, **record}
    if skill == "reasoning":
        return {"id": f"paper-{split}-{index + 1}", **record}
    if split in TRANSFER_SHAPE:
        return {**record, "unique_id": f"paper-{split}-{index + 1}"}
    return record


def write_datasets(folder, sets):
    """Write DIR/<skill>/<split>.jsonl."""
    for skill, splits in sets.items():
        for split, records in splits.items():
            corpus.write_jsonl(Path(folder) / skill / f"{split}.jsonl", records)


class Corpus(corpus.Corpus):
    """An endless, seeded stream of (prompt, answer) without any prompt of a data set."""

    def __init__(self, seed, banned):
        super().__init__(seed, banned)
        self.rng = random.Random(f"paper corpus {seed}")
        self.kind = ""  # of the last sample

    def item(self, skill):
        while True:
            item = DRAW[skill](self.rng, transfer=self.rng.random() < corpus.TRANSFER_SHARE)
            if item.prompt not in self.banned:
                return item

    def sample(self):
        kind = self.kind = self.rng.choices(list(MIX), list(MIX.values()))[0]
        if kind == "dispatch":
            return dispatch.draw(self.rng, self.request_of)
        if kind == "sums":
            return hardmath.page(self.rng)
        if kind == "kinds":
            return practice.kinds(self.rng)
        if kind == "talk":
            return self.talk()
        item = self.item(kind)
        return item.prompt, item.good if self.clean else item.answer(self.rng)


class LongCorpus(Corpus):
    """The corpus, in which most questions stand behind others with their answers, of other skills."""

    def sample(self):
        prompt, answer = super().sample()
        if self.kind not in DRAW or self.rng.random() >= BEHIND_SHARE:
            return prompt, answer
        others, before = [s for s in DRAW if s != self.kind], ""
        limit = self.rng.uniform(1, STRETCH) * len(prompt)
        while True:
            other = self.item(self.rng.choice(others))
            filler = f"{other.prompt}\n{other.good}\n"
            if len(before) + len(filler) + len(prompt) > limit:
                return before + prompt, answer
            before += filler
