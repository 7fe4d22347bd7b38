"""The option --device of commands that train or apply models learned from data."""

from __future__ import annotations

import torch

from phdlspec.errors import UserError

DEVICES = ("auto", "cpu", "cuda")


def chosen_device(name: str) -> str:
    """The device of a choice among `DEVICES`. Raises `UserError` where it is a GPU and torch finds none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
