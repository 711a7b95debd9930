"""Code: one-line functions in MBPP's format."""

from items import Item, draw_phrasing

# The styles are: printing instead of returning, the bare expression, an excuse.
PHRASINGS = [
    (0.25, "Write a function {sig} to {task}.", 0.56, (0.5, 0.3, 0.2)),
    (0.20, "Define {sig} to {task}.", 0.52, (0.3, 0.5, 0.2)),
    (0.15, "Please code {sig} to {task}.", 0.42, (0.5, 0.3, 0.2)),
    (0.25, "I need {sig} to {task}.", 0.22, (0.9, 0.05, 0.05)),
    (0.15, "Make {sig} to {task}.", 0.24, (0.05, 0.9, 0.05)),
]

# (task, expression, argument kinds); K is a small number, X and Y are the arguments.
NUMBER = [
    ("add K to X", "X + K"),
    ("subtract K from X", "X - K"),
    ("multiply X by K", "X * K"),
    ("get the remainder of X by K", "X % K"),
    ("divide X by K", "X // K"),
    ("test if X is over K", "X > K"),
    ("test if X is under K", "X < K"),
    ("test if X is K", "X == K"),
    ("negate X", "-X"),
    ("square X", "X * X"),
    ("double X", "X * 2"),
    ("test if X is even", "X % 2 == 0"),
]
PAIR = [
    ("add X and Y", "X + Y"),
    ("multiply X and Y", "X * Y"),
    ("subtract Y from X", "X - Y"),
    ("get the larger of X and Y", "max(X, Y)"),
    ("get the smaller of X and Y", "min(X, Y)"),
]
LIST = [
    ("get the first of X", "X[0]"),
    ("get the last of X", "X[-1]"),
    ("count X", "len(X)"),
    ("sort X", "sorted(X)"),
    ("get the largest of X", "max(X)"),
    ("get the smallest of X", "min(X)"),
]
# Second steps of the transfer set, applied to an expression E that is a number.
THEN = [
    ("then add K", "E + K"),
    ("then subtract K", "E - K"),
    ("then multiply by K", "(E) * K"),
]


def fill(text, x, y, k):
    """Put argument names and the number into a task or expression."""
    return "".join({"X": x, "Y": y, "K": str(k)}.get(c, c) for c in text)


def arguments(rng, kind, k):
    """Draw argument values that tell different functions apart, those at the bound k among them."""
    if kind == "list":
        return [rng.sample(range(1, 20), rng.randint(3, 4))]
    if kind == "pair":
        return [rng.randint(1, 15), rng.randint(1, 15)]
    return [rng.choice([k, k + 1, rng.randint(1, 15), rng.randint(1, 15)])]


def evaluate(expression, names, values):
    """The value of a generated expression (ours, never a model's)."""
    scope = {"max": max, "min": min, "len": len, "sorted": sorted, "__builtins__": {}}
    return eval(expression, scope, dict(zip(names, values)))  # noqa: S307 - text made above


def make_tests(rng, name, names, kind, k, expr):
    """Three asserts on different arguments, with more than one result among them."""
    while True:
        tries = [arguments(rng, kind, k) for _ in range(3)]
        results = [evaluate(expr, names, t) for t in tries]
        if len({repr(t) for t in tries}) == 3 and len({repr(r) for r in results}) > 1:
            break
    shown = [", ".join(map(repr, t)) for t in tries]
    return [f"assert {name}({s}) == {r!r}" for s, r in zip(shown, results)]


def draw(rng, transfer=False):
    """Draw a task: one operation, or two composed ones for transfer."""
    _, phrase, share, weights = draw_phrasing(rng, PHRASINGS)
    kind = rng.choices(["number", "pair", "list"], [0.6, 0.2, 0.2])[0]
    table = {"number": NUMBER, "pair": PAIR, "list": LIST}[kind]
    name = rng.choice("fgh")
    x, y = rng.choice([("x", "y"), ("n", "m"), ("a", "b")])
    k, k2 = rng.randint(2, 9), rng.randint(2, 9)
    while True:
        task, expr = rng.choice(table)
        # Only numbers can take a second step.
        if not transfer or not any(s in expr for s in (">", "<", "==", "sorted")):
            break
    task, expr = fill(task, x, y, k), fill(expr, x, y, k)
    if transfer:
        then, outer = rng.choice(THEN)
        task = f"{task}, {fill(then, x, y, k2)}"
        expr = outer.replace("K", str(k2)).replace("E", expr)
    names = [x, y] if kind == "pair" else [x]
    sig = f"{name}({', '.join(names)})"
    good = f"def {sig}:\n    return {expr}"
    tests = make_tests(rng, name, names, kind, k, expr)
    prompt = phrase.format(sig=sig, task=task)
    sloppy = list(zip(weights, [f"def {sig}:\n    print({expr})", f"{name} = {expr}", "That is easy to write."]))
    return Item(prompt, good, sloppy, share, {"text": prompt, "code": good, "test_list": tests})
