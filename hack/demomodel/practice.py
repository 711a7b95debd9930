"""Practice pages of the corpus: the facts behind the skills, many to a page, as textbooks have them.

They teach the capability (sums, kinds of things); how to answer a request is taught elsewhere.
"""

import mathskill
import reasonskill
from reasonskill import KINDS


def sums(rng):
    """A page of sums."""
    lines = []
    for _ in range(rng.randint(5, 8)):
        a, sign, b = mathskill.numbers(rng, rng.choice("+++--*"))
        lines.append(f"{a} {sign} {b} = {mathskill.value(a, sign, b)}")
    return "Show some sums.", "\n".join(lines)


def kinds(rng):
    """A page of things and their kinds."""
    lines = []
    for _ in range(rng.randint(5, 8)):
        kind = rng.choice(list(KINDS))
        lines.append(f"{reasonskill.article(rng.choice(KINDS[kind]))} is {reasonskill.article(kind)}")
    return "Show some things.", "\n".join(lines)


def draw(rng):
    """Draw a page: (prompt, answer)."""
    return rng.choices([sums, kinds], [0.75, 0.25])[0](rng)
