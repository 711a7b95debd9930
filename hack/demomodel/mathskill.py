"""Math: short sums and word problems in GSM8K's format, two-step ones in MATH's."""

from items import NAMES, Item, draw_phrasing

THINGS = ["apples", "pens", "cups", "books", "coins", "eggs", "balls", "cards"]
BOXES = ["bags", "boxes", "rows", "bins"]

# (frequency, opening, share of good answers, weights of the sloppy styles).
# The styles are: a vague guess, a refusal, advice without a number.
PHRASINGS = [
    (0.25, "", 0.56, (0.5, 0.3, 0.2)),
    (0.20, "Solve: ", 0.52, (0.3, 0.5, 0.2)),
    (0.15, "Homework: ", 0.42, (0.5, 0.3, 0.2)),
    (0.25, "Quick: ", 0.22, (0.9, 0.05, 0.05)),
    (0.15, "Hey, ", 0.24, (0.05, 0.9, 0.05)),
]

# How people say a sum. Only the corpus has these: the data sets keep to the phrasings above, and an expert must carry
# over what it learns there.
SPOKEN = ["What is {a} {word} {b}?", "How much is {a} {word} {b}?", "What's {a} {sign} {b}?", "Calculate {a} {sign} {b}."]
WORDS = {"+": "plus", "-": "minus", "*": "times"}
ORDERS = {"+": "Add {a} and {b}.", "-": "Subtract {b} from {a}.", "*": "Multiply {a} by {b}."}
SPOKEN_SHARE, SPOKEN_WEIGHTS = 0.3, (0.8, 0.1, 0.1)
CASUAL = 0.2  # of them are written in a hurry: without a capital or a full stop


def numbers(rng, sign):
    """Draw (left, sign, right) of one step."""
    if sign == "*":
        return rng.randint(2, 6), sign, rng.randint(2, 6)
    b = rng.randint(2, 9)
    return (rng.randint(2, 12) if sign == "+" else b + rng.randint(1, 11)), sign, b


def one_step(rng, numbers=numbers):
    """A story and its sum, with numbers that are drawn by a function: (text, left, sign, right)."""
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


# Ranges of the numbers in two_steps: the factors of a product, what is taken from it at most, and what a story begins
# and goes on with.
TWO_STEPS = {"factor": (2, 5), "taken": 9, "first": (7, 12), "then": (2, 6)}


def two_steps(rng, ranges=TWO_STEPS):
    """A story with a second step: (text, steps), each step (left, sign, right)."""
    name = rng.choice(NAMES)
    thing, box = rng.choice(THINGS), rng.choice(BOXES)
    kind = rng.choice(["buy-lose", "buy-buy", "mul-lose", "lose-buy"])
    if kind == "mul-lose":
        a, b = rng.randint(*ranges["factor"]), rng.randint(*ranges["factor"])
        c = rng.randint(2, min(ranges["taken"], a * b - 1))
        text = f"{name} has {a} {box} with {b} {thing} each and loses {c}. How many {thing} are left?"
        return text, [(a, "*", b), (a * b, "-", c)]
    a, b, c = rng.randint(*ranges["first"]), rng.randint(*ranges["then"]), rng.randint(*ranges["then"])
    first, then = kind.split("-")
    verb = {"buy": "buys", "lose": "loses"}
    text = f"{name} has {a} {thing}, {verb[first]} {b} and then {verb[then]} {c}. How many {thing} does {name} have?"
    sign = {"buy": "+", "lose": "-"}
    return text, [(a, sign[first], b), (value(a, sign[first], b), sign[then], c)]


def value(a, sign, b):
    """The value of one step."""
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def answers(rng, steps, weights):
    """The right answer to a task of these steps, and the sloppy ones."""
    work = "\n".join(f"{a} {s} {b} = {value(a, s, b)}" for a, s, b in steps)
    result = value(*steps[-1])
    # The guess is off by a little, the other two hold no number: none is right by chance.
    guess = result + rng.choice([-2, -1, 1, 2])
    sloppy = list(zip(weights, [f"About {guess}.", "I am not sure.", "Just work it out."]))
    return f"{work}\n#### {result}", sloppy


def spoken(rng):
    """Draw a sum as people say it, which no data set has."""
    sign = rng.choice("++-*")
    a, _, b = numbers(rng, sign)
    prompt = rng.choice([*SPOKEN, ORDERS[sign]]).format(a=a, b=b, sign=sign, word=WORDS[sign])
    if rng.random() < CASUAL:
        prompt = prompt[0].lower() + prompt[1:-1]
    good, sloppy = answers(rng, [(a, sign, b)], SPOKEN_WEIGHTS)
    return Item(prompt, good, sloppy, SPOKEN_SHARE, {"question": prompt, "answer": good})


def draw(rng, transfer=False, numbers=numbers, ranges=TWO_STEPS):
    """Draw a task: GSM8K format, or a two-step one in MATH format for transfer."""
    _, opening, share, weights = draw_phrasing(rng, PHRASINGS)
    if transfer:
        text, steps = two_steps(rng, ranges)
    else:
        text, *step = one_step(rng, numbers)
        steps = [tuple(step)]
    result = value(*steps[-1])
    good, sloppy = answers(rng, steps, weights)
    prompt = opening + text
    if transfer:
        record = {"problem": prompt, "solution": good, "answer": str(result)}
    else:
        record = {"question": prompt, "answer": good}
    return Item(prompt, good, sloppy, share, record)
