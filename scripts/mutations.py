"""Ways in which a file may be damaged, cut, edited or forged: what `fuzz.py` and the fuzz of CI do to bytes."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable

import numpy as np

_NUMBERS = (
    b"-1", b"0", b"1e999", b"-5", b"NaN", b"9223372036854775807", b"1000000000", b"-9223372036854775808", b"1e-320",
    b"0.5", b"99999999999999999999999999", b"-0", b"Infinity",
)  # fmt: skip
_WORDS = (
    b"\x1b[31m", b"<script>alert(1)</script>", b"\xff\xfe\x00", b"null", b"[[[[[[[[", b"{}", b'"', b"\n", b"\x00",
    "\u202e".encode(), b"=cmd|' /C calc'!A0", b"True", b"../../../etc/passwd", b"a" * 5000, b"%n%s", b"'",
)  # fmt: skip
_CARD = 80

Random = np.random.Generator
Mutation = Callable[[bytearray, Random], bytearray]


def _place(content: bytearray, random: Random) -> int:
    # Half of the time in the first kilobytes, where headers are.
    most = len(content) if random.random() < 0.5 else min(len(content), 6000)
    return int(random.integers(max(most, 1)))


def flip_bit(content: bytearray, random: Random) -> bytearray:
    """One bit turned."""
    content[_place(content, random)] ^= 1 << int(random.integers(8))
    return content


def noise(content: bytearray, random: Random) -> bytearray:
    """A few bytes of chance."""
    at = _place(content, random)
    size = int(random.integers(1, 16))
    content[at : at + size] = random.bytes(size)
    return content


def cut(content: bytearray, random: Random) -> bytearray:
    """The end is missing."""
    return content[: int(random.integers(len(content)))]


def remove(content: bytearray, random: Random) -> bytearray:
    """A piece is missing."""
    at = _place(content, random)
    del content[at : at + int(2.0 ** random.uniform(0, 13))]
    return content


def repeat(content: bytearray, random: Random) -> bytearray:
    """A piece stands twice."""
    at = _place(content, random)
    piece = content[at : at + int(2.0 ** random.uniform(0, 13))]
    return content[:at] + piece + content[at:]


def exchange(content: bytearray, random: Random) -> bytearray:
    """Two pieces have changed places."""
    size = int(2.0 ** random.uniform(0, 12))
    one, two = sorted(_place(content, random) for _ in range(2))
    if two - one < size:
        return flip_bit(content, random)
    content[one : one + size], content[two : two + size] = content[two : two + size], content[one : one + size]
    return content


def number(content: bytearray, random: Random) -> bytearray:
    """A number in the text is another."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", bytes(content[:60_000])))
    if not found:
        return flip_bit(content, random)
    chosen = found[int(random.integers(len(found)))]
    new = _NUMBERS[int(random.integers(len(_NUMBERS)))]
    if random.random() < 0.5:  # where places matter, as in FITS headers
        new = new[: chosen.end() - chosen.start()].rjust(chosen.end() - chosen.start())
    return content[: chosen.start()] + new + content[chosen.end() :]


def word(content: bytearray, random: Random) -> bytearray:
    """Something hostile stands in the text."""
    at = _place(content, random)
    new = _WORDS[int(random.integers(len(_WORDS)))]
    return content[:at] + new + content[at + (len(new) if random.random() < 0.5 else 0) :]


def line(content: bytearray, random: Random) -> bytearray:
    """A line, or a card of a FITS header, is missing, doubled, or has gone to another place."""
    lines = [bytes(content[i : i + _CARD]) for i in range(0, len(content), _CARD)]
    if b"\n" in content[:2000]:
        lines = bytes(content).splitlines(keepends=True)
    at = int(random.integers(min(len(lines), 100)))
    kept = lines[:at] + lines[at + 1 :]
    choice = random.integers(3)
    if choice:
        where = at if choice == 1 else int(random.integers(min(len(kept), 100) + 1))
        kept[where:where] = [lines[at]] * int(choice == 1 and 2 or 1)
    return bytearray(b"".join(kept))


def zeros(content: bytearray, random: Random) -> bytearray:
    """A block that a crash of the machine left empty."""
    at = _place(content, random) // 512 * 512
    size = min(len(content) - at, 512 * int(random.integers(1, 9)))
    content[at : at + size] = bytes(size)
    return content


MUTATIONS: tuple[Mutation, ...] = (
    flip_bit, noise, cut, remove, repeat, exchange, number, number, word, line, zeros,
)  # fmt: skip


def mutated(content: bytes, random: Random) -> bytes:
    """The content after one to three mutations; of a gzip file what is in it, half of the time."""
    packed = content[:2] == b"\x1f\x8b" and random.random() < 0.5
    changed = bytearray(gzip.decompress(content) if packed else content)
    for _ in range(int(random.integers(1, 4))):
        if not changed:
            break
        changed = MUTATIONS[int(random.integers(len(MUTATIONS)))](changed, random)
    return gzip.compress(bytes(changed), 1) if packed else bytes(changed)
