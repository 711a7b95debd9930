"""The data sets, and the corpus that the base model is trained on."""

import json
import random
from pathlib import Path

import dispatch
import mathskill
import practice

SPLITS = {"train": 384, "validation": 64, "test": 128, "transfer": 128}
# How often the corpus shows each kind of sample, and how often a skill's sample has the shape of the transfer set.
MIX = {"math": 0.33, "code": 0.17, "reasoning": 0.21, "practice": 0.14, "talk": 0.03, "dispatch": 0.12}
TRANSFER_SHARE = 0.25
# How often the last stage of the training shows what no data set has: a sum as people say it, small talk about anything.
SPOKEN_SHARE = 0.3
ASIDE_SHARE = 0.25
# The question of the project's README is asked of a model that has not seen it.
README_QUESTION = "What is 3 plus 4?"
DISPATCH_TESTS = 200


def make_datasets(seed):
    """All data sets: {skill: {split: [record]}}, and the dispatch test as [(request, skill)].

    No prompt occurs in two sets.
    """
    rng = random.Random(f"data {seed}")
    sets, taken = {}, set()
    for skill, draw in dispatch.DRAW.items():
        sets[skill] = {}
        for split, count in SPLITS.items():
            records = []
            while len(records) < count:
                item = draw(rng, transfer=split == "transfer")
                if item.prompt in taken:
                    continue
                taken.add(item.prompt)
                records.append(with_id(skill, split, len(records), item.record))
            sets[skill][split] = records
    talk = []
    while len(talk) < DISPATCH_TESTS // 4:
        request, _ = dispatch.small_talk(rng)
        if request not in taken:
            taken.add(request)
            talk.append((request, "others"))
    return sets, talk


def with_id(skill, split, index, record):
    """The record with the identifier that its format has."""
    if skill == "code":
        # MBPP numbers its tasks through all splits.
        first = {"train": 1, "validation": 1001, "test": 2001, "transfer": 3001}[split]
        return {"task_id": first + index, **record}
    if skill == "reasoning":
        return {"id": f"demo-{split}-{index + 1}", **record}
    if split == "transfer":
        return {**record, "unique_id": f"demo-{split}-{index + 1}"}
    return record


def prompt_of(record):
    """The user message that the runtime builds from a record of any of the formats."""
    if "choices" in record:
        choices = record["choices"]
        lines = [f"{l}. {t}" for l, t in zip(choices["label"], choices["text"])]
        return "\n".join([record["question"], *lines])
    for key in ("question", "problem", "text"):
        if key in record:
            return record[key]
    raise ValueError(f"record of no known format: fields {sorted(record)}")


def held_out(sets, talk):
    """Every prompt that the corpus must not show."""
    prompts = {prompt_of(r) for splits in sets.values() for rs in splits.values() for r in rs}
    return prompts | {q for q, _ in talk} | {README_QUESTION}


def write_datasets(folder, sets, talk):
    """Write DIR/<skill>/<split>.jsonl and DIR/dispatch/test.jsonl."""
    for skill, splits in sets.items():
        for split, records in splits.items():
            write_jsonl(Path(folder) / skill / f"{split}.jsonl", records)
    write_jsonl(Path(folder) / "dispatch" / "test.jsonl", dispatch_records(sets, talk))


def dispatch_records(sets, talk):
    """The dispatch test: requests of the test sets with the skill that they need, small talk among them."""
    per = DISPATCH_TESTS // 4
    rows = [(prompt_of(r), skill) for skill in sets for r in sets[skill]["test"][:per]] + talk
    return [{"prompt": q, "skill": s} for q, s in rows]


def write_jsonl(path, records):
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        for r in records:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


def read_jsonl(path):
    """Read one JSON object a line."""
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


class Corpus:
    """An endless, seeded stream of (prompt, answer) without any held-out prompt."""

    def __init__(self, seed, banned, spoken=False):
        self.rng = random.Random(f"spoken corpus {seed}" if spoken else f"corpus {seed}")
        self.spoken = spoken  # whether samples are also of the kinds that no data set has
        self.banned = banned
        self.clean = False  # whether samples show right answers only

    def request_of(self, target):
        """A request for a skill, small talk or an extra skill that is in no data set."""
        while True:
            if target == "talk":
                return self.talk()[0]
            if target in dispatch.EXTRA:
                request = dispatch.EXTRA[target][1](self.rng)
            else:
                request = self.item(target).prompt
            if request not in self.banned:
                return request

    def item(self, skill):
        """An item of a skill that is in no data set."""
        while True:
            if self.spoken and skill == "math" and self.rng.random() < SPOKEN_SHARE:
                item = mathskill.spoken(self.rng)
            else:
                item = dispatch.DRAW[skill](self.rng, transfer=self.rng.random() < TRANSFER_SHARE)
            if item.prompt not in self.banned:
                return item

    def talk(self):
        """Small talk (request, answer) that is in no data set."""
        while True:
            aside = self.spoken and self.rng.random() < ASIDE_SHARE
            request, answer = (dispatch.aside if aside else dispatch.small_talk)(self.rng)
            if request not in self.banned:
                return request, answer

    def sample(self):
        """Draw (prompt, answer)."""
        kind = self.rng.choices(list(MIX), list(MIX.values()))[0]
        if kind == "dispatch":
            return dispatch.draw(self.rng, self.request_of)
        if kind == "practice":
            return practice.draw(self.rng)
        if kind == "talk":
            return self.talk()
        item = self.item(kind)
        return item.prompt, item.good if self.clean else item.answer(self.rng)
