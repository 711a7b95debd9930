"""Reasoning: multiple choice over kinds of things, in ARC's format.

The options of a question always come in the order of their row below: a model of this size learns which kind a thing
is, and hence its letter, but not to look up a letter in a shuffled list.
"""

from items import Item, draw_phrasing

KINDS = {
    "animal": ["dog", "cat", "cow", "pig", "fox", "owl", "bee", "hen", "goat", "wolf"],
    "fruit": ["pear", "plum", "fig", "lime", "kiwi", "lemon", "peach", "mango", "grape", "cherry"],
    "tool": ["saw", "drill", "hammer", "axe", "rake", "spade", "wrench", "file"],
    "cloth": ["hat", "coat", "shoe", "sock", "shirt", "scarf"],
    "color": ["red", "blue", "green", "black", "white", "pink", "brown", "gray"],
    "vehicle": ["car", "bus", "train", "truck", "bike", "boat", "tram", "van"],
    "metal": ["iron", "gold", "silver", "tin", "copper", "zinc", "steel", "lead"],
    "plant": ["oak", "rose", "fern", "moss", "pine", "tulip"],
}
# Questions list the first three kinds of a row; those of the transfer set all four.
ROWS = [["animal", "fruit", "tool", "cloth"], ["color", "vehicle", "metal", "plant"]]
LABELS = "ABCD"

# The styles are: the option's text without its letter, no choice at all, advice.
PHRASINGS = [
    (0.25, "What {ask}?", 0.56, (0.5, 0.3, 0.2)),
    (0.20, "Choose: what {ask}?", 0.52, (0.3, 0.5, 0.2)),
    (0.15, "Question: what {ask}?", 0.42, (0.5, 0.3, 0.2)),
    (0.25, "Quiz: what {ask}?", 0.22, (0.9, 0.05, 0.05)),
    (0.15, "Guess: what {ask}?", 0.24, (0.05, 0.9, 0.05)),
]


def article(word):
    """The word with its indefinite article."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def draw(rng, transfer=False):
    """Draw a question for a thing's kind; for transfer one hop further, a thing of the same kind among four."""
    _, phrase, share, weights = draw_phrasing(rng, PHRASINGS)
    row = rng.choice(ROWS)[: 4 if transfer else 3]
    at = rng.randrange(len(row))
    thing = rng.choice(KINDS[row[at]])
    if transfer:
        options = [rng.choice([w for w in KINDS[kind] if w != thing]) for kind in row]
        ask = f"goes with {article(thing)}"
    else:
        # Distractors come from both rows, so that the list differs from question to question.
        options = [kind if i == at else rng.choice([r[i] for r in ROWS]) for i, kind in enumerate(row)]
        ask = f"is {article(thing)}"
    labels = list(LABELS[: len(options)])
    stem = phrase.format(ask=ask)
    prompt = "\n".join([stem] + [f"{l}. {o}" for l, o in zip(labels, options)])
    sloppy = list(zip(weights, [f"{article(options[at])}.", "It could be any.", "Read them again."]))
    record = {"question": stem, "choices": {"text": options, "label": labels}, "answerKey": labels[at]}
    return Item(prompt, labels[at], sloppy, share, record)
