"""Normalised spectra of a model atmosphere together with their derivatives with respect to every label.

The flux at a wavelength depends on the opacity, the source function and the column masses seen at that wavelength.
One backward sweep through the transfer gives its derivative with respect to each of them in every layer (`transfer`);
contracted with how each answers to a label, that is the differential spectrum of the label:

* abundances, with electrons and molecules in equilibrium: populations of all species answer linearly (`chemistry`);
* TEFF, LOGG, FE_H: the interpolated atmosphere changes with the label as well, and with it excitation, Doppler
  widths, damping and the source function; populations and background opacities are solved a small step away;
* VMIC: Doppler widths.

No label costs a synthesis of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.chemistry import Chemistry, Composition, Continuum, Equilibrium
from kurucz_grids.grid import GRID_LABELS
from kurucz_grids.hydrogen import hydrogen_lines, interpolation_weights, sampling_nodes
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.opacity import (
    FineGrid,
    Layers,
    LineData,
    LineState,
    Profiles,
    Tangents,
    Wings,
    block_opacity,
    block_response,
    block_wings,
    central_opacity,
    electron_broadening,
    select_lines,
)
from kurucz_grids.transfer import Adjoint, emergent_flux, flux_and_adjoint, planck
from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS
from phdlspec.solar import SOLAR_ABUNDANCES, SOLAR_SCALE

Array = NDArray[np.float64]

LN10 = float(np.log(10.0))
NO_OPACITY = 1e-30  # cm2/g
TINY = 1e-60  # cm2/g or 1/cm3: what is below does not count as changed
METAL_STEP = 0.05  # dex, to the gas that tells what electrons do to hydrogen lines
LABEL_STEPS = {"TEFF": 3.0, "LOGG": 0.006, "FE_H": 0.006}  # to the neighbouring atmospheres
WING = 150.0  # Å beyond the range from which lines still reach into it
BACKGROUND = 1024  # fine-grid steps between nodes of the continuum
FOLLOWED = {"H", "Fe", "Li", "Pr", "Gd", "Dy", *ELEMENTS}  # elements whose lines are computed
REFERENCE_LOG_TAU = (-5.0, -4.0, -3.0, -2.0, -1.2, -0.5, 0.2)  # layers at which lines are judged


@dataclass(frozen=True)
class Settings:
    """Numerical choices of the synthesis; the defaults are those of the shipped grid.

    wave_min, wave_max : vacuum Å. points : grid points per unit of ln(wave). line_cut : central opacity over
    continuum below which a line is dropped. window_cut : opacity over continuum down to which a profile is followed.
    scattering : treat continuum scattering as such, not as absorption. block : wavelengths treated at once.
    top_log_tau : layers above this log10 of the Rosseland optical depth are left out.
    """

    wave_min: float = 3685.0
    wave_max: float = 9120.0
    points: float = 150_000.0
    line_cut: float = 3e-4
    window_cut: float = 3e-4
    scattering: bool = True
    block: int = 4096
    top_log_tau: float = -6.0
    compiled: bool = True


@dataclass(frozen=True)
class BackgroundTangents:
    """Logarithmic changes along the K labels of what makes the background opacity.

    absorption, scattering : (K, M, D) changes of the continuum nodes (cm2/g).
    hydrogen : (K, D) of the hydrogen-line opacity by its populations, along abundances.
    electrons, atoms : (K, D) ln n_e and ln n(H I) along abundances, which broaden hydrogen lines.
    neighbours : labels (indices) whose neighbouring atmospheres were solved; neighbour_hydrogen (len, H, D) change of
    ln(hydrogen-line opacity) along them.
    """

    absorption: Array
    scattering: Array
    hydrogen: Array
    electrons: Array
    atoms: Array
    neighbours: tuple[int, ...]
    neighbour_hydrogen: Array


@dataclass(frozen=True)
class _Neighbour:
    """The gas a small step along a label that changes the atmosphere, with its opacities at nodes of wavelength."""

    label: int
    step: float
    gas: Equilibrium
    continuum: Continuum
    hydrogen: Array

    def change(self, here: Array, base: Array) -> Array:
        """d ln(a quantity) / d label, from its value here and in the base."""
        known = np.minimum(here, base) > TINY
        return np.log(np.divide(here, base, out=np.ones_like(base), where=known)) / self.step


@dataclass(frozen=True)
class Answers:
    """What changes in a star along the K labels of `GRID_LABELS`.

    Attributes
    ----------
    populations : (K, S, D) ln(population / density) of the S species of the line list
    temperature, electrons, perturbers, log_column : (K, D) logarithms, the last of the column mass between layers
    vmic : (K,) km/s
    background : continuum and hydrogen lines; hydrogen_by_electrons, hydrogen_by_atoms (H, D) : derivatives of
    ln(hydrogen-line opacity) with respect to ln n_e and ln n(H I), both through broadening alone
    """

    populations: Array
    temperature: Array
    electrons: Array
    perturbers: Array
    log_column: Array
    vmic: Array
    background: BackgroundTangents
    hydrogen_by_electrons: Array
    hydrogen_by_atoms: Array


@dataclass(frozen=True)
class StellarModel:
    """All that the transfer needs of one star, as numpy arrays: the chemistry is done.

    Attributes
    ----------
    equilibrium : the layers; vmic : km/s
    continuum : at the nodes; hydrogen_wave (H,), hydrogen (H, D) cm2/g
    answers : to the labels, where derivatives were asked for
    """

    equilibrium: Equilibrium
    vmic: float
    continuum: Continuum
    hydrogen_wave: Array
    hydrogen: Array
    answers: Answers | None


@dataclass(frozen=True)
class SyntheticSpectrum:
    """A spectrum on the fine log-uniform grid.

    wave (P,) vacuum Å; flux (P,) over continuum; continuum (P,) erg/cm2/s/Å at the surface; jacobian (K, P) of the
    normalised flux, in the order of `label_names`, or None; tensors in float32 but for `wave`.
    """

    wave: Tensor
    flux: Tensor
    continuum: Tensor
    jacobian: Tensor | None
    label_names: tuple[str, ...]
    n_lines: int


class Synthesizer:
    """Spectra of labels, from a grid of atmospheres and a line list.

    Parameters
    ----------
    atmospheres : may be None if only `prepare_atmosphere` is used
    line_list : vacuum wavelengths, isotope fractions applied
    device : "cpu" or "cuda": where lines and transfer are computed; the chemistry always runs on the CPU
    """

    def __init__(
        self,
        atmospheres: AtmosphereGrid | None,
        line_list: LineList,
        settings: Settings = Settings(),  # noqa: B008 (frozen)
        device: str = "cpu",
    ):
        self.atmospheres = atmospheres
        self.settings = settings
        self.device = torch.device(device)
        self.grid = FineGrid.covering(settings.wave_min, settings.wave_max, settings.points, settings.block)
        lines = line_list.within(settings.wave_min - WING, settings.wave_max + WING)
        known = [name for name in lines.species_names if _is_followed(name)]
        if len(known) < len(lines.species_names):
            lines = lines.select(np.isin(lines.species, known))
            lines = LineList.from_columns(
                lines.species, **{f.name: getattr(lines, f.name) for f in fields(lines) if "species" not in f.name}
            )
        self.line_list = lines
        self.lines = LineData(lines, self.grid, self.device)
        self.profiles = Profiles(settings.compiled)
        self._hydrogen = hydrogen_lines(3600.0, 9400.0)
        self._chemistry: Chemistry | None = None
        self.wave = self.grid.wave(torch.arange(self.grid.size, device=self.device))
        self._nodes = self.wave[::BACKGROUND].cpu().numpy()
        self.provenance = {
            "line_list": line_list.path,
            "line_list_checksum": line_list.checksum,
            "line_list_medium": line_list.medium,
            "atmospheres_checksum": atmospheres.checksum if atmospheres is not None else "",
            "solar_scale": SOLAR_SCALE,
            **{f"settings_{f.name}": getattr(settings, f.name) for f in fields(settings)},
        }

    # --- chemistry, on the CPU ----------------------------------------------------------------------------------

    @property
    def chemistry(self) -> Chemistry:
        """SMElib, set up on first use: there is one a process."""
        if self._chemistry is None:
            names = self.lines.species_names
            self._chemistry = Chemistry(names, self._hydrogen, self.settings.wave_min, self.settings.wave_max)
        return self._chemistry

    def prepare(self, labels: ArrayLike | Mapping[str, float], derivatives: bool = True) -> StellarModel:
        """Atmosphere, chemistry and background opacity of labels: (32,) in the order of `GRID_LABELS`, or by name.

        Raises `UserError` for labels outside their bounds or without an atmosphere.
        """
        if self.atmospheres is None:
            raise UserError("this synthesizer has no grid of atmospheres: give one, or use an atmosphere of your own")
        theta = GRID_LABELS.complete(labels) if isinstance(labels, Mapping) else np.asarray(labels, dtype=float)
        if theta.shape != (len(GRID_LABELS),) or not np.isfinite(theta).all():
            raise UserError(f"labels have shape {theta.shape}, expected {len(GRID_LABELS)} finite numbers")
        values = dict(zip(GRID_LABELS.names, theta.tolist()))
        centre = (values["TEFF"], values["LOGG"], values["FE_H"])
        atmosphere = self.atmospheres.interpolate(*centre)
        slopes = {}
        if derivatives:
            keep = self._layers(atmosphere)
            slopes = {
                name: self._atmosphere_slope(centre, axis, LABEL_STEPS[name], keep)
                for axis, name in enumerate(("TEFF", "LOGG", "FE_H"))
            }
        return self._prepare(atmosphere, _abundances(values), values["VMIC"], slopes, derivatives)

    def prepare_atmosphere(
        self, atmosphere: Atmosphere, abundances: Mapping[str, float], vmic: float, derivatives: bool = True
    ) -> StellarModel:
        """As `prepare` for an atmosphere of one's own and A(X) by element: derivatives of TEFF and LOGG are zero."""
        return self._prepare(atmosphere, dict(abundances), vmic, {}, derivatives)

    def _atmosphere_slope(
        self, centre: tuple[float, ...], axis: int, step: float, keep: slice
    ) -> tuple[Array, Array, Array]:
        # d(ln T, ln P, ln column) by a central difference, one-sided at the edge of the grid.
        assert self.atmospheres is not None
        ends = []
        for offset in (-step, step):
            point = list(centre)
            point[axis] += offset if self.atmospheres.contains(*np.add(centre, np.eye(3)[axis] * offset)) else 0.0
            ends.append((point[axis], self.atmospheres.interpolate(*point)))
        (x0, low), (x1, high) = ends
        if x1 == x0:
            raise UserError(f"no atmospheres around Teff {centre[0]:g}, logg {centre[1]:g}, [M/H] {centre[2]:g}")
        return tuple(
            np.log(a / b) / (x1 - x0)
            for a, b in (
                (high.temperature[keep], low.temperature[keep]),
                (high.gas_pressure[keep], low.gas_pressure[keep]),
                (_steps(high.rhox, keep), _steps(low.rhox, keep)),
            )
        )  # type: ignore[return-value]

    def _layers(self, atmosphere: Atmosphere) -> slice:
        first = int(np.searchsorted(np.log10(atmosphere.tau_rosseland), self.settings.top_log_tau))
        return slice(min(first, len(atmosphere.rhox) - 20), None)

    def _prepare(
        self,
        atmosphere: Atmosphere,
        abundances: dict[str, float],
        vmic: float,
        slopes: dict[str, tuple[Array, Array, Array]],
        derivatives: bool,
    ) -> StellarModel:
        self.chemistry.self_broadening  # noqa: B018 (measured before SMElib holds this model)
        keep = self._layers(atmosphere)
        columns = atmosphere.temperature, atmosphere.gas_pressure, atmosphere.rhox, atmosphere.electron_density
        t, p, rhox, n_e = (x[keep].copy() for x in columns)

        def solve(t: Array, p: Array, mixture: dict[str, float]) -> Equilibrium:
            return self.chemistry.solve(t, p, rhox, n_e, mixture, atmosphere.teff, atmosphere.logg, vmic)

        base = solve(t, p, abundances)
        continuum = self.chemistry.continuum(self._nodes, parts=derivatives)
        nodes = sampling_nodes(self._hydrogen, self.settings.wave_min, self.settings.wave_max * 1.01)
        model = StellarModel(base, vmic, continuum, nodes, self.chemistry.hydrogen_opacity(nodes), None)
        if not derivatives:
            return model
        # What neighbouring states of the gas change is smoother in wavelength than the opacities themselves.
        sparse = nodes[::2] if len(nodes) % 2 else np.append(nodes[::2], nodes[-1])
        neighbours = []
        for name, (by_t, by_p, _) in slopes.items():
            step = LABEL_STEPS[name]
            mixture = _enriched(abundances, step) if name == "FE_H" else abundances
            gas = solve(t * np.exp(by_t * step), p * np.exp(by_p * step), mixture)
            opacities = self.chemistry.continuum(self._nodes, parts=False), self.chemistry.hydrogen_opacity(sparse)
            neighbours.append(_Neighbour(GRID_LABELS.index(name), step, gas, *opacities))
        rich = solve(t, p, _enriched(abundances, METAL_STEP))
        rich_hydrogen = self.chemistry.hydrogen_opacity(sparse)
        by_electrons = self._by_electrons(rich, base, rich_hydrogen, model.hydrogen, nodes, sparse)
        return replace(model, answers=self._answers(model, slopes, neighbours, by_electrons, sparse))

    def _answers(
        self,
        model: StellarModel,
        slopes: dict[str, tuple[Array, Array, Array]],
        neighbours: Sequence[_Neighbour],
        by_electrons: Array,
        sparse: Array,
    ) -> Answers:
        base = model.equilibrium
        response = base.response
        inputs = {name: i for i, name in enumerate(response.inputs)}
        depth, n_labels = len(base.temperature), len(GRID_LABELS)
        direction = np.zeros((n_labels, len(inputs), depth))  # change of each abundance along each label
        d_temperature = np.zeros((n_labels, depth))
        log_column = np.zeros((n_labels, depth))
        vmic_tangent = np.zeros(n_labels)
        for k, label in enumerate(GRID_LABELS):
            if label.element in inputs:
                direction[k, inputs[label.element]] = LN10
            if label.name == "FE_H" and label.name not in slopes:
                for element, i in inputs.items():
                    if element != "He":
                        direction[k, i] = LN10
            if label.name == "VMIC":
                vmic_tangent[k] = 1.0
            if label.name in slopes:
                d_temperature[k], _, log_column[k] = slopes[label.name]

        def along(answer: Array, here: Callable[[Equilibrium], Array]) -> Array:
            # (K, D) changes along the labels, from the answer to single abundances and from the neighbours.
            change = np.einsum("kid,id->kd", direction, answer)
            for neighbour in neighbours:
                change[neighbour.label] = neighbour.change(here(neighbour.gas), here(base))
            return change

        d_density = along(response.density, lambda gas: gas.density)
        d_electrons = along(response.electrons, lambda gas: gas.electron_density)
        d_perturbers = along(response.species["H"], lambda gas: gas.perturbers)
        populations = np.stack(
            [
                along(response.species[s], lambda gas, s=s: gas.population[s]) - d_density  # type: ignore[misc]
                for s in self.lines.species_names
            ],
            axis=1,
        )
        return Answers(
            populations=populations,
            temperature=d_temperature,
            electrons=d_electrons,
            perturbers=d_perturbers,
            log_column=log_column,
            vmic=vmic_tangent,
            background=self._background_tangents(model, direction, neighbours, sparse),
            hydrogen_by_electrons=by_electrons,
            hydrogen_by_atoms=self._self_broadening(model.hydrogen_wave, by_electrons, base),
        )

    def _self_broadening(self, nodes: Array, by_electrons: Array, base: Equilibrium) -> Array:
        # A wing is due to electrons, to hydrogen atoms and to the levels' own lifetimes, in sum: what the electrons
        # leave is shared between the other two. Within the Doppler core broadening does nothing.
        centres = np.array([line.wave_vacuum for line in self._hydrogen])
        nearest = np.abs(nodes[:, None] - centres).argmin(axis=1)
        offset = np.abs(nodes / centres[nearest] - 1.0) * 6563.0
        in_wing = np.clip((offset - 0.35) / 0.35, 0.0, 1.0)
        constant, slope = self.chemistry.self_broadening[nearest].T
        # Towards the centre the electrons' part grows; where its exponent falls again, their core begins.
        left = np.clip(1.0 - by_electrons, 0.0, 1.0)
        order = np.argsort(-offset)
        for line in range(len(centres)):
            for side in (nodes >= centres[line], nodes < centres[line]):
                mine = order[(nearest == line)[order] & side[order]]
                left[mine] = np.minimum.accumulate(left[mine], axis=0)
        ratio = base.number["H"] * np.exp(constant[:, None] + slope[:, None] * np.log(base.temperature))
        return left * in_wing[:, None] * ratio / (1.0 + ratio)

    def _background_tangents(
        self, model: StellarModel, direction: Array, neighbours: Sequence[_Neighbour], sparse: Array
    ) -> BackgroundTangents:
        base, continuum, nodes, hydrogen = model.equilibrium, model.continuum, model.hydrogen_wave, model.hydrogen
        response = base.response
        density, electrons, atoms = (
            np.einsum("kid,id->kd", direction, x) for x in (response.density, response.electrons, response.species["H"])
        )

        def product(species: tuple[str, ...]) -> Array:
            rows = [response.electrons if s == "e" else response.species[s] for s in species]
            return np.einsum("kid,id->kd", direction, sum(rows))

        def change(parts, total: Array, here: Callable[[Continuum], Array]) -> Array:
            answer = -total * density[:, None]
            for species, part in parts:
                answer = answer + part * product(species)[:, None]
            for neighbour in neighbours:
                answer[neighbour.label] = total * neighbour.change(here(neighbour.continuum), total)
            return answer

        position = np.searchsorted(nodes, sparse)
        by_label = [self._spread(nodes, sparse, n.change(n.hydrogen, hydrogen[position])) for n in neighbours]
        return BackgroundTangents(
            absorption=change(continuum.absorption_parts, continuum.absorption, lambda c: c.absorption),
            scattering=change(continuum.scattering_parts, continuum.scattering, lambda c: c.scattering),
            hydrogen=atoms - density,
            electrons=electrons,
            atoms=atoms,
            neighbours=tuple(n.label for n in neighbours),
            neighbour_hydrogen=np.array(by_label).reshape(len(neighbours), *hydrogen.shape),
        )

    def _by_electrons(
        self, rich: Equilibrium, base: Equilibrium, rich_hydrogen: Array, hydrogen: Array, nodes: Array, sparse: Array
    ) -> Array:
        # d ln(hydrogen-line opacity) / d ln n_e at all nodes, from a gas with more metals (`rich_hydrogen` at the
        # sparse nodes): what these change through the electrons, apart from the populations of hydrogen.
        populations = np.log(rich.population["H"] / base.population["H"] * base.density / rich.density)
        here = hydrogen[np.searchsorted(nodes, sparse)]
        change = np.log(np.maximum(rich_hydrogen, NO_OPACITY) / np.maximum(here, NO_OPACITY))
        d_ln_e = np.log(rich.electron_density / base.electron_density)
        # Holtsmark's wing goes with n_e, a Stark-broadened centre with n_e^(-2/3): the rest is rounding error of a
        # layer whose electrons do not come from metals.
        answer = np.clip((change - populations) / np.where(d_ln_e > 1e-6, d_ln_e, np.inf), -1.0, 1.5)
        return self._spread(nodes, sparse, answer)

    def _spread(self, nodes: Array, sparse: Array, values: Array) -> Array:
        # Values (M, D) at the sparse nodes to all (H, D), as opacities are interpolated.
        left, weight = interpolation_weights(self._hydrogen, sparse, nodes)
        return values[left] * (1.0 - weight[:, None]) + values[left + 1] * weight[:, None]

    # --- lines and transfer, on the device ---------------------------------------------------------------------

    def _put(self, array: ArrayLike) -> Tensor:
        return torch.as_tensor(np.asarray(array), dtype=torch.float32, device=self.device)

    def _line_layers(self, model: StellarModel) -> Layers:
        eq = model.equilibrium
        return Layers(
            temperature=self._put(eq.temperature),
            electron_density=self._put(eq.electron_density),
            perturbers=self._put(eq.perturbers),
            density=self._put(eq.density),
            populations=self._put(np.stack([eq.population[s] for s in self.lines.species_names])),
            vmic=float(model.vmic),
        )

    def _layers_at(self, model: StellarModel, log_tau: Sequence[float]) -> Tensor:
        # Indices of the layers at log10 optical depths of the mean continuous absorption.
        column = _steps(model.equilibrium.rhox, slice(None)) * model.continuum.absorption.mean(0)
        tau = np.log10(np.cumsum(column) + 1e-30)
        return torch.tensor([int(np.argmin(np.abs(tau - x))) for x in log_tau], device=self.device)

    @torch.no_grad()
    def line_strengths(self, model: StellarModel, log_tau: float = -1.0) -> Array:
        """Central opacity of every line of `line_list` over the continuum at an optical depth, (N,)."""
        layer = self._layers_at(model, (log_tau,))
        background = _Background(self, model).total
        return central_opacity(self.lines, self._line_layers(model), background, layer)[:, 0].cpu().numpy()

    @torch.no_grad()
    def solve(self, model: StellarModel) -> SyntheticSpectrum:
        """Flux over continuum of a prepared model; its derivatives if it was prepared with them."""
        layers = self._line_layers(model)
        background = _Background(self, model)
        state = select_lines(
            self.lines, layers, background.total, torch.unique(self._layers_at(model, REFERENCE_LOG_TAU)),
            self.settings.line_cut, self.settings.window_cut,
        )  # fmt: skip
        rhox = self._put(model.equilibrium.rhox)
        response = None if model.answers is None else _Response(self, model.answers, background, layers, state)
        flux = torch.empty(self.grid.size, device=self.device)
        jacobian = torch.empty(len(GRID_LABELS), self.grid.size, device=self.device)
        for first in range(0, self.grid.size, self.settings.block):
            last = min(first + self.settings.block, self.grid.size)
            wings = block_wings(self.lines, state, first, last)
            active, by_species = block_opacity(self.lines, state, self.profiles, wings, first, last)
            absorption, scattering, hydrogen = background.block(first, last)
            total = absorption + hydrogen + by_species.sum(0)
            b, b_by_t = planck(self.wave[first:last], layers.temperature)
            if response is None:
                flux[first:last] = emergent_flux(total, scattering, b, rhox)
                continue
            flux[first:last], adjoint = flux_and_adjoint(total, scattering, b, rhox)
            answer = response.of_background(first, last, adjoint, hydrogen, b * b_by_t)
            jacobian[:, first:last] = answer + response.of_lines(first, last, adjoint, active, by_species, wings)
        if response is None:
            continuum = background.continuum_flux(rhox)
            return SyntheticSpectrum(self.wave, flux / continuum, continuum, None, GRID_LABELS.names, len(state.index))
        continuum, d_continuum = response.continuum(rhox)
        flux /= continuum
        jacobian = jacobian / continuum - flux * d_continuum
        return SyntheticSpectrum(self.wave, flux, continuum, jacobian, GRID_LABELS.names, len(state.index))

    def synthesize(self, labels: ArrayLike | Mapping[str, float], derivatives: bool = True) -> SyntheticSpectrum:
        """`solve(prepare(labels, derivatives))`."""
        return self.solve(self.prepare(labels, derivatives))


class _Background:
    """Continuum and hydrogen lines of one model on the device."""

    def __init__(self, synthesizer: Synthesizer, model: StellarModel):
        put = synthesizer._put
        self._synthesizer = synthesizer
        self.absorption, self.scattering = put(model.continuum.absorption), put(model.continuum.scattering)
        if not synthesizer.settings.scattering:
            self.absorption, self.scattering = self.absorption + self.scattering, self.scattering * 1e-6
        self.total = self.absorption + self.scattering
        self.hydrogen_wave = model.hydrogen_wave
        self.log_hydrogen = put(np.log(np.maximum(model.hydrogen, NO_OPACITY)))
        self.temperature = put(model.equilibrium.temperature)

    def panels(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Left continuum node of each wavelength of a block and the weight of the right one."""
        index = torch.arange(first, last, device=self.absorption.device)
        left = (index // BACKGROUND).clamp(max=len(self.absorption) - 2)
        return left, (index - left * BACKGROUND).float() / BACKGROUND

    def at_hydrogen_nodes(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Left node of the hydrogen lines of each wavelength of a block and the weight of the right one."""
        wave = self._synthesizer.wave[first:last].cpu().numpy()
        left, weight = interpolation_weights(self._synthesizer._hydrogen, self.hydrogen_wave, wave)
        return torch.as_tensor(left, device=self.absorption.device), self._synthesizer._put(weight)[:, None]

    def spread(self, nodes: Tensor) -> Tensor:
        """Values at the continuum nodes (..., M) to all wavelengths (..., P), linear in index."""
        left, weight = self.panels(0, self._synthesizer.grid.size)
        return nodes[..., left] * (1 - weight) + nodes[..., left + 1] * weight

    def block(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Continuous absorption, scattering and hydrogen-line opacity of a block, each (P, D)."""
        left, weight = self.panels(first, last)
        weight = weight[:, None]
        absorption = self.absorption[left] * (1 - weight) + self.absorption[left + 1] * weight
        scattering = self.scattering[left] * (1 - weight) + self.scattering[left + 1] * weight
        node, w = self.at_hydrogen_nodes(first, last)
        hydrogen = torch.exp(self.log_hydrogen[node] * (1 - w) + self.log_hydrogen[node + 1] * w)
        return absorption, scattering, hydrogen

    def planck_at_nodes(self) -> tuple[Tensor, Tensor]:
        """Planck function (M, D) at the continuum nodes and d ln B/d ln T."""
        return planck(self._synthesizer.wave[::BACKGROUND], self.temperature)

    def continuum_flux(self, rhox: Tensor) -> Tensor:
        """Continuum at all wavelengths (P,)."""
        flux = emergent_flux(self.absorption, self.scattering, self.planck_at_nodes()[0], rhox)
        return torch.exp(self.spread(torch.log(flux)))


class _Response:
    """The answers of one model to the labels, on the device: contracted with the adjoint they are derivatives."""

    def __init__(
        self, synthesizer: Synthesizer, answers: Answers, background: _Background, layers: Layers, state: LineState
    ):
        put = synthesizer._put
        self._synthesizer, self._background, self._layers, self._state = synthesizer, background, layers, state
        tangents = Tangents(*map(put, (answers.temperature, answers.electrons, answers.perturbers, answers.vmic)))
        self.moving = torch.nonzero((tangents.temperature != 0).any(1) | (tangents.vmic != 0)).squeeze(1)
        self.local = Tangents(*(getattr(tangents, f.name)[self.moving] for f in fields(Tangents)))
        self.temperature, self.log_column = tangents.temperature, put(answers.log_column)
        self.electrons = tangents.electron_density.clone()
        self.electrons[self.moving] = 0.0  # the full sweep over the lines has them
        self.populations = put(answers.populations)
        parts = answers.background
        self.absorption, self.scattering = put(parts.absorption), put(parts.scattering)
        if not synthesizer.settings.scattering:
            self.absorption, self.scattering = self.absorption + self.scattering, self.scattering * 0
        self.hydrogen = put(parts.hydrogen)
        self.hydrogen_broadening = (
            (put(answers.hydrogen_by_electrons), put(parts.electrons)),
            (put(answers.hydrogen_by_atoms), put(parts.atoms)),
        )
        self.neighbours, self.neighbour_hydrogen = parts.neighbours, put(parts.neighbour_hydrogen)

    def of_lines(
        self, first: int, last: int, adjoint: Adjoint, active: Tensor, by_species: Tensor, wings: Wings | None
    ) -> Tensor:
        """(K, P) change of the flux of a block through its lines; by_species (A, P, D) opacity of species `active`."""
        synthesizer, layers, state = self._synthesizer, self._layers, self._state
        answer = torch.zeros(len(self.populations), last - first, device=adjoint.absorption.device)
        for slot, species in enumerate(active.tolist()):
            answer += self.populations[:, species] @ (by_species[slot] * adjoint.absorption).T
        if wings is not None:
            broadened = electron_broadening(synthesizer.lines, layers, state, wings)
            answer += self.electrons @ (broadened * adjoint.absorption).T
        answer[self.moving] += block_response(
            synthesizer.lines, layers, state, self.local, synthesizer.profiles, wings, adjoint.absorption, first, last
        )
        return answer

    def of_background(self, first: int, last: int, adjoint: Adjoint, hydrogen: Tensor, b_by_t: Tensor) -> Tensor:
        """(K, P) change of the flux of a block through continuum, hydrogen lines, source function and columns.

        hydrogen (P, D) cm2/g; b_by_t (P, D) change of the Planck function with ln T.
        """
        left, weight = self._background.panels(first, last)
        answer = torch.empty(len(self.hydrogen), last - first, device=left.device)
        for node in torch.unique(left).tolist():
            mine = left == node
            ends = [
                self.absorption[:, n] @ adjoint.absorption[mine].T + self.scattering[:, n] @ adjoint.scattering[mine].T
                for n in (node, node + 1)
            ]
            answer[:, mine] = ends[0] * (1 - weight[mine]) + ends[1] * weight[mine]
        node, w = self._background.at_hydrogen_nodes(first, last)
        seen = adjoint.absorption * hydrogen
        answer += self.hydrogen @ seen.T
        for sensitivity, change in self.hydrogen_broadening:
            answer += change @ (seen * (sensitivity[node] * (1 - w) + sensitivity[node + 1] * w)).T
        for label, change in zip(self.neighbours, self.neighbour_hydrogen):
            answer[label] += (seen * (change[node] * (1 - w) + change[node + 1] * w)).sum(1)
        answer += self.temperature @ (adjoint.planck * b_by_t).T + self.log_column @ adjoint.log_column.T
        return answer

    def continuum(self, rhox: Tensor) -> tuple[Tensor, Tensor]:
        """Continuum at all wavelengths (P,) and its logarithmic derivatives (K, P)."""
        background = self._background
        b, b_by_t = background.planck_at_nodes()
        flux, adjoint = flux_and_adjoint(background.absorption, background.scattering, b, rhox)
        change = torch.einsum("kmd,md->km", self.absorption, adjoint.absorption)
        change += torch.einsum("kmd,md->km", self.scattering, adjoint.scattering)
        change += self.temperature @ (adjoint.planck * b * b_by_t).T + self.log_column @ adjoint.log_column.T
        return torch.exp(background.spread(torch.log(flux))), background.spread(change / flux)


def _steps(rhox: Array, keep: slice) -> Array:
    rhox = rhox[keep]
    return np.concatenate([rhox[:1], np.diff(rhox)])


def _abundances(values: Mapping[str, float]) -> dict[str, float]:
    # A(X) of all elements: solar, scaled by [Fe/H], and the single ratios.
    abundances = {}
    for element, solar in SOLAR_ABUNDANCES.items():
        scale = 0.0 if element in ("H", "He") else values["FE_H"]
        abundances[element] = solar + scale + values.get(f"{element.upper()}_FE", 0.0)
    return abundances


def _is_followed(species: str) -> bool:
    # Lines of elements without a label of their own are kept where a late-type spectrum shows them.
    composition = Composition.of(species)
    return composition.charge < 2 and all(element in FOLLOWED for element, _ in composition.atoms) and species != "H"


def _enriched(abundances: Mapping[str, float], dex: float) -> dict[str, float]:
    # All metals a little up.
    return {element: a if element in ("H", "He") else a + dex for element, a in abundances.items()}
