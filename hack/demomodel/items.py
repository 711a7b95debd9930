"""What one generated task looks like, shared by the three skills."""

from dataclasses import dataclass, field

NAMES = ["Tom", "Ann", "Ben", "Eve", "Sam", "Mia", "Leo", "Zoe"]


@dataclass
class Item:
    """A task, its right answer and the ways in which a careless writer answers it.

    prompt  the user message, as the runtime builds it from the record
    good    an answer that earns reward +1
    sloppy  (weight, answer) pairs; every answer earns reward -1
    share   how often the corpus gives the good answer to this phrasing
    record  the line of the data set, in the paper's format for the skill
    """

    prompt: str
    good: str
    sloppy: list
    share: float
    record: dict = field(default_factory=dict)

    def answer(self, rng):
        """Draw the answer that the corpus shows for this task."""
        if rng.random() < self.share:
            return self.good
        weights = [w for w, _ in self.sloppy]
        return rng.choices([a for _, a in self.sloppy], weights)[0]


def draw_phrasing(rng, phrasings):
    """Draw one of (frequency, prefix, good share, sloppy weights) by frequency."""
    return rng.choices(phrasings, [p[0] for p in phrasings])[0]
