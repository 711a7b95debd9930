"""Tests of the demo model's program: /usr/bin/python3 -m unittest (from this folder)."""

import json
import random
import tempfile
import unittest
from pathlib import Path

import torch

import bpe
import corpus
import dispatch
import hfio
import llama
import mathskill
import rewards
import svf

DEMO = Path(__file__).resolve().parents[2] / "config" / "samples" / "demo"
TINY = {**llama.CONFIG, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 300}


def tokenizer(count):
    source = corpus.Corpus(3, set())
    return bpe.Tokenizer(bpe.learn_merges([t for _ in range(400) for t in source.sample()], count))


class Data(unittest.TestCase):
    def test_good_answers_earn_a_reward_and_sloppy_ones_never_do(self):
        for skill, draw in dispatch.DRAW.items():
            for transfer in (False, True):
                rng = random.Random(1)
                for _ in range(500):
                    item = draw(rng, transfer)
                    reward = rewards.BY_SKILL[skill]
                    self.assertEqual(reward(item.good, item.record), 1, item)
                    for _, answer in item.sloppy:
                        self.assertEqual(reward(answer, item.record), -1, (answer, item))

    def test_a_sum_as_people_say_it_has_right_and_wrong_answers_too(self):
        rng = random.Random(4)
        items = [mathskill.spoken(rng) for _ in range(500)]
        for item in items:
            self.assertEqual(rewards.numeric(item.good, item.record), 1, item)
            for _, answer in item.sloppy:
                self.assertEqual(rewards.numeric(answer, item.record), -1, (answer, item))
        prompts = {i.prompt for i in items}
        self.assertTrue({"plus", "minus", "times"} <= {w for p in prompts for w in p.split()})

    def test_the_question_of_the_readme_is_held_out(self):
        self.assertIn(corpus.README_QUESTION, (DEMO.parents[2] / "README.md").read_text(encoding="utf-8"))
        source = corpus.Corpus(0, corpus.held_out({}, []), spoken=True)
        prompts = [source.item("math").prompt for _ in range(20000)]
        self.assertIn("What is 4 plus 3?", prompts)
        self.assertNotIn(corpus.README_QUESTION, prompts)

    def test_only_the_last_stage_shows_what_no_data_set_has(self):
        words = {False: set(), True: set()}
        for spoken in words:
            source = corpus.Corpus(5, set(), spoken=spoken)
            for _ in range(3000):
                words[spoken].update(source.sample()[0].replace("?", "").split())
        self.assertEqual({"plus", "capital"} & words[False], set())
        self.assertEqual({"plus", "capital"} & words[True], {"plus", "capital"})

    def test_a_record_gives_back_its_prompt(self):
        for draw in dispatch.DRAW.values():
            for transfer in (False, True):
                item = draw(random.Random(2), transfer)
                self.assertEqual(corpus.prompt_of(item.record), item.prompt)

    def test_no_prompt_is_in_two_sets_and_none_is_in_the_corpus(self):
        sets, talk = corpus.make_datasets(0)
        prompts = [corpus.prompt_of(r) for s in sets.values() for rs in s.values() for r in rs] + [q for q, _ in talk]
        self.assertEqual(len(prompts), len(set(prompts)))
        source = corpus.Corpus(0, corpus.held_out(sets, talk))
        banned = set(prompts)
        for _ in range(3000):
            prompt, _ = source.sample()
            request = prompt.split("\nRequest: ", 1)[-1].removesuffix("\nCategory:")
            self.assertFalse(request in banned, request)

    def test_labels_start_with_different_tokens(self):
        tok = tokenizer(300)
        first = [tok.encode(label)[0] for label in [*dispatch.SKILLS, "others"]]
        self.assertEqual(len(set(first)), len(first))

    @unittest.skipUnless((DEMO / "data").exists(), "the data sets are not made yet")
    def test_the_committed_data_is_what_the_program_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            corpus.write_datasets(folder, *corpus.make_datasets(0))
            made = {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*.jsonl")}
        kept = {p.relative_to(DEMO / "data"): p.read_bytes() for p in (DEMO / "data").rglob("*.jsonl")}
        self.assertEqual(sorted(made), sorted(kept))
        for path, content in made.items():
            self.assertEqual(content, kept[path], path)


class Tokens(unittest.TestCase):
    def test_any_text_survives(self):
        tok = tokenizer(200)
        for text in ["def f(x):\n    return x + 3", "  two  spaces ", "naïve 日本 🙂", "a\r\n\tb", "it's 1234.5_6"]:
            self.assertEqual(tok.decode(tok.encode(text)), text)

    def test_digits_stay_single(self):
        tok = tokenizer(300)
        self.assertEqual([tok.decode([i]) for i in tok.encode("12 + 345")][:2], ["1", "2"])
        self.assertFalse([t for t in tok.tokens if len(t) > 1 and any(c.isdigit() for c in t)])

    def test_the_chat_template_and_chat_agree(self):
        tok = tokenizer(200)
        self.assertEqual(tok.chat("Hello"), tok.encode("<|user|>Hello<|end|><|assistant|>"))

    def test_the_file_reads_back(self):
        tok = tokenizer(200)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            path.write_text(json.dumps(tok.to_json()))
            self.assertEqual(bpe.load(path).tokens, tok.tokens)


class Rewards(unittest.TestCase):
    def test_numeric(self):
        record = {"answer": "3 + 4 = 7\n#### 7"}
        for answer, want in [("#### 7", 1), ("#### 7 cups, 2 left", 1), ("it is 7", 1), ("7 or 8", -1), ("####", -1),
                             ("", -1), ("#### 8\n#### 7.0", 1)]:
            self.assertEqual(rewards.numeric(answer, record), want, answer)

    def test_multiple_choice(self):
        record = {"answerKey": "B"}
        for answer, want in [("B", 1), ("(B) pear", 1), ("b", -1), ("A or B", -1), ("It could be B", 1), ("BC", -1)]:
            self.assertEqual(rewards.multiple_choice(answer, record), want, answer)

    def test_unit_tests(self):
        record = {"test_list": ["assert f(2) == 4", "assert f(3) == 6"]}
        for answer, want in [("def f(x):\n    return x * 2", 1), ("def f(x):\n    return x + 2", -1),
                             ("def f(x):\n    print(x * 2)", -1), ("def f(x", -1), ("", -1),
                             ("def f(x):\n    return f(x)", -1), ("import os\ndef f(x):\n    return x * 2", -1)]:
            self.assertEqual(rewards.unit_tests(answer, record), want, answer)


class Model(unittest.TestCase):
    def test_padding_and_the_cache_change_nothing(self):
        w = llama.initialise(TINY, 1)
        rows = [[5, 9, 200, 31], [7, 8], [299, 1, 2, 3, 4, 5]]
        whole = [llama.forward(TINY, w, torch.tensor([r]))[0, -1] for r in rows]
        ids, pads = llama.left_pad(rows, 0)
        padded = llama.forward(TINY, w, ids, pads)[:, -1]
        cache = []
        llama.forward(TINY, w, ids[:, :-1], pads, cache)
        cached = llama.forward(TINY, w, ids[:, -1:], pads, cache)[:, -1]
        for r in range(len(rows)):
            torch.testing.assert_close(padded[r], whole[r], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(cached[r], whole[r], atol=1e-5, rtol=1e-4)

    def test_equal_z_leaves_the_weights_as_they_are(self):
        w = llama.initialise(TINY, 1)
        factors = svf.decompose(w, llama.ATTENTION + llama.MLP, TINY)
        same = svf.compose(w, factors, {n: torch.full_like(s, 0.525) for n, (_, s, _) in factors.items()})
        for name in w:
            torch.testing.assert_close(same[name], w[name], atol=1e-5, rtol=1e-4)

    def test_the_file_keeps_bfloat16_values(self):
        w = llama.initialise(TINY, 1)
        with tempfile.TemporaryDirectory() as folder:
            hfio.write_safetensors(Path(folder) / "m.safetensors", w)
            read = hfio.read_safetensors(Path(folder) / "m.safetensors")
        for name in w:
            self.assertTrue(torch.equal(read[name], w[name].bfloat16().float()), name)


if __name__ == "__main__":
    unittest.main()
