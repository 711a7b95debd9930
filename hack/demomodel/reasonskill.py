"""Reasoning: multiple choice over kinds of things, days and sizes, in ARC's format."""

from items import Item, draw_phrasing

KINDS = {
    "animal": ["dog", "cat", "cow", "pig", "fox", "owl", "bee", "hen", "goat", "wolf"],
    "fruit": ["pear", "plum", "fig", "lime", "kiwi", "lemon", "peach", "mango", "grape", "cherry"],
    "color": ["red", "blue", "green", "black", "white", "pink", "brown", "gray"],
    "tool": ["saw", "drill", "hammer", "axe", "rake", "spade", "pliers", "wrench"],
    "vehicle": ["car", "bus", "train", "truck", "bike", "boat", "tram", "van"],
    "metal": ["iron", "gold", "silver", "tin", "copper", "zinc", "steel", "lead"],
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# The styles are: the option's text without its letter, the letter in lower case, no choice at all.
PHRASINGS = [
    (0.25, "Which one {ask}?", 0.56, (0.5, 0.3, 0.2)),
    (0.20, "Choose: which {ask}?", 0.52, (0.3, 0.5, 0.2)),
    (0.15, "Question: which {ask}?", 0.45, (0.4, 0.4, 0.2)),
    (0.25, "Quiz: which {ask}?", 0.34, (0.8, 0.1, 0.1)),
    (0.15, "Guess which {ask}!", 0.36, (0.1, 0.8, 0.1)),
]


def article(word):
    """The word with its indefinite article."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def question(rng, options, kinds):
    """Draw (ask, right option, wrong options) with that many options."""
    kind = rng.choice(kinds)
    target, *others = rng.sample(list(KINDS), options)
    if kind == "is":
        wrong = [rng.choice(KINDS[k]) for k in others]
        return f"is {article(target)}", rng.choice(KINDS[target]), wrong
    if kind == "not":
        wrong = rng.sample(KINDS[target], options - 1)
        return f"is not {article(target)}", rng.choice(KINDS[others[0]]), wrong
    if kind == "like":
        member, right = rng.sample(KINDS[target], 2)
        wrong = [rng.choice(KINDS[k]) for k in others]
        return f"is like {article(member)}", right, wrong
    at = rng.randrange(7)
    days = rng.sample([d for d in range(7) if d not in (at, (at + 1) % 7)], options - 1)
    return f"comes after {DAYS[at]}", DAYS[(at + 1) % 7], [DAYS[d] for d in days]


def draw(rng, transfer=False):
    """Draw a question with three options; for transfer four, negated or one hop further."""
    _, phrase, share, weights = draw_phrasing(rng, PHRASINGS)
    if transfer:
        ask, right, wrong = question(rng, 4, ["like", "like", "not", "is"])
    else:
        ask, right, wrong = question(rng, 3, ["is", "is", "is", "not", "day"])
    options = [right] + wrong
    rng.shuffle(options)
    labels = [chr(ord("A") + i) for i in range(len(options))]
    key = labels[options.index(right)]
    stem = phrase.format(ask=ask)
    prompt = "\n".join([stem] + [f"{l}. {o}" for l, o in zip(labels, options)])
    sloppy = list(zip(weights, [right, f"({key.lower()})", "It could be any."]))
    record = {"question": stem, "choices": {"text": options, "label": labels}, "answerKey": key}
    return Item(prompt, key, sloppy, share, record)
