"""Code: functions of one or two steps in MBPP's format, of three for transfer.

Phrasings, steps and careless answers are the demo's (codeskill.py); numbers go to 30, and every step may follow another.
"""

from codeskill import LIST, NUMBER, PAIR, PHRASINGS, THEN, evaluate, fill, make_tests
from items import Item, draw_phrasing

TWO_STEPS = 0.6  # of the tasks outside the transfer set
LARGEST = 30


def draw(rng, transfer=False):
    """Draw a task of one or two steps, or of three for transfer."""
    _, phrase, share, weights = draw_phrasing(rng, PHRASINGS)
    more = 2 if transfer else int(rng.random() < TWO_STEPS)
    while True:
        item = attempt(rng, phrase, share, weights, more)
        if item:
            return item


def attempt(rng, phrase, share, weights, more):
    """A task with this many steps after the first one; None if its tests would not tell functions apart."""
    kind = rng.choices(["number", "pair", "list"], [0.6, 0.2, 0.2])[0]
    table = {"number": NUMBER, "pair": PAIR, "list": LIST}[kind]
    name = rng.choice("fgh")
    x, y = rng.choice([("x", "y"), ("n", "m"), ("a", "b")])
    k = rng.randint(2, LARGEST)
    while True:
        task, expr = rng.choice(table)
        # Only numbers can take another step.
        if not more or not any(s in expr for s in (">", "<", "==", "sorted")):
            break
    task, expr = fill(task, x, y, k), fill(expr, x, y, k)
    for _ in range(more):
        then, outer = rng.choice(THEN)
        k2 = rng.randint(2, LARGEST)
        task = f"{task}, {fill(then, x, y, k2)}"
        expr = outer.replace("K", str(k2)).replace("E", expr)
    names = [x, y] if kind == "pair" else [x]
    # Over the arguments that tests draw, the function must take more than one value.
    if kind == "number" and len({evaluate(expr, names, [v]) for v in (1, 4, 8, 11, 15, k, k + 1)}) < 2:
        return None
    sig = f"{name}({', '.join(names)})"
    good = f"def {sig}:\n    return {expr}"
    tests = make_tests(rng, name, names, kind, k, expr)
    prompt = phrase.format(sig=sig, task=task)
    sloppy = list(zip(weights, [f"def {sig}:\n    print({expr})", f"{name} = {expr}", "That is easy to write."]))
    return Item(prompt, good, sloppy, share, {"text": prompt, "code": good, "test_list": tests})
