"""Math with carrying: sums and stories of two-digit numbers in GSM8K's format, two-step ones in MATH's for transfer.

The stories, the phrasings and the careless answers are the demo's (mathskill.py); the numbers are not. A model of this
size learns small sums by heart and larger ones in part, so that no expert answers everything.
"""

import mathskill
from items import Item, draw_phrasing
from mathskill import NAMES, PHRASINGS, THINGS, BOXES, answers, value

LARGE = 0.5  # of the sums have two-digit numbers on both sides


def numbers(rng, sign):
    """Draw (left, sign, right) of one step."""
    large = rng.random() < LARGE
    if sign == "*":
        return (rng.randint(6, 14) if large else rng.randint(2, 6)), sign, rng.randint(2, 9)
    if not large:
        return mathskill.numbers(rng, sign)
    if sign == "+":
        return rng.randint(11, 89), sign, rng.randint(11, 89)
    b = rng.randint(11, 59)
    return b + rng.randint(5, 40), sign, b


def one_step(rng):
    """A story and its sum: (text, left, sign, right)."""
    name, other = rng.sample(NAMES, 2)
    thing, box = rng.choice(THINGS), rng.choice(BOXES)
    kind = rng.choice(["buy", "give", "lose", "sell", "mul", "bare"])
    sign = {"buy": "+", "give": "+", "lose": "-", "sell": "-", "mul": "*"}.get(kind) or rng.choice("+-*")
    step = a, _, b = numbers(rng, sign)
    text = {
        "buy": f"{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have?",
        "give": f"{name} has {a} {thing}. {other} gives {name} {b} more. How many {thing} does {name} have?",
        "lose": f"{name} has {a} {thing} and loses {b}. How many {thing} are left?",
        "sell": f"{name} has {a} {thing} and sells {b}. How many {thing} are left?",
        "mul": f"There are {a} {box} with {b} {thing} each. How many {thing} are there?",
        "bare": f"What is {a} {sign} {b}?",
    }[kind]
    return text, *step


def two_steps(rng):
    """A story with a second step: (text, steps), each step (left, sign, right)."""
    name, thing, box = rng.choice(NAMES), rng.choice(THINGS), rng.choice(BOXES)
    kind = rng.choice(["buy-lose", "buy-buy", "mul-lose", "lose-buy"])
    if kind == "mul-lose":
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        c = rng.randint(2, min(30, a * b - 1))
        text = f"{name} has {a} {box} with {b} {thing} each and loses {c}. How many {thing} are left?"
        return text, [(a, "*", b), (a * b, "-", c)]
    a, b, c = rng.randint(20, 60), rng.randint(4, 19), rng.randint(4, 19)
    first, then = kind.split("-")
    verb, sign = {"buy": "buys", "lose": "loses"}, {"buy": "+", "lose": "-"}
    text = f"{name} has {a} {thing}, {verb[first]} {b} and then {verb[then]} {c}. How many {thing} does {name} have?"
    return text, [(a, sign[first], b), (value(a, sign[first], b), sign[then], c)]


def draw(rng, transfer=False):
    """Draw a task: GSM8K's format, or a two-step one in MATH's for transfer."""
    _, opening, share, weights = draw_phrasing(rng, PHRASINGS)
    if transfer:
        text, steps = two_steps(rng)
    else:
        text, *step = one_step(rng)
        steps = [tuple(step)]
    good, sloppy = answers(rng, steps, weights)
    prompt = opening + text
    if transfer:
        record = {"problem": prompt, "solution": good, "answer": str(value(*steps[-1]))}
    else:
        record = {"question": prompt, "answer": good}
    return Item(prompt, good, sloppy, share, record)


def page(rng):
    """A page of sums for the corpus: (prompt, answer)."""
    lines = []
    for _ in range(rng.randint(5, 8)):
        a, sign, b = numbers(rng, rng.choice("+++--*"))
        lines.append(f"{a} {sign} {b} = {value(a, sign, b)}")
    return "Show some sums.", "\n".join(lines)
