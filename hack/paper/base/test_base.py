"""Tests of the harder data sets' program: /usr/bin/python3 -m unittest (from this folder)."""

import random
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "demomodel"))

import corpus  # noqa: E402
import hardcorpus  # noqa: E402
import hardmath  # noqa: E402
import rewards  # noqa: E402

DATA = HERE.parent / "data"


class Data(unittest.TestCase):
    def test_good_answers_earn_a_reward_and_sloppy_ones_never_do(self):
        for skill, draw in hardcorpus.DRAW.items():
            for transfer in (False, True):
                rng = random.Random(1)
                for _ in range(500):
                    item = draw(rng, transfer)
                    reward = rewards.BY_SKILL[skill]
                    self.assertEqual(reward(item.good, item.record), 1, item)
                    for _, answer in item.sloppy:
                        self.assertEqual(reward(answer, item.record), -1, (answer, item))

    def test_a_record_gives_back_its_prompt(self):
        for draw in hardcorpus.DRAW.values():
            for transfer in (False, True):
                item = draw(random.Random(2), transfer)
                self.assertEqual(corpus.prompt_of(item.record), item.prompt)

    def test_no_prompt_is_in_two_sets_and_none_is_in_the_corpus(self):
        sets = hardcorpus.make_datasets(0)
        prompts = [corpus.prompt_of(r) for s in sets.values() for rs in s.values() for r in rs]
        self.assertEqual(len(prompts), len(set(prompts)))
        source = hardcorpus.Corpus(0, corpus.held_out(sets, []))
        banned = set(prompts)
        for _ in range(3000):
            prompt, _ = source.sample()
            request = prompt.split("\nRequest: ", 1)[-1].removesuffix("\nCategory:")
            self.assertFalse(request in banned, request)

    def test_long_prompts_end_in_questions_of_their_skill(self):
        sets = hardcorpus.make_datasets(0)
        banned = corpus.held_out(sets, [])
        source = hardcorpus.LongCorpus(0, banned)
        longest, behind = 0, 0
        for _ in range(2000):
            prompt, answer = source.sample()
            self.assertTrue(answer)
            if source.kind not in hardcorpus.DRAW:
                continue
            last = prompt.rsplit("\n", 5)[-5:] if source.kind == "reasoning" else prompt.rsplit("\n", 1)[-1:]
            last = "\n".join(last)
            self.assertFalse(last in banned, last)
            behind += prompt != last
            longest = max(longest, len(prompt) / len(last))
        self.assertGreater(behind, 500)
        self.assertTrue(4 < longest <= hardcorpus.STRETCH, longest)

    def test_sums_carry(self):
        rng = random.Random(3)
        steps = [hardmath.numbers(rng, "+") for _ in range(500)]
        carrying = sum(a % 10 + b % 10 > 9 and min(a, b) > 9 for a, _, b in steps)
        self.assertGreater(carrying, 80)
        self.assertTrue(all(hardmath.value(*hardmath.numbers(rng, "-")) > 0 for _ in range(500)))

    def test_the_committed_data_is_what_the_program_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            hardcorpus.write_datasets(folder, hardcorpus.make_datasets(0))
            made = {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*.jsonl")}
        kept = {p.relative_to(DATA): p.read_bytes() for p in DATA.rglob("*.jsonl")}
        self.assertEqual(sorted(made), sorted(kept))
        for path, content in made.items():
            self.assertEqual(content, kept[path], path)


if __name__ == "__main__":
    unittest.main()
