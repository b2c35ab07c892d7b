"""What the fuzz tests share: how many cases each runs, damage to files, and what is lawful.

The law of all of them: whatever comes in, a SamtuneError of one line or a correct result comes
out; no other exception, no hang, no file that was not asked for, memory within a stated bound.
`make test` runs the same cases each time; `make fuzz` looks for new ones, many times as many.
"""

import functools
import math
import os
import signal
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from samtune.errors import SamtuneError

Answer = TypeVar("Answer")
Test = TypeVar("Test", bound=Any)

_FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
_HANGS_AFTER = 20.0  # seconds of computing; a case takes milliseconds, the worst YAML 1 s


def cases(count: int) -> Callable[[Test], Test]:
    """So many cases in `make test`, and FUZZ_FACTOR times as many in `make fuzz`."""
    slow_or_large = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(
        max_examples=count * _FACTOR,
        suppress_health_check=[HealthCheck.function_scoped_fixture, *slow_or_large],
    )

    def decorate(test: Test) -> Test:
        case = test.hypothesis.inner_test

        @functools.wraps(case)
        def ending(*args: object, **options: object) -> object:
            signal.signal(signal.SIGPROF, _give_up)
            signal.setitimer(signal.ITIMER_PROF, _HANGS_AFTER)
            try:
                return case(*args, **options)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)

        test.hypothesis.inner_test = ending
        return chosen(test)

    return decorate


def _give_up(*_: object) -> None:
    raise TimeoutError(f"a case took {_HANGS_AFTER:g} seconds of computing: it may never end")


def answer_or_refusal(
    call: Callable[[], Answer], expected: type[SamtuneError] = SamtuneError
) -> Answer | None:
    """What a call answers, or None where it refuses in one line; other exceptions go on."""
    try:
        return call()
    except expected as error:
        is_one_line(str(error))
        return None


def is_one_line(message: str) -> None:
    """Hold a message to be one line that does nothing to a terminal."""
    assert message.strip()
    assert message.splitlines() == [message]
    assert not set(message) & CONTROL


CONTROL = {chr(code) for code in (*range(32), *range(127, 160))}

# Numbers that programs trip over: around limits of types, not finite, far too many digits.
_ODD_NUMBERS = [0, -1, 1, 2**31, -(2**31), 2**53 + 1, 2**63, 10**400, True, False]
_ODD_NUMBERS += [0.5, -0.5, 1e-320, 1e9, 1e308, -1e308, math.nan, math.inf, -math.inf]
NUMBERS = st.sampled_from(_ODD_NUMBERS) | st.integers(-50, 50)

# Texts likewise: lone surrogates, control characters, what leads elsewhere in a shell or a path.
_ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\n",
    "\ud800",
    "\udcff",
    "\x1b[2J",
    "\u2028",
    "../a.jpg",
    "/etc/passwd",
]
_ODD_TEXTS += ["-", "--help", "a" * 300, "%s%n", "{0}", "💡", "a\r\nb", "~", "NUL", "٣", "1" * 5000]
TEXTS = st.sampled_from(_ODD_TEXTS) | st.text(max_size=6)

ANYTHING = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, value: object) -> object:
    """Something of JSON with one place of it replaced, left out or repeated."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 7)) == 0:
            return {other: one for other, one in value.items() if other != key}
        return {**value, key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        if draw(st.integers(0, 7)) == 0:
            return value[:place] + value[place + 1 :]
        if draw(st.integers(0, 7)) == 0:
            return value + value[place:]
        return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
    return draw(ANYTHING)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, head: int = 64) -> bytes:
    """A file's bytes, cut off, with some flipped, taken out or put in; most often near its head."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "flip", "drop", "insert", "repeat"]))
    places = st.integers(0, min(head, len(content)) - 1) | st.integers(0, len(content) - 1)
    place = draw(places)
    if kind == "cut":
        return content[:place]
    if kind == "drop":
        return content[:place] + content[place + draw(st.integers(1, 9)) :]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if kind == "repeat":
        return content[: place + 1] + content[place:]
    flipped = bytearray(content)
    for where in [place, *draw(st.lists(places, max_size=3))]:
        flipped[where] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    return bytes(flipped)


_ODD_WORDS = ["NaN", "-Infinity", "1e999", "9" * 5000, "[" * 3000, "null", "\\ud800", '"', "\0"]
_ODD_WORDS += ["\ufeff", "&a [*a]", "!!float ''", "0x" + "f" * 5000, "\n", "\x85", "1e308"]


@st.composite
def damaged_text(draw: st.DrawFn, text: str) -> bytes:
    """A text file's bytes with some damage that keeps most of its syntax."""
    content = text.encode()
    for _ in range(draw(st.integers(1, 3))):
        if content and draw(st.booleans()):
            content = draw(damaged(content, head=len(content)))
            continue
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(start + 8, len(content))))
        put = draw(st.sampled_from(_ODD_WORDS))
        content = content[:start] + put.encode() + content[end:]
    return content


# Any bytes but the two that no file name has; most file systems take 255 of them.
_LONGEST_NAME = 255
_ODD_NAMES = [b" ", b"a b", b"'", b'"', b"a\nb", b"\xff\xfe", b"-rf", b"--help", b"$(id)", b"*?"]
_ODD_NAMES += [
    "é".encode(),
    "é".encode(),
    "💡".encode(),
    b"\x1b[2J",
    b"a.b.c",
    b".a",
    b"..a",
    b"x;y",
]


def file_names(suffix: str) -> st.SearchStrategy[str]:
    """Names of files that end in a suffix, of bytes that need be no text, up to 255 of them."""
    room = _LONGEST_NAME - len(suffix)
    long = st.integers(room - 40, room).map(lambda length: b"n" * length)
    free = st.binary(min_size=1, max_size=12) | st.text(string.printable, min_size=1).map(
        str.encode
    )
    stems = st.sampled_from(_ODD_NAMES) | long | free.map(lambda one: one[:room])
    usable = stems.filter(lambda stem: not {0, ord("/")} & set(stem))
    return usable.map(lambda stem: os.fsdecode(stem + suffix.encode()))


def everything_below(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their contents; links by where they lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = b"-> " + os.fsencode(os.readlink(path))  # noqa: PTH115, bytes as they are
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
