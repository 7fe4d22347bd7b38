"""The used pixels of stars, sorted into the patches of the native grid.

A model is made patch by patch, and a pixel sees its own patch and the edges of the two beside it. Pixels of one patch
therefore stand together: what takes a model to them is one small matrix a patch, and pixels that are not used cost
nothing. Tensors are (Q, S, ...): Q patches, S stars, and last the N slots of a patch, as many as the fullest one needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from phdlspec.lsf.native_grid import NativeGrid
from phdlspec.lsf.projection import native_positions


@dataclass(frozen=True)
class Blocks:
    """Where the used pixels of S stars lie.

    Attributes
    ----------
    grid : the native grid, in patches of `width` pixels
    rv : (S,) km/s, the velocities for which pixels are sorted; at others they see a little more of a neighbour
    index : (Q, S, N) the pixel in each slot; P in an empty slot
    place : (Q, S, N) float64, native pixels from the first of the patch, at `rv`
    pixels : P
    """

    grid: NativeGrid
    width: int
    rv: Tensor
    index: Tensor
    place: Tensor
    pixels: int

    @classmethod
    def of(cls, grid: NativeGrid, width: int, wave: Tensor, rv: Tensor, used: Tensor) -> Blocks:
        """Sort the pixels `used` (S, P) with wavelengths (P,) or (S, P), vacuum Å, for velocities rv (S,), km/s."""
        stars, pixels = used.shape
        patches = -(-grid.size // width)
        x = native_positions(grid, wave, rv).expand(stars, -1)
        patch = (torch.round(x).clamp(0, grid.size - 1) / width).long()
        patch = torch.where(used, patch, patches)  # those that are not used come last
        count = torch.zeros(stars, patches + 1, dtype=torch.int64, device=used.device)
        count = count.scatter_add(1, patch, torch.ones_like(patch))
        slots = max(int(count[:, :-1].max()), 1)
        order = torch.argsort(patch, dim=1, stable=True)
        ordered = patch.gather(1, order)
        first = torch.cumsum(count, dim=1) - count
        slot = torch.arange(pixels, device=used.device) - first.gather(1, ordered)
        target = torch.where(ordered < patches, ordered * slots + slot, patches * slots)
        index = torch.full((stars, patches * slots + 1), pixels, dtype=torch.int64, device=used.device)
        index = index.scatter(1, target, order)[:, :-1].reshape(stars, patches, slots).transpose(0, 1).contiguous()
        blocks = cls(grid, width, rv, index, torch.zeros_like(index, dtype=torch.float64), pixels)
        start = width * torch.arange(patches, device=used.device)[:, None, None]
        return replace(blocks, place=torch.where(blocks.filled, blocks.gather(x) - start, 0.0))

    @property
    def filled(self) -> Tensor:
        """(Q, S, N) True in slots that hold a pixel."""
        return self.index < self.pixels

    def select(self, index: Tensor) -> Blocks:
        """Those of some stars."""
        return replace(self, rv=self.rv[index], index=self.index[:, index], place=self.place[:, index])

    def gather(self, values: Tensor) -> Tensor:
        """Values (S or 1, P, ...) of pixels as (Q, S, N, ...), zero in empty slots."""
        stars = self.index.shape[1]
        padded = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)
        padded = padded.expand(stars, *padded.shape[1:])
        star = torch.arange(stars, device=values.device)[:, None]
        return padded[star, self.index]

    def scatter(self, blocks: Tensor) -> Tensor:
        """Values (Q, S, N) as (S, P), zero for pixels that are not used."""
        stars = self.index.shape[1]
        flat = self.index.transpose(0, 1).reshape(stars, -1)
        values = blocks.transpose(0, 1).reshape(stars, -1)
        return values.new_zeros(stars, self.pixels + 1).scatter(1, flat, values)[:, :-1]


def windows(patches: Tensor, overlap: int) -> Tensor:
    """Patches (Q, ..., W) with `overlap` pixels of their neighbours on either side: (Q, ..., W + 2 overlap)."""
    count, width = len(patches), patches.shape[-1]
    steps = -(-overlap // width)
    padded = pad(patches, (0, 0) * (patches.ndim - 1) + (steps, steps))
    parts = []
    for step in range(-steps, steps + 1):
        low = max(width * step, -overlap) - width * step
        high = min(width * (step + 1), width + overlap) - width * step
        parts.append(padded[steps + step : steps + step + count, ..., low:high])
    return torch.cat(parts, dim=-1)
