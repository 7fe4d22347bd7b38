"""Random numbers of a batch of stars: every star has its own stream, so results do not depend on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_BITS = 30  # of a Sobol point


@lru_cache(maxsize=8)
def _sobol(n: int, n_dim: int) -> Tensor:
    # Integers (n, D) of a scrambled sequence, the same for all; each star shifts them on its own.
    engine = torch.quasirandom.SobolEngine(n_dim, scramble=True, seed=1)  # type: ignore[no-untyped-call]
    points: Tensor = engine.draw(n, dtype=torch.float64)
    integers: Tensor = (points * 2**_BITS).long()
    return integers


class StarRandom:
    """One generator per star, seeded by the run's seed and the star's own name.

    Numbers are drawn on the CPU and moved, so that CPU and GPU runs see the same ones.
    """

    def __init__(self, seed: int, names: Sequence[str], device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._generators = []
        for name in names:
            digest = hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
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

    def sobol(self, n: int, n_dim: int) -> Tensor:
        """Quasi-random points (S, n, D) that fill the unit cube evenly, float64: a scrambled Sobol sequence, for each
        star with a random digital shift, which keeps its evenness and makes every point uniform."""
        shift = torch.stack([torch.randint(2**_BITS, (1, n_dim), generator=g) for g in self._generators])
        shifted: Tensor = _sobol(n, n_dim)[None] ^ shift
        uniform: Tensor = (shifted.double() + 0.5) / 2**_BITS
        return uniform.to(self.device)
