"""The rewards of the three skills, +1 or -1, as the runtime computes them."""

import ast
import re

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LETTER = re.compile(r"\b[A-Z]\b")


def last_number(text):
    """The number after the last ####, or without one the last number; None if there is none."""
    head, mark, tail = text.rpartition("####")
    found = NUMBER.findall(tail if mark else text)
    if not found:
        return None
    return float((found[0] if mark else found[-1]).replace(",", ""))


def numeric(answer, record):
    """Numeric: the answer's number is the reference's."""
    got = last_number(answer)
    return 1 if got is not None and got == last_number(record["answer"]) else -1


def multiple_choice(answer, record):
    """MultipleChoice: the first capital letter that stands alone is the key."""
    found = LETTER.search(answer)
    return 1 if found and found.group() == record["answerKey"] else -1


# What generated programs may be made of; anything else, loops and imports among it, fails the tests.
NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Assign, ast.Name, ast.Load,
    ast.Store, ast.Constant, ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Subscript,
    ast.Slice, ast.List, ast.Tuple, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.If, ast.Assert,
)
BUILTINS = {"max": max, "min": min, "len": len, "abs": abs, "sorted": sorted, "print": lambda *_: None}


def unit_tests(answer, record):
    """UnitTests: the answer is a program with which every assert of the record holds."""
    source = answer + "\n" + "\n".join(record["test_list"])
    try:
        tree = ast.parse(source)
        if any(not isinstance(n, NODES) or isinstance(n, ast.Pow) for n in ast.walk(tree)):
            return -1
        exec(compile(tree, "answer", "exec"), {"__builtins__": {**BUILTINS, "AssertionError": AssertionError}})
    except Exception:  # whatever a model's program does wrong is the same to the reward
        return -1
    return 1


BY_SKILL = {"math": numeric, "code": unit_tests, "reasoning": multiple_choice}
