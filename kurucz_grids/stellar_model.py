"""Models of stars for the transfer: atmosphere, chemistry and background opacity, and what each label changes in them.

Populations, electrons and continuum answer linearly to single abundances (`chemistry`). Teff, log g and [Fe/H] change
the atmosphere itself, and so does the enrichment in electron donors, through which single abundances act on it
(`structure_response`): there the gas is solved again a small step along each. All of it are plain arrays, made on the
CPU; lines and transfer come after (`synthesis`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.chemistry import Chemistry, Continuum, Equilibrium
from kurucz_grids.hydrogen import hydrogen_lines, interpolation_weights, sampling_nodes
from kurucz_grids.structure_response import StructureResponse, response_at
from phdlspec.errors import UserError
from phdlspec.labels import GRID_LABELS, STRUCTURE, abundance_name
from phdlspec.solar import SOLAR_ABUNDANCES

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

LN10 = float(np.log(10.0))
NO_OPACITY = 1e-30  # cm2/g
TINY = 1e-60  # cm2/g or 1/cm3: what is below does not count as changed
METAL_STEP = 0.05  # dex, to the gas that tells what electrons do to hydrogen lines
DONORS = "electron donors"  # the direction in which single abundances change the atmosphere
LABEL_STEPS = {"TEFF": 3.0, "LOGG": 0.006, "FE_H": 0.006, DONORS: 0.01}  # to the neighbouring atmospheres
HALF_LAYER = 0.06  # dex: layers lie at the same depths in all atmospheres but for rounding
THINNED = 3  # neighbouring states of the gas are solved in every third layer
UNEVEN = -1.2, 0.7  # and in all between these log10 of the Rosseland depth, where convection sets in
HYDROGEN_LINES = hydrogen_lines(3600.0, 9400.0)


@dataclass(frozen=True)
class BackgroundTangents:
    """Logarithmic changes along the K directions of `Answers` of what makes the background opacity.

    absorption, scattering : (K, M, D) changes of the continuum nodes (cm2/g).
    hydrogen : (K, D) of the hydrogen-line opacity by its populations, along abundances.
    electrons, atoms : (K, D) ln n_e and ln n(H I) along abundances, which broaden hydrogen lines.
    neighbours : directions (indices) whose neighbouring atmospheres were solved; neighbour_hydrogen (len, H, D) change
    of ln(hydrogen-line opacity) along them.
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
    """The gas a small step along a direction that changes the atmosphere, with its opacities at nodes of wavelength.

    It is known in some of the layers, `layers`.
    """

    direction: int
    step: float
    layers: Indices
    gas: Equilibrium
    continuum: Continuum
    hydrogen: Array

    def change(self, here: Array, base: Array) -> Array:
        """d ln(a quantity) / d direction in all layers (..., D), from its value here and in all layers of the base."""
        there = base[..., self.layers]
        known = np.minimum(here, there) > TINY
        change = np.log(np.divide(here, there, out=np.ones_like(there), where=known)) / self.step
        return _in_all_layers(self.layers, change)


@dataclass(frozen=True)
class Answers:
    """What changes in a star along K directions: the labels of `GRID_LABELS`, single abundances at a fixed structure,
    and, where abundances change the structure, one more: the enrichment in electron donors.

    Attributes
    ----------
    populations : (K, S, D) ln(population / density) of the S species of the line list
    temperature, electrons, perturbers, log_column : (K, D) logarithms, the last of the column mass between layers
    vmic : (K,) km/s
    background : continuum and hydrogen lines; hydrogen_by_electrons, hydrogen_by_atoms (H, D) : derivatives of
    ln(hydrogen-line opacity) with respect to ln n_e and ln n(H I), both through broadening alone
    enrichment : (labels,) change of the enrichment along each label, in dex
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
    enrichment: Array


@dataclass(frozen=True)
class _Structure:
    """An atmosphere as the labels have it, and its answer to electron donors."""

    atmosphere: Atmosphere
    response: StructureResponse
    enrichment: float


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


class ModelMaker:
    """Makes the models of stars; there is one a process, as it drives SMElib.

    Parameters
    ----------
    atmospheres : may be None if only atmospheres of one's own are used
    species : of the line list
    nodes : (M,) vacuum Å at which the continuum is computed
    wave_min, wave_max : vacuum Å. top_log_tau : layers above this log10 of the Rosseland optical depth are left out
    """

    def __init__(
        self,
        atmospheres: AtmosphereGrid | None,
        species: Sequence[str],
        nodes: Array,
        wave_min: float,
        wave_max: float,
        top_log_tau: float,
    ):
        self.atmospheres, self._species, self._nodes, self._top_log_tau = atmospheres, species, nodes, top_log_tau
        self._hydrogen_nodes = sampling_nodes(HYDROGEN_LINES, wave_min, wave_max * 1.01)
        self.chemistry = Chemistry(species, HYDROGEN_LINES, wave_min, wave_max)

    def of_labels(self, labels: ArrayLike | Mapping[str, float], derivatives: bool) -> StellarModel:
        """The model of labels: (32,) in the order of `GRID_LABELS`, or by name.

        Raises `UserError` for labels outside their bounds or without an atmosphere.
        """
        if self.atmospheres is None:
            raise UserError("this synthesizer has no grid of atmospheres: give one, or use an atmosphere of your own")
        theta = GRID_LABELS.complete(labels) if isinstance(labels, Mapping) else np.asarray(labels, dtype=float)
        if theta.shape != (len(GRID_LABELS),) or not np.isfinite(theta).all():
            raise UserError(f"labels have shape {theta.shape}, expected {len(GRID_LABELS)} finite numbers")
        values = dict(zip(GRID_LABELS.names, theta.tolist()))
        for label in GRID_LABELS:
            if not label.lower <= values[label.name] <= label.upper:
                raise UserError(
                    f"{label.name} is {values[label.name]:g}, expected {label.lower:g} to {label.upper:g} {label.unit}"
                )
        structure = self._structure(values)
        slopes, by_element = {}, {}
        if derivatives:
            keep = self._layers(structure.atmosphere)
            slopes = {name: self._atmosphere_slope(values, name, LABEL_STEPS[name], keep) for name in STRUCTURE}
            slopes[DONORS] = self._donors_slope(structure, keep)
            by_element = structure.response.by_element(_ratios(values))
        return self._model(structure.atmosphere, _abundances(values), values["VMIC"], slopes, derivatives, by_element)

    def of_atmosphere(
        self, atmosphere: Atmosphere, abundances: Mapping[str, float], vmic: float, derivatives: bool
    ) -> StellarModel:
        """The model of an atmosphere and A(X) by element; TEFF and LOGG change nothing in it.

        Raises `UserError` for a mixture without one of the elements of the solar scale, or a negative vmic (km/s).
        """
        missing = [element for element in SOLAR_ABUNDANCES if element not in abundances]
        if missing:
            raise UserError(f"the abundances lack {', '.join(missing)}; expected A(X) of all of the solar scale")
        if not vmic >= 0.0:
            raise UserError(f"vmic is {vmic:g} km/s, expected a number that is not negative")
        return self._model(atmosphere, dict(abundances), vmic, {}, derivatives, {})

    def _structure(self, values: Mapping[str, float]) -> _Structure:
        assert self.atmospheres is not None
        solar = self.atmospheres.interpolate(*(values[name] for name in STRUCTURE))
        response = response_at(solar.teff, solar.logg, solar.mh, np.log10(solar.tau_rosseland))
        enrichment = response.enrichment(_ratios(values))
        return _Structure(response.applied(solar, enrichment), response, enrichment)

    def _atmosphere_slope(
        self, values: Mapping[str, float], name: str, step: float, keep: slice
    ) -> tuple[Array, Array, Array]:
        # d(ln T, ln P, ln column) by a central difference, one-sided at the edge of the grid.
        assert self.atmospheres is not None
        ends = []
        for offset in (-step, step):
            there = {**values, name: values[name] + offset}
            if not self.atmospheres.contains(*(there[other] for other in STRUCTURE)):
                there = dict(values)
            ends.append((there[name], self._structure(there).atmosphere))
        (x0, low), (x1, high) = ends
        if x1 == x0:
            raise UserError(
                f"no atmospheres around Teff {values['TEFF']:g}, logg {values['LOGG']:g}, [M/H] {values['FE_H']:g}"
            )
        return _log_slope(low, high, x1 - x0, keep)

    def _donors_slope(self, structure: _Structure, keep: slice) -> tuple[Array, Array, Array]:
        step = LABEL_STEPS[DONORS]
        low, high = (structure.response.applied(structure.atmosphere, sign * step) for sign in (-1.0, 1.0))
        return _log_slope(low, high, 2.0 * step, keep)

    def _layers(self, atmosphere: Atmosphere) -> slice:
        first = int(np.searchsorted(np.log10(atmosphere.tau_rosseland), self._top_log_tau - HALF_LAYER))
        return slice(min(first, len(atmosphere.rhox) - 20), None)

    def _model(
        self,
        atmosphere: Atmosphere,
        abundances: dict[str, float],
        vmic: float,
        slopes: dict[str, tuple[Array, Array, Array]],
        derivatives: bool,
        by_element: Mapping[str, float],
    ) -> StellarModel:
        self.chemistry.self_broadening  # noqa: B018 (measured before SMElib holds this model)
        keep = self._layers(atmosphere)
        columns = atmosphere.temperature, atmosphere.gas_pressure, atmosphere.rhox, atmosphere.electron_density
        t, p, rhox, n_e = (x[keep].copy() for x in columns)

        def solve(t: Array, p: Array, mixture: dict[str, float], layers: Indices) -> Equilibrium:
            gas = t[layers], p[layers], rhox[layers], n_e[layers]
            return self.chemistry.solve(*gas, mixture, atmosphere.teff, atmosphere.logg, vmic)

        base = solve(t, p, abundances, np.arange(len(t)))
        continuum = self.chemistry.continuum(self._nodes, parts=derivatives)
        nodes = self._hydrogen_nodes
        model = StellarModel(base, vmic, continuum, nodes, self.chemistry.hydrogen_opacity(nodes), None)
        if not derivatives:
            return model
        # What neighbouring states of the gas change is smoother in wavelength than the opacities, and in depth.
        thinned = _thinned(atmosphere.tau_rosseland[keep])
        sparse = nodes[::2] if len(nodes) % 2 else np.append(nodes[::2], nodes[-1])
        neighbours = []
        for name, (by_t, by_p, _) in slopes.items():
            step = LABEL_STEPS[name]
            mixture = _enriched(abundances, step) if name == "FE_H" else abundances
            gas = solve(t * np.exp(by_t * step), p * np.exp(by_p * step), mixture, thinned)
            opacities = self.chemistry.continuum(self._nodes, parts=False), self.chemistry.hydrogen_opacity(sparse)
            direction = len(GRID_LABELS) if name == DONORS else GRID_LABELS.index(name)
            neighbours.append(_Neighbour(direction, step, thinned, gas, *opacities))
        rich = solve(t, p, _enriched(abundances, METAL_STEP), thinned)
        rich_hydrogen = self.chemistry.hydrogen_opacity(sparse)
        by_electrons = self._by_electrons(rich, base, rich_hydrogen, model.hydrogen, nodes, sparse, thinned)
        enrichment = np.zeros(len(GRID_LABELS))
        for element, change in by_element.items():
            enrichment[GRID_LABELS.index(abundance_name(element))] = change
        return replace(model, answers=self._answers(model, slopes, neighbours, by_electrons, sparse, enrichment))

    def _answers(
        self,
        model: StellarModel,
        slopes: dict[str, tuple[Array, Array, Array]],
        neighbours: Sequence[_Neighbour],
        by_electrons: Array,
        sparse: Array,
        enrichment: Array,
    ) -> Answers:
        base = model.equilibrium
        response = base.response
        names = (*GRID_LABELS.names, *((DONORS,) if DONORS in slopes else ()))
        direction = _directions(response.inputs, names, slopes, len(base.temperature))
        still = (np.zeros(len(base.temperature)),) * 3
        temperature, _, log_column = (np.stack(x) for x in zip(*(slopes.get(name, still) for name in names)))

        def along(answer: Array, here: Callable[[Equilibrium], Array]) -> Array:
            # (K, D) changes along the directions, from the answer to single abundances and from the neighbours.
            change = np.einsum("kid,id->kd", direction, answer)
            for neighbour in neighbours:
                change[neighbour.direction] = neighbour.change(here(neighbour.gas), here(base))
            return np.asarray(change)

        d_density = along(response.density, lambda gas: gas.density)
        d_electrons = along(response.electrons, lambda gas: gas.electron_density)
        d_perturbers = along(response.species["H"], lambda gas: gas.perturbers)
        populations = np.stack(
            [
                along(response.species[s], lambda gas, s=s: gas.population[s]) - d_density  # type: ignore[misc]
                for s in self._species
            ],
            axis=1,
        )
        return Answers(
            populations=populations,
            temperature=temperature,
            electrons=d_electrons,
            perturbers=d_perturbers,
            log_column=log_column,
            vmic=np.array([float(name == "VMIC") for name in names]),
            background=self._background_tangents(model, direction, neighbours, sparse),
            hydrogen_by_electrons=by_electrons,
            hydrogen_by_atoms=self._self_broadening(model.hydrogen_wave, by_electrons, base),
            enrichment=enrichment,
        )

    def _self_broadening(self, nodes: Array, by_electrons: Array, base: Equilibrium) -> Array:
        # A wing is due to electrons, to hydrogen atoms and to the levels' own lifetimes, in sum: what the electrons
        # leave is shared between the other two. Within the Doppler core broadening does nothing.
        centres = np.array([line.wave_vacuum for line in HYDROGEN_LINES])
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
        return np.asarray(left * in_wing[:, None] * ratio / (1.0 + ratio))

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
            return np.asarray(np.einsum("kid,id->kd", direction, sum(rows)))

        def change(
            parts: Sequence[tuple[tuple[str, ...], Array]], total: Array, here: Callable[[Continuum], Array]
        ) -> Array:
            answer = -total * density[:, None]
            for species, part in parts:
                answer = answer + part * product(species)[:, None]
            for neighbour in neighbours:
                answer[neighbour.direction] = total * neighbour.change(here(neighbour.continuum), total)
            return np.asarray(answer)

        position = np.searchsorted(nodes, sparse)
        by_label = [self._spread(nodes, sparse, n.change(n.hydrogen, hydrogen[position])) for n in neighbours]
        return BackgroundTangents(
            absorption=change(continuum.absorption_parts, continuum.absorption, lambda c: c.absorption),
            scattering=change(continuum.scattering_parts, continuum.scattering, lambda c: c.scattering),
            hydrogen=atoms - density,
            electrons=electrons,
            atoms=atoms,
            neighbours=tuple(n.direction for n in neighbours),
            neighbour_hydrogen=np.array(by_label).reshape(len(neighbours), *hydrogen.shape),
        )

    def _by_electrons(
        self,
        rich: Equilibrium,
        base: Equilibrium,
        rich_hydrogen: Array,
        hydrogen: Array,
        nodes: Array,
        sparse: Array,
        layers: Indices,
    ) -> Array:
        # d ln(hydrogen-line opacity) / d ln n_e at all nodes, from a gas with more metals (known in some of the
        # layers, `rich_hydrogen` at the sparse nodes): what these change through the electrons, apart from the
        # populations of hydrogen.
        populations = np.log(rich.population["H"] / base.population["H"][layers] * base.density[layers] / rich.density)
        here = hydrogen[np.searchsorted(nodes, sparse)][:, layers]
        change = np.log(np.maximum(rich_hydrogen, NO_OPACITY) / np.maximum(here, NO_OPACITY))
        d_ln_e = np.log(rich.electron_density / base.electron_density[layers])
        # Holtsmark's wing goes with n_e, a Stark-broadened centre with n_e^(-2/3): the rest is rounding error of a
        # layer whose electrons do not come from metals.
        answer = np.clip((change - populations) / np.where(d_ln_e > 1e-6, d_ln_e, np.inf), -1.0, 1.5)
        return self._spread(nodes, sparse, _in_all_layers(layers, answer))

    def _spread(self, nodes: Array, sparse: Array, values: Array) -> Array:
        # Values (M, D) at the sparse nodes to all (H, D), as opacities are interpolated.
        left, weight = interpolation_weights(HYDROGEN_LINES, sparse, nodes)
        return values[left] * (1.0 - weight[:, None]) + values[left + 1] * weight[:, None]


def _directions(
    elements: Sequence[str], names: Sequence[str], slopes: Mapping[str, object], depth: int
) -> NDArray[np.float64]:
    # Change (K, elements, D) of ln(abundance) along each label at a fixed structure. Where [Fe/H] changes that too, a
    # neighbouring gas that is richer itself answers for it.
    direction = np.zeros((len(names), len(elements), depth))
    for k, label in enumerate(GRID_LABELS):
        if label.element in elements:
            direction[k, elements.index(label.element)] = LN10
        if label.name == "FE_H" and label.name not in slopes:
            direction[k, [element != "He" for element in elements]] = LN10
    return direction


def column_steps(rhox: Array) -> Array:
    """Column mass (D,) g/cm2 between layers at `rhox` (D,) g/cm2, the first one that above the first layer."""
    return np.concatenate([rhox[:1], np.diff(rhox)])


def _log_slope(low: Atmosphere, high: Atmosphere, step: float, keep: slice) -> tuple[Array, Array, Array]:
    # d(ln T, ln P, ln column) from two atmospheres a step apart.
    return (
        np.log(high.temperature[keep] / low.temperature[keep]) / step,
        np.log(high.gas_pressure[keep] / low.gas_pressure[keep]) / step,
        np.log(column_steps(high.rhox[keep]) / column_steps(low.rhox[keep])) / step,
    )


def _thinned(tau_rosseland: Array) -> Indices:
    # Layers that tell what a label changes, the last one among them: that is smooth but where convection sets in.
    log_tau = np.log10(tau_rosseland)
    uneven = np.flatnonzero((log_tau > UNEVEN[0]) & (log_tau < UNEVEN[1]))
    return np.union1d(uneven, [*range(0, len(log_tau), THINNED), len(log_tau) - 1])


def _in_all_layers(layers: Indices, values: Array) -> Array:
    # Values (..., len(layers)) at some layers, the last of all among them, to all (..., D).
    return CubicSpline(layers, values, axis=-1)(np.arange(layers[-1] + 1))


def _ratios(values: Mapping[str, float]) -> dict[str, float]:
    # [X/Fe] by element.
    return {label.element: values[label.name] for label in GRID_LABELS if label.element}


def _abundances(values: Mapping[str, float]) -> dict[str, float]:
    # A(X) of all elements: solar, scaled by [Fe/H], and the single ratios.
    abundances = {}
    for element, solar in SOLAR_ABUNDANCES.items():
        scale = 0.0 if element in ("H", "He") else values["FE_H"]
        abundances[element] = solar + scale + values.get(f"{element.upper()}_FE", 0.0)
    return abundances


def _enriched(abundances: Mapping[str, float], dex: float) -> dict[str, float]:
    # All metals a little up.
    return {element: a if element in ("H", "He") else a + dex for element, a in abundances.items()}
