"""Random numbers of a batch of stars: every star has its own stream, so results do not depend on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class StarRandom:
    """One generator per star, seeded by the run's seed and the star's own name.

    Numbers are drawn on the CPU and moved, so that CPU and GPU runs see the same ones.
    """

    def __init__(self, seed: int, names: Sequence[str], device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._generators = []
        for name in names:
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator()
            generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            self._generators.append(generator)

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, index: Tensor | Sequence[int]) -> StarRandom:
        """The streams of some stars; they are shared with this object, not copied."""
        chosen = StarRandom(0, (), self.device)
        chosen._generators = [self._generators[int(i)] for i in index]
        return chosen

    def seed(self, star: int) -> int:
        """A seed from the stream of one star, for random numbers of others."""
        return int(torch.randint(2**31, (), generator=self._generators[star]))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (S, *shape), float64."""
        draws = [torch.randn(*shape, generator=g, dtype=torch.float64) for g in self._generators]
        return torch.stack(draws).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers (S, *shape) in [0, 1), float64."""
        draws = [torch.rand(*shape, generator=g, dtype=torch.float64) for g in self._generators]
        return torch.stack(draws).to(self.device)
