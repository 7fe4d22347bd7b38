"""Opacity of atomic and molecular lines on a fine logarithmic wavelength grid, and its contraction with an adjoint.

Every line sits at its true centre. Three forms of profile, each as cheap as its line allows:

* *faint* lines: a Doppler core (their equivalent width, which is all that matters, is that of the Voigt profile);
* *core*: the Voigt function within some Doppler widths;
* *wing*: beyond them a/sqrt(pi) (v^-2 + (3/2 - a^2) v^-4), a product of a function of wavelength and one of depth,
  so that all wings of a block of wavelengths are one matrix product.

Opacities are kept species by species within a block: an abundance changes the opacity of a species by a factor that
depends on depth only, so that all abundance derivatives are matrix products too (see `synthesis`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.voigt import ONE_OVER_SQRT_PI, TWO_OVER_SQRT_PI, faddeeva, voigt

LIGHT_KM_S = 299792.458
EV_OVER_BOLTZMANN = 11604.518
HC_OVER_BOLTZMANN_A = 1.438776877e8  # Å K
AMU_OVER_BOLTZMANN = 1.6605390666e-24 / 1.380649e-16
LINE_STRENGTH = 0.02654008854 * ONE_OVER_SQRT_PI  # sqrt(pi) e^2 / (m c), cm2/s
FAINT, CORE = 0, 1
FAINT_HALF_WIDTHS = (3, 4, 5, 6, 8)
CORE_HALF_WIDTHS = (4, 6, 8, 12, 16, 24, 32)
CORE_DOPPLER_WIDTHS = 12.0
_CHUNK = 3_000_000  # profile values held at once


@dataclass(frozen=True)
class FineGrid:
    """Log-uniform grid: `size` points from `wave0` (Å) with `points` per unit of ln(wave)."""

    wave0: float
    points: float
    size: int

    @classmethod
    def covering(cls, wave_min: float, wave_max: float, points: float, multiple: int) -> FineGrid:
        """The grid from `wave_min` to at least `wave_max`, its size one more than a multiple of `multiple`."""
        blocks = math.ceil(math.log(wave_max / wave_min) * points / multiple)
        return cls(wave_min, points, blocks * multiple + 1)

    def wave(self, index: Tensor) -> Tensor:
        """Vacuum wavelength (Å, float64) at fractional indices."""
        return self.wave0 * torch.exp(index.double() / self.points)

    @property
    def step_km_s(self) -> float:
        """Width of a step in km/s."""
        return LIGHT_KM_S / self.points


@dataclass(frozen=True)
class Layers:
    """What the lines see of an atmosphere, tensors of D layers.

    temperature (K), electron_density and perturbers (1/cm3), density (g/cm3): (D,); populations: (S, D) number
    density over partition function of the line list's species; vmic in km/s.
    """

    temperature: Tensor
    electron_density: Tensor
    perturbers: Tensor
    density: Tensor
    populations: Tensor
    vmic: float


@dataclass(frozen=True)
class Tangents:
    """Change of the layers along K labels: each (K, D), logarithmic; `vmic` (K,) in km/s."""

    temperature: Tensor
    electron_density: Tensor
    perturbers: Tensor
    vmic: Tensor


class LineData:
    """The line list on a device, with the position of each line on the fine grid."""

    def __init__(self, lines: LineList, grid: FineGrid, device: torch.device):
        def put(x: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(x)).to(device=device, dtype=dtype)

        self.grid = grid
        self.device = device
        self.species_names = lines.species_names
        self.wave = put(lines.wave_vacuum)
        self.species = put(lines.species_index, torch.long)
        self.elow = put(lines.elow_ev)
        self.log_strength = put(math.log(LINE_STRENGTH) + math.log(10.0) * lines.loggf.astype(float))
        self.gamma_rad = put(lines.gamma_rad)
        self.gamma_stark = put(lines.gamma_stark)
        self.gamma_vdw = put(lines.gamma_vdw)
        self.vdw_exponent = put(lines.vdw_exponent)
        self.mass = put(lines.mass)
        position = np.log(lines.wave_vacuum / grid.wave0) * grid.points
        centre = np.rint(position)
        self.centre = put(centre, torch.long)
        self.fraction = put(centre - position)  # from the line's true centre to its grid point, in steps


@dataclass(frozen=True)
class LineState:
    """Lines that matter in an atmosphere, sorted by profile form, half width and wavelength.

    strength, damping, inverse_doppler : (N, D): peak opacity (cm2/g) for a = 0, Voigt a, 1 / Doppler width (s/km)
    extent : (N,) grid steps to which the wing matters. groups : (form, half width, first, last) of the sorted lines
    """

    index: Tensor
    centre: Tensor
    strength: Tensor
    damping: Tensor
    inverse_doppler: Tensor
    extent: Tensor
    groups: tuple[tuple[int, int, int, int], ...]
    strong: Tensor


def _parameters(data: LineData, layers: Layers, which: Tensor, depth: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = layers.temperature[depth]
    wave = data.wave[which, None]
    doppler2 = 2e-10 / AMU_OVER_BOLTZMANN * t / data.mass[which, None] + layers.vmic**2  # km2/s2
    inverse = torch.rsqrt(doppler2)
    stimulated = -torch.expm1(-HC_OVER_BOLTZMANN_A / (wave * t))
    log_population = torch.log(layers.populations[:, depth].clamp(min=1e-30) / layers.density[depth])
    exponent = (
        data.log_strength[which, None]
        + log_population[data.species[which]]
        - data.elow[which, None] * (EV_OVER_BOLTZMANN / t)
        + torch.log(wave * 1e-13)
    )
    strength = torch.exp(exponent) * stimulated * inverse
    _, _, gamma = _widths(data, layers, which, depth)
    damping = gamma * wave * (1e-13 / (4 * math.pi)) * inverse
    return strength, damping, inverse


def _nearest(data: LineData, continuum: Tensor) -> Tensor:
    # The continuum's wavelengths nearest to the lines.
    answer: Tensor = (data.centre.clamp(0, data.grid.size - 1) * (continuum.shape[0] - 1)) // (data.grid.size - 1)
    return answer


def select_lines(
    data: LineData, layers: Layers, continuum: Tensor, reference: Tensor, weight: Tensor, line_cut: float,
    window_cut: float,
) -> LineState:  # fmt: skip
    """Choose the lines that matter and how far.

    A line is kept where its central opacity exceeds `line_cut` times the continuum in one of the reference layers;
    its profile is followed until its opacity falls below `window_cut` times the continuum. In layers so high that
    little light is absorbed in them, both are in terms of the optical depth that they add: there are a hundred
    thousand molecular lines that a giant's coldest layers have and that nobody sees.

    Parameters
    ----------
    continuum : (M, D) continuous opacity at M wavelengths evenly spaced in index over the grid
    reference : indices (R,) of a few layers; weight : (R,) how much of the light they can absorb, 1 for all
    """
    every = torch.arange(len(data.wave), device=data.device)
    strength, damping, inverse = _parameters(data, layers, every, reference)
    ratio = strength / continuum[:, reference][_nearest(data, continuum)] * weight
    keep = torch.nonzero(ratio.amax(1) > line_cut).squeeze(1)
    ratio, damping, inverse = ratio[keep], damping[keep], inverse[keep]
    core = torch.sqrt(torch.log((ratio / window_cut).clamp(min=1.0)))
    wing = torch.sqrt(ratio * damping * (ONE_OVER_SQRT_PI / window_cut))
    width = 1.0 / (inverse * data.grid.step_km_s)
    core_extent = (core * width).amax(1)
    extent = torch.maximum(core_extent, (wing * width).amax(1))
    core_limit = (CORE_DOPPLER_WIDTHS * width).amax(1)
    faint = (extent <= core_extent * 1.02) & (extent <= FAINT_HALF_WIDTHS[-1])
    inside = data.centre[keep]
    on_grid = (inside + extent.clamp(min=40) >= 0) & (inside - extent.clamp(min=40) < data.grid.size)
    chosen = torch.full_like(keep, -1)
    key = torch.zeros_like(keep)
    kinds = [(FAINT, h) for h in FAINT_HALF_WIDTHS] + [(CORE, h) for h in CORE_HALF_WIDTHS]
    need = torch.where(faint, extent, torch.minimum(extent, core_limit))
    for number, (form, half) in enumerate(kinds):
        fits = (chosen < 0) & (need <= half) & (faint if form == FAINT else ~faint)
        chosen[fits] = number
    chosen[chosen < 0] = len(kinds) - 1
    key = chosen * (1 << 40) + inside + (1 << 30)
    order = torch.argsort(key)
    order = order[on_grid[order]]
    index, chosen, extent = keep[order], chosen[order], extent[order]
    counts = torch.bincount(chosen, minlength=len(kinds)).cumsum(0).tolist()
    starts = [0, *counts[:-1]]
    groups = tuple((f, h, a, b) for (f, h), a, b in zip(kinds, starts, counts) if b > a)
    strength, damping, inverse = _parameters(data, layers, index, slice(None))
    halves = torch.tensor([h for _, h in kinds], device=data.device)[chosen]
    forms = torch.tensor([f for f, _ in kinds], device=data.device)[chosen]
    strong = torch.nonzero((forms == CORE) & (extent > halves)).squeeze(1)
    return LineState(index, data.centre[index], strength, damping, inverse, extent, groups, strong)


# --- profiles of a chunk of lines: (n, W, D), or contracted with the adjoint to (n, W) -------------------------------


def _faint_profile(off: Tensor, inverse: Tensor, damping: Tensor, strength: Tensor) -> Tensor:
    v = off[:, :, None] * inverse[:, None, :]
    return torch.exp(-v * v) * strength[:, None, :]


def _core_profile(off: Tensor, inverse: Tensor, damping: Tensor, strength: Tensor) -> Tensor:
    v = off[:, :, None] * inverse[:, None, :]
    return voigt(damping[:, None, :].expand_as(v), v) * strength[:, None, :]


def _faint_response(
    off: Tensor, inverse: Tensor, damping: Tensor, strength: Tensor, adjoint: Tensor, d_strength: Tensor,
    d_damping: Tensor, d_inverse: Tensor,
) -> Tensor:  # fmt: skip
    v = off[:, :, None] * inverse[:, None, :]
    h = torch.exp(-v * v) * strength[:, None, :] * adjoint
    stretch = -2 * v * v * h
    return torch.stack(
        [(h * ds[:, None, :] + stretch * di[:, None, :]).sum(2) for ds, di in zip(d_strength, d_inverse)], dim=0
    )


def _core_response(
    off: Tensor, inverse: Tensor, damping: Tensor, strength: Tensor, adjoint: Tensor, d_strength: Tensor,
    d_damping: Tensor, d_inverse: Tensor,
) -> Tensor:  # fmt: skip
    v = off[:, :, None] * inverse[:, None, :]
    a = damping[:, None, :].expand_as(v)
    h, ell = faddeeva(a, v)
    weight = strength[:, None, :] * adjoint
    by_a = a * (2 * (a * h + v * ell) - TWO_OVER_SQRT_PI) * weight
    by_v = 2 * v * (a * ell - v * h) * weight
    h = h * weight
    return torch.stack(
        [
            (h * ds[:, None, :] + by_a * da[:, None, :] + by_v * di[:, None, :]).sum(2)
            for ds, da, di in zip(d_strength, d_damping, d_inverse)
        ],
        dim=0,
    )


class Profiles:
    """The four kernels, compiled once a process where that is possible."""

    def __init__(self, compiled: bool):
        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, dynamic=True) if compiled else function

        if compiled:
            # Chunks of one line or one block are compiled apart; past the limit torch would fall back silently.
            torch._dynamo.config.recompile_limit = 64

        self.value = {FAINT: wrap(_faint_profile), CORE: wrap(_core_profile)}
        self.response = {FAINT: wrap(_faint_response), CORE: wrap(_core_response)}


@dataclass(frozen=True)
class _LineChunk:
    lines: slice
    offsets: Tensor  # (n, W) km/s from the true centre
    row: Tensor  # (n, W) index within the block, out of range where the profile leaves it
    inside: Tensor


def _chunks(
    data: LineData, state: LineState, first: int, last: int, group: tuple[int, int, int, int]
) -> Iterator[_LineChunk]:
    # The lines of a group whose windows touch the block [first, last), in pieces that fit the memory.
    _, half, begin, end = group
    centres = state.centre[begin:end]
    bounds = torch.tensor([first - half, last + half], device=data.device)
    low, high = torch.searchsorted(centres, bounds).tolist()
    window = torch.arange(-half, half + 1, device=data.device)
    size = max(1, _CHUNK // (len(window) * state.strength.shape[1]))
    for start in range(begin + low, begin + high, size):
        lines = slice(start, min(start + size, begin + high))
        row = state.centre[lines, None] + window - first
        fraction = data.fraction[state.index[lines]]
        offsets = (window + fraction[:, None]) * data.grid.step_km_s
        yield _LineChunk(lines, offsets, row, (row >= 0) & (row < last - first))


class Wings(NamedTuple):
    """Wings of strong lines in a block: rows in the state (n,), v^-2 and v^-4 (n, P), their factors (n, D)."""

    lines: Tensor
    square: Tensor
    fourth: Tensor
    factor2: Tensor
    factor4: Tensor


def block_wings(data: LineData, state: LineState, first: int, last: int) -> Wings | None:
    """The strong lines whose wings reach the block of wavelengths, if there are any."""
    centre, extent = state.centre[state.strong], state.extent[state.strong]
    lines = state.strong[(centre + extent >= first) & (centre - extent < last)]
    if not len(lines):
        return None
    pixel = torch.arange(first, last, device=data.device)
    steps = pixel[None] - state.centre[lines, None]
    offset = (steps + data.fraction[state.index[lines], None]) * data.grid.step_km_s
    active = (steps.abs() > _core_half_width(state, lines)[:, None]) & (steps.abs() <= state.extent[lines, None])
    square = torch.where(active, 1.0 / (offset * offset).clamp(min=0.25 * data.grid.step_km_s**2), 0.0)
    return Wings(lines, square, square * square, *_wing_factors(state, lines))


def _core_half_width(state: LineState, lines: Tensor) -> Tensor:
    # Half width (grid steps) of the core of given lines of a state.
    ends = torch.tensor([end for *_, end in state.groups], device=lines.device)
    halves = torch.tensor([half for _, half, _, _ in state.groups], device=lines.device)
    return halves[torch.searchsorted(ends, lines, right=True)]


def _wing_factors(state: LineState, lines: Tensor) -> tuple[Tensor, Tensor]:
    a, inverse2 = state.damping[lines], state.inverse_doppler[lines] ** -2
    first = state.strength[lines] * a * inverse2 * ONE_OVER_SQRT_PI
    return first, first * (1.5 - (a * a).clamp(max=40.0)) * inverse2


def block_opacity(
    data: LineData, state: LineState, profiles: Profiles, wings: Wings | None, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """Line opacity in a block of wavelengths, whose `block_wings` are given, by species.

    Returns
    -------
    active : (A,) species that have lines in the block; opacity : (A, P, D) cm2/g, P = last - first
    """
    size, depth = last - first, state.strength.shape[1]
    pieces = [(group, chunk) for group in state.groups for chunk in _chunks(data, state, first, last, group)]
    present = [data.species[state.index[chunk.lines]] for _, chunk in pieces]
    if wings is not None:
        present.append(data.species[state.index[wings.lines]])
    if not present:
        return torch.zeros(0, dtype=torch.long, device=data.device), torch.zeros(0, size, depth, device=data.device)
    active = torch.unique(torch.cat(present))
    slot = torch.zeros(len(data.species_names), dtype=torch.long, device=data.device)
    slot[active] = torch.arange(len(active), device=data.device)
    total = torch.zeros(len(active) * size + 1, depth, device=data.device)  # the last row takes what falls outside
    outside = len(active) * size
    for (form, *_), chunk in pieces:
        lines = chunk.lines
        profile = profiles.value[form](
            chunk.offsets, state.inverse_doppler[lines], state.damping[lines], state.strength[lines]
        )
        row = slot[data.species[state.index[lines]]][:, None] * size + chunk.row
        row = torch.where(chunk.inside, row, outside)
        total.index_add_(0, row.reshape(-1), profile.reshape(-1, depth))
    opacity = total[:-1].reshape(len(active), size, depth)
    if wings is not None:
        species = slot[data.species[state.index[wings.lines]]]
        for s in torch.unique(species).tolist():
            mine = species == s
            opacity[s].addmm_(wings.square[mine].T, wings.factor2[mine])
            opacity[s].addmm_(wings.fourth[mine].T, wings.factor4[mine])
    return active, opacity


def _widths(
    data: LineData, layers: Layers, which: Tensor, depth: slice | Tensor = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    # Damping by electrons, by neutral perturbers and in all, (n, D) 1/s.
    warm = torch.log(layers.temperature[depth] / 1e4)
    stark = data.gamma_stark[which, None] * (layers.electron_density[depth] * torch.exp(warm / 6))
    vdw = data.gamma_vdw[which, None] * layers.perturbers[depth] * torch.exp(data.vdw_exponent[which, None] * warm)
    return stark, vdw, data.gamma_rad[which, None] + stark + vdw


def _log_changes(
    data: LineData, layers: Layers, tangents: Tangents, which: Tensor, damping: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # d ln (strength at fixed population, damping, inverse Doppler width), each (K, n, D).
    t = layers.temperature
    thermal2 = 1e-10 / AMU_OVER_BOLTZMANN * t / data.mass[which, None] * inverse**2
    d_inverse = -(thermal2 * tangents.temperature[:, None] + (layers.vmic * tangents.vmic)[:, None, None] * inverse**2)
    x = HC_OVER_BOLTZMANN_A / (data.wave[which, None] * t)
    excitation = data.elow[which, None] * (EV_OVER_BOLTZMANN / t) - x / torch.expm1(x)
    d_strength = excitation * tangents.temperature[:, None] + d_inverse
    stark, vdw, gamma = _widths(data, layers, which)
    d_stark = (tangents.electron_density + tangents.temperature / 6)[:, None]
    d_vdw = tangents.perturbers[:, None] + data.vdw_exponent[which, None] * tangents.temperature[:, None]
    d_damping = (stark * d_stark + vdw * d_vdw) / gamma + d_inverse
    return d_strength, d_damping, d_inverse


def block_response(
    data: LineData,
    layers: Layers,
    state: LineState,
    tangents: Tangents,
    profiles: Profiles,
    wings: Wings | None,
    adjoint: Tensor,
    first: int,
    last: int,
) -> Tensor:
    """Change of the flux in a block by excitation, Doppler widths and damping of its lines, at fixed populations.

    Parameters
    ----------
    adjoint : (P, D) derivative of the flux with respect to the absorption

    Returns
    -------
    (K, P) for the K labels of `tangents`
    """
    size = last - first
    answer = torch.zeros(len(tangents.vmic), size + 1, device=data.device)
    for group in state.groups:
        for chunk in _chunks(data, state, first, last, group):
            lines = chunk.lines
            row = torch.where(chunk.inside, chunk.row, size)
            seen = adjoint[row.clamp(max=size - 1)]
            damping, inverse = state.damping[lines], state.inverse_doppler[lines]
            changes = _log_changes(data, layers, tangents, state.index[lines], damping, inverse)
            piece = profiles.response[group[0]](chunk.offsets, inverse, damping, state.strength[lines], seen, *changes)
            answer.index_add_(1, row.reshape(-1), piece.reshape(len(answer), -1))
    answer = answer[:, :-1]
    if wings is not None:
        factor2 = wings.factor2
        middle = factor2.shape[1] // 2
        shape = wings.square + (wings.factor4[:, middle] / factor2[:, middle])[:, None] * wings.fourth
        damping, inverse = state.damping[wings.lines], state.inverse_doppler[wings.lines]
        d_strength, d_damping, d_inverse = _log_changes(
            data, layers, tangents, state.index[wings.lines], damping, inverse
        )
        for k in range(len(answer)):
            change = factor2 * (d_strength[k] + d_damping[k] - 2 * d_inverse[k])
            answer[k] += ((change @ adjoint.T) * shape).sum(0)
    return answer


def block_line_responses(
    data: LineData,
    layers: Layers,
    state: LineState,
    profiles: Profiles,
    wings: Wings | None,
    adjoint: Tensor,
    first: int,
    last: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Change of the flux in a block with the strength and the van der Waals width of every single line.

    Parameters
    ----------
    adjoint : (P, D) derivative of the flux with respect to the absorption

    Yields
    ------
    lines (n,) : indices into the line list; pixels (n, W) : within the block; d F / d ln gf and d F / d ln gamma_vdw :
    (n, W), zero outside the block
    """
    size = last - first
    for group in state.groups:
        for chunk in _chunks(data, state, first, last, group):
            which = state.index[chunk.lines]
            row = chunk.row.clamp(0, size - 1)
            damping, inverse = state.damping[chunk.lines], state.inverse_doppler[chunk.lines]
            _, vdw, gamma = _widths(data, layers, which)
            one, none = torch.ones_like(damping), torch.zeros_like(damping)
            by_gf, by_vdw = profiles.response[group[0]](
                chunk.offsets, inverse, damping, state.strength[chunk.lines], adjoint[row],
                torch.stack([one, none]), torch.stack([none, vdw / gamma]), torch.stack([none, none]),
            ) * chunk.inside  # fmt: skip
            yield which, row, by_gf, by_vdw
    if wings is not None:
        which = state.index[wings.lines]
        _, vdw, gamma = _widths(data, layers, which)
        by_gf, by_vdw = (
            wings.square * ((factor2 * share) @ adjoint.T) + wings.fourth * ((factor4 * share) @ adjoint.T)
            for share in (1.0, vdw / gamma)
            for factor2, factor4 in [(wings.factor2, wings.factor4)]
        )
        yield which, torch.arange(size, device=data.device).expand(len(which), -1), by_gf, by_vdw


def electron_broadening(data: LineData, layers: Layers, state: LineState, wings: Wings) -> Tensor:
    """(P, D) change of the opacity of wings (cm2/g) with ln n_e, as electrons broaden the lines (Stark effect)."""
    stark, _, gamma = _widths(data, layers, state.index[wings.lines])
    share = stark / gamma
    return wings.square.T @ (wings.factor2 * share) + wings.fourth.T @ (wings.factor4 * share)
