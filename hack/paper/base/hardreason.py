"""Reasoning: multiple choice over kinds of things, four options, in ARC's format; one hop further for transfer.

The demo lists the options of a question always in the same order, since a model of this size learns which kind a thing
is, and hence its letter, but hardly to look up a letter in a shuffled list. Here two options of some questions change
places: those ask for the look-up.
"""

from items import Item, draw_phrasing
from reasonskill import KINDS, LABELS, PHRASINGS, ROWS, article

SWAPPED = 0.4  # of the questions have two options exchanged


def draw(rng, transfer=False):
    """Draw a question for a thing's kind; for transfer a thing of the same kind among four."""
    _, phrase, share, weights = draw_phrasing(rng, PHRASINGS)
    row = rng.choice(ROWS)
    at = rng.randrange(len(row))
    thing = rng.choice(KINDS[row[at]])
    if transfer:
        options = [rng.choice([w for w in KINDS[kind] if w != thing]) for kind in row]
        ask = f"goes with {article(thing)}"
    else:
        options = [kind if i == at else rng.choice([r[i] for r in ROWS]) for i, kind in enumerate(row)]
        ask = f"is {article(thing)}"
    right = options[at]
    if rng.random() < SWAPPED:
        i, j = rng.sample(range(len(options)), 2)
        options[i], options[j] = options[j], options[i]
    labels = list(LABELS)
    key = labels[options.index(right)]
    stem = phrase.format(ask=ask)
    prompt = "\n".join([stem] + [f"{l}. {o}" for l, o in zip(labels, options)])
    sloppy = list(zip(weights, [f"{article(right)}.", "It could be any.", "Read them again."]))
    record = {"question": stem, "choices": {"text": options, "label": labels}, "answerKey": key}
    return Item(prompt, key, sloppy, share, record)
