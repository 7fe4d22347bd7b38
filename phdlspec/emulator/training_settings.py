"""The numbers that the result of a training depends on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from phdlspec.errors import UserError

_MAY_BE_ZERO = ("co_layers", "derivative_weight", "seed", "size_floor", "weight_decay")


@dataclass(frozen=True)
class TrainingSettings:
    """Numbers that the result depends on; they are kept in the checkpoint."""

    steps: int = 30_000
    batch: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    derivative_weight: float = 300.0
    size_floor: float = 0.02  # of a label's mean derivative size, below which its own size in a model is not followed
    patches: int = 80
    vectors: int = 48
    width: int = 64
    heads: int = 8
    hidden: int = 128
    second_hidden: int = 96
    co_layers: int = 3  # in which carbon monoxide is followed
    evaluations: int = 40
    patience: int = 15  # evaluations without a better validation error before training stops
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            zero = name in _MAY_BE_ZERO
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                option, least = name.replace("_", "-"), "zero or more" if zero else "more than zero"
                raise UserError(f"--{option} is {value:g}, expected {least}")
        if self.width % self.heads:
            raise UserError(
                f"--width is {self.width} and --heads {self.heads}: expected a width that is a multiple of the heads"
            )
