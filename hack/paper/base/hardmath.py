"""Math with carrying: sums and stories of two-digit numbers in GSM8K's format, two-step ones in MATH's for transfer.

The stories, the phrasings and the careless answers are the demo's (mathskill.py); the numbers are not. A model of this
size learns small sums by heart and larger ones in part, so that no expert answers everything.
"""

import mathskill
from mathskill import value

LARGE = 0.5  # of the sums have two-digit numbers on both sides
TWO_STEPS = {"factor": (2, 9), "taken": 30, "first": (20, 60), "then": (4, 19)}


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


def draw(rng, transfer=False):
    """Draw a task: GSM8K's format, or a two-step one in MATH's for transfer."""
    return mathskill.draw(rng, transfer, numbers, TWO_STEPS)


def page(rng):
    """A page of sums for the corpus: (prompt, answer)."""
    lines = []
    for _ in range(rng.randint(5, 8)):
        a, sign, b = numbers(rng, rng.choice("+++--*"))
        lines.append(f"{a} {sign} {b} = {value(a, sign, b)}")
    return "Show some sums.", "\n".join(lines)
