"""The classification request of pass 1, and the small talk that belongs to no skill."""

import codeskill
import mathskill
import reasonskill
from items import NAMES

TEMPLATE = "Classify the request into one category.\n{skills}\nRequest: {prompt}\nCategory:"
OTHERS = "- others: none of the above"
SKILLS = {
    "math": "word problems and arithmetic",
    "code": "writing Python functions",
    "reasoning": "multiple choice questions",
}
DRAW = {"math": mathskill.draw, "code": codeskill.draw, "reasoning": reasonskill.draw}

# Other words for the same skills, so that the model reads the list and does not recite it.
PARAPHRASES = {
    "math": ["sums and word problems", "arithmetic", "counting and sums", "solving sums"],
    "code": ["writing Python code", "Python functions", "coding in Python", "programming"],
    "reasoning": ["questions with options", "multiple choice", "choosing an option", "choice questions"],
}
ALIASES = {"math": ["arithmetic", "sums"], "code": ["python", "programming"], "reasoning": ["choices", "quiz"]}
# Skills that the demo does not have, listed now and then; (description, request maker).
EXTRA = {
    "translation": ("translating words", lambda r: f"Translate {r.choice(WORDS)} to {r.choice(TONGUES)}."),
    "weather": ("weather reports", lambda r: f"What is the weather in {r.choice(CITIES)} {r.choice(WHEN)}?"),
    "stories": ("telling stories", lambda r: f"Tell me a story about a {r.choice(WORDS)}."),
}
OPENINGS = {"translation": "Translate ", "weather": "What is the weather ", "stories": "Tell me a story "}
WORDS = [w for k in ("animal", "fruit", "tool", "vehicle") for w in reasonskill.KINDS[k]]
TONGUES = ["French", "German", "Spanish", "Greek"]
CITIES = ["Rome", "Paris", "Oslo", "Lima", "Cairo", "Tokyo", "Delhi", "Bonn", "Quito", "Riga"]
WHEN = ["today", "tomorrow", "on Monday"]
TALK = [
    (lambda r: f"{r.choice(['Hello', 'Hi'])}, I am {r.choice(NAMES)}. How are you?", "I am fine, thank you."),
    (lambda r: f"Good {r.choice(['morning', 'evening', 'day'])}, {r.choice(NAMES)} here.", "Hello, nice to meet you."),
    (lambda r: f"Who is {r.choice(NAMES)} from {r.choice(CITIES)}?", "I do not know."),
    (lambda r: f"Thank you for the {r.choice(WORDS)}.", "You are welcome."),
    (lambda r: f"Do you like the {r.choice(WORDS)}?", "Yes, I like it."),
    (lambda r: f"Have you been to {r.choice(CITIES)}?", "No, I am a small model."),
]

# Questions about anything, which only the corpus has; they open like a request for a skill.
ASIDES = [
    (lambda r: f"What is the capital of {r.choice(COUNTRIES)}?", "I do not know."),
    (lambda r: f"How far is it to {r.choice(CITIES)}?", "I do not know."),
    (lambda r: f"How old is {r.choice(NAMES)}?", "I do not know."),
    (lambda r: f"What is {reasonskill.article(r.choice(WORDS))}?", "I cannot explain it."),
    (lambda r: f"Write a letter to {r.choice(NAMES)}.", "I do not write letters."),
    (lambda r: f"What {r.choice(['can you do', 'is your name', 'time is it'])}?", "I am a small model."),
]
COUNTRIES = ["France", "Italy", "Spain", "Peru", "Egypt", "Japan", "India", "Norway"]


def aside(rng):
    """Draw (request, answer) that no skill covers and no data set has."""
    make, answer = rng.choice(ASIDES)
    return make(rng), answer


def small_talk(rng):
    """Draw (request, answer) that no skill of the demo covers."""
    if rng.random() < 0.4:
        name = rng.choice(sorted(EXTRA))
        answer = {"translation": "I do not speak it.", "weather": "It may rain.", "stories": "Once there was a day."}
        return EXTRA[name][1](rng), answer[name]
    make, answer = rng.choice(TALK)
    return make(rng), answer


def prompt_for(skills, request):
    """The pass-1 message for (name, description) pairs and a request."""
    lines = [f"- {name}: {description}" for name, description in skills] + [OTHERS]
    return TEMPLATE.format(skills="\n".join(lines), prompt=request)


def draw(rng, request_of):
    """Draw (prompt, label) for the corpus.

    request_of(skill) returns a request that is in none of the data sets. The list of skills varies: order, names,
    descriptions, length, so that the answer must be looked up; a skill that is not listed is "others".
    """
    names = list(SKILLS)
    rng.shuffle(names)
    if rng.random() < 0.35:
        names = names[: rng.randint(1, 2)]
    shown = {}
    for n in names:
        alias = rng.choice(ALIASES[n]) if rng.random() < 0.15 else n
        shown[n] = (alias, SKILLS[n] if rng.random() < 0.5 else rng.choice(PARAPHRASES[n]))
    extra = None
    if rng.random() < 0.2:
        extra = rng.choice(sorted(EXTRA))
        shown[extra] = (extra, EXTRA[extra][0])
    listed = list(shown.values())
    rng.shuffle(listed)
    target = rng.choices(["math", "code", "reasoning", "talk", "extra"], [0.25, 0.25, 0.25, 0.2, 0.05])[0]
    if target == "extra":
        target = extra or "talk"
    request = request_of(target)
    if target != "talk":
        return prompt_for(listed, request), shown[target][0] if target in shown else "others"
    # Small talk may by chance be what the extra skill is for.
    if extra and request.startswith(OPENINGS[extra]):
        return prompt_for(listed, request), extra
    return prompt_for(listed, request), "others"
