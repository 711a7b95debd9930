"""What the two processes of a job say to each other: see driver.py, before which this file is put."""
import ast
import builtins
import collections
import json
import operator
import os
import struct
import sys
import types

MAX_FRAME = 16 << 20  # bytes of one message between the two processes
MAX_WHY = 400  # characters of an explanation

# Fields of the classes of datetime, without time zones.
DATES = {
    "date": ("year", "month", "day"), "time": ("hour", "minute", "second", "microsecond"),
    "datetime": ("year", "month", "day", "hour", "minute", "second", "microsecond"),
    "timedelta": ("days", "seconds", "microseconds"),
}


def read_exactly(fd, n):
    """Reads n bytes, or fewer at the end of input."""
    parts = []
    while n > 0:
        part = os.read(fd, min(n, 1 << 16))
        if not part:
            break
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def clip(text, n=MAX_WHY):
    text = " ".join(str(text).split())
    return text if len(text) <= n else text[: n - 1] + "…"


class Gone(BaseException):
    """The other process does not answer any more."""


class Channel:
    """Messages in JSON, each behind its length."""

    def __init__(self, reads, writes):
        self.reads, self.writes = reads, writes

    def send(self, message):
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_FRAME:
            raise ValueError("a value of more than 16 MiB")
        try:
            write_all(self.writes, struct.pack(">I", len(data)) + data)
        except BrokenPipeError:
            raise Gone from None

    def receive(self):
        head = read_exactly(self.reads, 4)
        if len(head) < 4:
            raise Gone
        (n,) = struct.unpack(">I", head)
        if n > MAX_FRAME:
            raise ValueError("a value of more than 16 MiB")
        data = read_exactly(self.reads, n)
        if len(data) < n:
            raise Gone
        return json.loads(data)


class Codec:
    """Plain data as JSON: numbers, text, truth and None as themselves, all else as [tag, …]. What is not plain stays where
    it is and is sent as a handle."""

    def __init__(self, own, other):
        self.own, self.other = own, other  # the tags of handles to objects here and there
        self.held = []

    def hold(self, x):
        self.held.append(x)
        return [self.own, len(self.held) - 1]

    def encode(self, x):
        if x is None or x is True or x is False:
            return x
        t = type(x)
        if issubclass(t, int):
            x = int.__int__(x)
            return x if -(1 << 63) < x < 1 << 63 else ["i", hex(x)]
        if issubclass(t, float):
            return float.__float__(x)
        if issubclass(t, str):
            return str.__str__(x)
        if issubclass(t, list):
            return ["l", *map(self.encode, list.__iter__(x))]
        if issubclass(t, tuple):
            return ["t", *map(self.encode, tuple.__iter__(x))]
        if issubclass(t, dict):
            return ["d", *([self.encode(k), self.encode(v)] for k, v in dict.items(x))]
        if t is set:
            return ["s", *map(self.encode, x)]
        if t is frozenset:
            return ["f", *map(self.encode, x)]
        if t is bytes:
            return ["b", x.hex()]
        if t is bytearray:
            return ["B", x.hex()]
        if t is complex:
            return ["c", x.real, x.imag]
        if t is range:
            return ["r", *map(self.encode, (x.start, x.stop, x.step))]
        if t is collections.deque:
            return ["q", *map(self.encode, x)]
        module = t.__module__
        if module == "decimal" and t.__name__ == "Decimal":
            return ["D", str(x)]
        if module == "fractions" and t.__name__ == "Fraction":
            return ["F", hex(x.numerator), hex(x.denominator)]
        if t is type({}.keys()):
            return ["k", *map(self.encode, x)]
        if t is type({}.items()):
            return ["I", *([self.encode(k), self.encode(v)] for k, v in x)]
        if module == "datetime" and t.__name__ in DATES and getattr(x, "tzinfo", None) is None:
            return ["dt", t.__name__, *(getattr(x, field) for field in DATES[t.__name__])]
        if t is type and getattr(builtins, x.__name__, None) is x:
            return ["T", x.__name__]
        if t is Remote:
            return [self.other, object.__getattribute__(x, "_index")]
        return self.hold(x)

    def decode(self, x):
        if type(x) is not list:
            return x
        tag, *rest = x
        if tag == "l":
            return list(map(self.decode, rest))
        if tag == "t":
            return tuple(map(self.decode, rest))
        if tag == "d":
            return {self.decode(k): self.decode(v) for k, v in rest}
        if tag == "s":
            return set(map(self.decode, rest))
        if tag == "f":
            return frozenset(map(self.decode, rest))
        if tag == "i":
            return int(rest[0], 16)
        if tag == "b":
            return bytes.fromhex(rest[0])
        if tag == "B":
            return bytearray.fromhex(rest[0])
        if tag == "c":
            return complex(*rest)
        if tag == "r":
            return range(*map(self.decode, rest))
        if tag == "q":
            return collections.deque(map(self.decode, rest))
        if tag == "D":
            from decimal import Decimal
            return Decimal(rest[0])
        if tag == "F":
            from fractions import Fraction
            return Fraction(int(rest[0], 16), int(rest[1], 16))
        if tag == "k":
            return dict.fromkeys(map(self.decode, rest)).keys()
        if tag == "I":
            return {self.decode(k): self.decode(v) for k, v in rest}.items()
        if tag == "dt" and rest[0] in DATES:
            import datetime
            return getattr(datetime, rest[0])(**dict(zip(DATES[rest[0]], rest[1:])))
        if tag == "T" and isinstance(kind := getattr(builtins, rest[0]), type):
            return kind
        if tag == self.own:
            return self.held[rest[0]]
        if tag == self.other:
            return self.stand_in(rest[0])
        raise ValueError("a message of unknown form")


def raised(e):
    """The name of an exception as the tests see it, and its text. One of the answer's own is what Python's class is that it
    derives from, so that `except ValueError` finds it."""
    name = type(e).__name__
    kind = next(c.__name__ for c in type(e).__mro__ if getattr(builtins, c.__name__, None) is c)
    if name == kind or kind in ("Exception", "BaseException"):
        return name, clip(e)
    return kind, clip(f"{name}: {e}")


class Answer(Codec):
    """The process of the answer: it runs the program, then does what the tests ask of it."""

    OPERATIONS = {
        "call": lambda f, args, kwargs: f(*args, **kwargs), "getattr": getattr, "setattr": setattr, "delattr": delattr,
        "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem, "len": len,
        "iter": iter, "next": next, "bool": bool, "repr": repr, "str": str, "eq": operator.eq, "lt": operator.lt,
        "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    }

    def __init__(self, channel):
        super().__init__("answer", "tests")
        self.channel = channel

    def stand_in(self, index):
        """A function of the tests', which the answer may call."""
        def call(*args):
            self.channel.send(["call", index, ["l", *map(self.encode, args)]])
            return self.outcome(self.serve())
        return call

    def outcome(self, reply):
        if reply[0] == "raise":
            raise RuntimeError(reply[2])
        return self.decode(reply[1])

    def run(self, program):
        module = types.ModuleType("answer")
        sys.modules["answer"] = module
        names = module.__dict__
        try:
            # A line ending of Windows is one to CPython too, but not within a text of three quotes.
            exec(compile(program, "<answer>", "exec", dont_inherit=True), names)
        except BaseException as e:
            return self.channel.send(["raise", type(e).__name__, clip(e), where(e, "<answer>", program)])
        self.channel.send(["ok"])
        self.names = names
        self.serve()

    def serve(self):
        """Answers requests; returns the reply to a call of the answer's own."""
        while True:
            request = self.channel.receive()
            if request[0] in ("return", "raise"):
                return request
            try:
                reply = self.do(*request)
            except BaseException as e:
                reply = ["raise", *raised(e), ""]
            try:
                self.channel.send(reply)
            except Exception as e:
                self.channel.send(["raise", type(e).__name__, clip(e), ""])

    def do(self, operation, *operands):
        if operation == "names":
            return ["ok", [[n, self.name(n)] for n in operands if n in self.names]]
        before = operands
        args = [self.decode(x) for x in operands]
        result = self.encode(self.OPERATIONS[operation](*args))
        if operation != "call":
            return ["ok", result]
        # Lists, dicts and sets that the function has changed are sent back.
        changed = []
        for i, (x, was) in enumerate(zip(args[1], before[1][1:])):
            if type(x) in (list, dict, set, bytearray) and (now := self.encode(x)) != was:
                changed.append([i, now])
        return ["ok", result, changed]

    def name(self, n):
        x = self.names[n]
        return ["m"] if type(x) is types.ModuleType and x.__name__ == n else self.encode(x)


class Remote:
    """An object of the answer's, seen from the tests. It equals no plain value, whatever its class says: a test compares
    with what the right answer is, and only data can be that."""

    __slots__ = ("_tests", "_index")

    def __init__(self, tests, index):
        object.__setattr__(self, "_tests", tests)
        object.__setattr__(self, "_index", index)

    def _ask(self, operation, *operands):
        return object.__getattribute__(self, "_tests").ask(operation, self, *operands)

    def __call__(self, *args, **kwargs):
        return object.__getattribute__(self, "_tests").call(self, args, kwargs)

    def __getattr__(self, name):
        return self._ask("getattr", name)

    def __setattr__(self, name, value):
        self._ask("setattr", name, value)

    def __delattr__(self, name):
        self._ask("delattr", name)

    def __getitem__(self, key):
        return self._ask("getitem", key)

    def __setitem__(self, key, value):
        self._ask("setitem", key, value)

    def __delitem__(self, key):
        self._ask("delitem", key)

    def __len__(self):
        return self._ask("len")

    def __iter__(self):
        return self._ask("iter")

    def __next__(self):
        return self._ask("next")

    def __contains__(self, x):
        return any(x is y or x == y for y in self)

    def __bool__(self):
        return bool(self._ask("bool"))

    def __repr__(self):
        return str(self._ask("repr"))

    def __str__(self):
        return str(self._ask("str"))

    def __hash__(self):
        return hash(object.__getattribute__(self, "_index"))

    def __eq__(self, other):
        return type(other) is Remote and bool(self._ask("eq", other))

    def __ne__(self, other):
        return not self == other

    def _order(name):
        def compare(self, other):
            return bool(self._ask(name, other)) if type(other) is Remote else NotImplemented
        return compare

    __lt__, __le__, __gt__, __ge__ = map(_order, ("lt", "le", "gt", "ge"))


class Tests(Codec):
    """The process of the tests."""

    def __init__(self, channel):
        super().__init__("tests", "answer")
        self.channel = channel

    def stand_in(self, index):
        return Remote(self, index)

    def ask(self, operation, *operands):
        return self.outcome(self.request(operation, *map(self.encode, operands)), ends=operation == "next")

    def call(self, f, args, kwargs):
        reply = self.request("call", self.encode(f), self.encode(list(args)), self.encode(dict(kwargs)))
        result = self.outcome(reply)
        for i, now in reply[2]:
            replace(args[i], self.decode(now))
        return result

    def request(self, *message):
        """Sends a request and waits for its reply; meanwhile the answer may call functions of the tests'."""
        self.channel.send(message)
        while (reply := self.channel.receive())[0] == "call":
            try:
                back = ["return", self.encode(self.held[reply[1]](*self.decode(reply[2])))]
            except Exception as e:
                back = ["raise", type(e).__name__, clip(e)]
            self.channel.send(back)
        return reply

    def outcome(self, reply, ends=False):
        if reply[0] == "raise":
            kind = getattr(builtins, reply[1], None)
            # Nothing but an iterator ends an iteration: `all(map(f, x))` would take it for success.
            unfit = (UnicodeError, StopAsyncIteration) if ends else (UnicodeError, StopIteration, StopAsyncIteration)
            if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, unfit):
                raise RuntimeError(f"{reply[1]}: {reply[2]}")
            raise kind(reply[2])
        return self.decode(reply[1])

    def run(self, job):
        """Returns why the answer is wrong, or None."""
        loaded = self.channel.receive()
        if loaded[0] == "raise":
            return f"{loaded[1]}: {loaded[2]}{loaded[3]}"
        setup, tests, entry = job["setup"], job["tests"], job["entry"]
        names = {"__name__": "tests"}
        asked = wanted([setup, *tests], entry)
        names.update(modules([setup, *tests], asked))
        asked = [n for n in asked if n not in names]
        for name, value in self.request("names", *asked)[1]:
            if name in asked:  # The other process may say anything.
                local = value == ["m"] and name in sys.stdlib_module_names
                names[name] = __import__(name) if local else self.decode(value)
        for text in [setup, *tests]:
            why = attempt(text, names)
            if why is not None:
                return why
        if entry:
            if entry not in names:
                return f"there is no function {entry}"
            return attempt(f"check({entry})", names, tests[-1])
        return None


def replace(old, new):
    if type(old) in (list, bytearray):
        old[:] = new
    elif type(old) in (dict, set):
        old.clear()
        old.update(new)


def wanted(texts, entry):
    """The names that tests expect of the answer. A name of Python's own is Python's, so that no answer can make `sorted`
    or `abs` mean something else to its tests, unless the tests use no other name: there it is the function that was
    asked for."""
    loads, bound = set(), set()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name):
                (loads if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bound.add(node.name)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).partition(".")[0])
    loads -= bound
    own = {n for n in loads if not hasattr(builtins, n)}
    return sorted((own or loads) | ({entry} if entry else set()))


def modules(texts, asked):
    """Those of the names asked for that can only be modules of Python's: all that the tests use of them is there. Tests take
    them for imported, and no answer can make `math.isclose` mean something else."""
    uses, bare = {}, set()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                uses.setdefault(node.value.id, []).append(node.attr)
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.Name) and not isinstance(node, ast.Attribute):
                    bare.add(child.id)
    found = {}
    for name in asked:
        if name in sys.stdlib_module_names and name in uses and name not in bare:
            try:
                module = __import__(name)
            except ImportError:
                continue
            if all(hasattr(module, attribute) for attribute in uses[name]):
                found[name] = module
    return found


def attempt(text, names, source=None):
    """Runs one test; returns why it failed, or None."""
    try:
        tree = ast.parse(text)
        match tree.body:
            case [ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]))]:
                got, want = [eval(compile(ast.Expression(x), "<tests>", "eval"), names) for x in (left, right)]
                if not got == want:
                    return clip(f"{clip(ast.unparse(left), 150)} is {clip(repr(got), 100)}, not {clip(repr(want), 100)}")
            case _:
                exec(compile(tree, "<tests>", "exec", dont_inherit=True), names)
    except Gone:
        raise
    except BaseException as e:
        place = where(e, "<tests>", source or text)
        if type(e) is AssertionError and not e.args:
            return clip(f"a test failed{place}")
        return clip(f"{type(e).__name__}: {e}{place}")
    return None


def where(e, file, source):
    """The line of source that e passed through last, as the end of a sentence."""
    line = e.lineno if isinstance(e, SyntaxError) and e.filename == file else None
    trace = e.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = source.splitlines()
    return f", in: {clip(lines[line - 1], 150)}" if line and line <= len(lines) else ""
