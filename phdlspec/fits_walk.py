"""A look over the headers of a FITS file before astropy opens it: counts, signs and sizes that can be.

astropy believes them: a NAXIS of 9e18 or a negative NAXIS1 sends it round for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import BinaryIO

BLOCK, CARD = 2880, 80
_MAX_BLOCKS = 4000  # of one header
_MAX_AXES, _MAX_FIELDS, _MAX_HDUS = 99, 999, 10_000
_BITPIX = (8, 16, 32, 64, -32, -64)
_WANTED = re.compile(rb"(Z?NAXIS\d{0,3}|BITPIX|PCOUNT|GCOUNT|TFIELDS|GROUPS|XTENSION|END) *")
_INTEGER = re.compile(rb" *([+-]?\d{1,30}) *(/.*)?", re.DOTALL)

Cards = Mapping[str, bytes]


def fits_size(stream: BinaryIO, limit: int) -> int:
    """Bytes that the HDUs of a FITS file take by what their headers say, headers included.

    What follows the last HDU is not counted. Raises `OSError` where a header cannot be, is cut, or tells of more than
    `limit` bytes.
    """
    total = 0
    for number in range(_MAX_HDUS):
        cards, length = _header(stream, first=not number)
        if cards is None:
            return total
        data = -(-_data_size(cards) // BLOCK) * BLOCK
        total += length + data
        if total > limit:
            raise OSError(f"its headers tell of {total:.3g} bytes, expected at most {limit:.3g}")
        _skip(stream, data)
    raise OSError(f"it has more than {_MAX_HDUS} HDUs")


def _header(stream: BinaryIO, first: bool) -> tuple[Cards | None, int]:
    """The cards that tell sizes and the length of a header; none where the file ends."""
    cards: dict[str, bytes] = {}
    for count in range(_MAX_BLOCKS):
        block = stream.read(BLOCK)
        if not count and not first and block[:8] != b"XTENSION":
            return None, 0
        if len(block) < BLOCK:
            raise OSError("a header is cut, without its END")
        for at in range(0, BLOCK, CARD):
            card = block[at : at + CARD]
            name = _WANTED.fullmatch(card[:8])
            if name is None:
                continue
            if name[1] == b"END":
                return cards, (count + 1) * BLOCK
            cards.setdefault(name[1].decode(), card[8:])
    raise OSError(f"a header has no END in {_MAX_BLOCKS} blocks")


def _data_size(cards: Cards) -> int:
    axes = _axes(cards, "NAXIS")
    _axes(cards, "ZNAXIS")  # the image in a compressed one
    _number(cards, "TFIELDS", 0, _MAX_FIELDS, 0)
    bits = _number(cards, "BITPIX", -64, 64, 8)
    if bits not in _BITPIX:
        raise OSError(f"BITPIX is {bits}, expected one of {', '.join(map(str, _BITPIX))}")
    groups, parameters = _number(cards, "GCOUNT", 0, 2**40, 1), _number(cards, "PCOUNT", 0, 2**40, 0)
    if b"T" in cards.get("GROUPS", b"")[:25] and axes[:1] == [0]:
        axes = axes[1:]
    return abs(bits) // 8 * groups * (parameters + (math.prod(axes) if axes else 0))


def _axes(cards: Cards, name: str) -> list[int]:
    count = _number(cards, name, 0, _MAX_AXES, 0)
    return [_number(cards, f"{name}{i}", 0, 2**40, None) for i in range(1, count + 1)]


def _number(cards: Cards, name: str, low: int, high: int, default: int | None) -> int:
    if name not in cards:
        if default is None:
            raise OSError(f"{name} is missing")
        return default
    card = cards[name]
    found = _INTEGER.fullmatch(card[2:]) if card[:1] == b"=" else None
    if found is None or not low <= int(found[1]) <= high:
        told = card[1:].split(b"/")[0].strip().decode("ascii", "replace")
        raise OSError(f"{name} is {told:.40}, expected a whole number from {low} to {high}")
    return int(found[1])


def _skip(stream: BinaryIO, count: int) -> None:
    # Seeking in a gzip stream unpacks what is passed over, in pieces.
    stream.seek(count, 1)
