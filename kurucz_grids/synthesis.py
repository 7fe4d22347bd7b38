"""Normalised spectra of a model atmosphere together with their derivatives with respect to every label.

The flux at a wavelength depends on the opacity, the source function and the column masses seen at that wavelength.
One backward sweep through the transfer gives its derivative with respect to each of them in every layer (`transfer`);
contracted with how each answers to a label, that is the differential spectrum of the label:

* abundances, with electrons and molecules in equilibrium: populations of all species answer linearly (`chemistry`);
* single abundances also through the structure of the atmosphere, which answers to the electrons that they give: one
  direction for all elements (`structure_response`);
* TEFF, LOGG, FE_H: the interpolated atmosphere changes with the label as well, and with it excitation, Doppler
  widths, damping and the source function; populations and background opacities are solved a small step away;
* VMIC: Doppler widths.

No label costs a synthesis of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.chemistry import SpeciesFormula
from kurucz_grids.hydrogen import interpolation_weights
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.opacity import (
    FineGrid,
    Layers,
    LineData,
    LineState,
    Profiles,
    Tangents,
    Wings,
    block_line_responses,
    block_opacity,
    block_response,
    block_wings,
    electron_broadening,
    select_lines,
)
from kurucz_grids.stellar_model import HYDROGEN_LINES, NO_OPACITY, Answers, ModelMaker, StellarModel, column_steps
from kurucz_grids.transfer import Adjoint, emergent_flux, flux_and_adjoint, planck
from phdlspec.labels import ELEMENTS, GRID_LABELS
from phdlspec.solar import SOLAR_SCALE

Array = NDArray[np.float64]

SYNTHESIS_VERSION = 5  # counted up when spectra or derivatives change: a grid begun with another is not gone on with
WING = 150.0  # Å beyond the range from which lines still reach into it
BACKGROUND = 1024  # fine-grid steps between nodes of the continuum
FOLLOWED = {"H", "Fe", "Li", "Pr", "Gd", "Dy", *ELEMENTS}  # elements whose lines are computed
REFERENCE_LOG_TAU = (-5.0, -4.0, -3.0, -2.0, -1.2, -0.5, 0.2)  # layers at which lines are judged
REFERENCE_SPAN = 10.0  # optical depth that lines of a layer can add, over that of the continuum above it


@dataclass(frozen=True)
class SynthesisSettings:
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

    >>> from kurucz_grids.synthesis import SynthesisSettings
    >>> settings = SynthesisSettings(wave_min=5150.0, wave_max=5156.0, compiled=False)
    >>> synthesizer = kurucz_grids.Synthesizer(atmospheres, lines, settings)
    >>> spectrum = synthesizer.synthesize({"TEFF": 5000.0, "LOGG": 3.4})
    >>> bool(spectrum.flux.min() < 0.9)
    True
    """

    def __init__(
        self,
        atmospheres: AtmosphereGrid | None,
        line_list: LineList,
        settings: SynthesisSettings = SynthesisSettings(),  # noqa: B008 (frozen)
        device: str = "cpu",
    ):
        self._atmospheres = atmospheres
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
        self._models: ModelMaker | None = None
        self.wave = self.grid.wave(torch.arange(self.grid.size, device=self.device))
        self.provenance = {
            "line_list": line_list.path,
            "line_list_checksum": line_list.checksum,
            "line_list_medium": line_list.medium,
            "atmospheres_checksum": atmospheres.checksum if atmospheres is not None else "",
            "solar_scale": SOLAR_SCALE,
            "synthesis_version": SYNTHESIS_VERSION,
            "chemistry": f"pysme-astro {version('pysme-astro')}",
            **{f"settings_{f.name}": getattr(settings, f.name) for f in fields(settings)},
        }

    @property
    def models(self) -> ModelMaker:
        """The maker of models, set up on first use: it starts SMElib."""
        if self._models is None:
            settings, names = self.settings, self.lines.species_names
            nodes = self.wave[::BACKGROUND].cpu().numpy()
            self._models = ModelMaker(
                self._atmospheres, names, nodes, settings.wave_min, settings.wave_max, settings.top_log_tau
            )
        return self._models

    def prepare(self, labels: ArrayLike | Mapping[str, float], derivatives: bool = True) -> StellarModel:
        """Atmosphere, chemistry and background opacity of labels: (32,) in the order of `GRID_LABELS`, or by name.

        Raises `UserError` for labels outside their bounds or without an atmosphere.
        """
        return self.models.of_labels(labels, derivatives)

    def prepare_atmosphere(
        self, atmosphere: Atmosphere, abundances: Mapping[str, float], vmic: float, derivatives: bool = True
    ) -> StellarModel:
        """As `prepare` for an atmosphere of one's own and A(X) by element: derivatives of TEFF and LOGG are zero."""
        return self.models.of_atmosphere(atmosphere, abundances, vmic, derivatives)

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
        tau = np.log10(_mean_depth(model) + 1e-30)
        return torch.tensor([int(np.argmin(np.abs(tau - x))) for x in log_tau], device=self.device)

    def _reference_layers(self, model: StellarModel) -> tuple[Tensor, Tensor]:
        # Layers at which lines are judged, and what share of the light each can absorb at a continuous opacity.
        layers = torch.unique(self._layers_at(model, REFERENCE_LOG_TAU))
        depth = self._put(_mean_depth(model))[layers]
        return layers, (REFERENCE_SPAN * depth).clamp(max=1.0)

    @torch.no_grad()
    def solve(self, model: StellarModel) -> SyntheticSpectrum:
        """Flux over continuum of a prepared model; its derivatives if it was prepared with them."""
        layers = self._line_layers(model)
        background = _Background(self, model)
        state = select_lines(
            self.lines, layers, background.total, *self._reference_layers(model), self.settings.line_cut,
            self.settings.window_cut,
        )  # fmt: skip
        rhox = self._put(model.equilibrium.rhox)
        response = None if model.answers is None else _Response(self, model.answers, background, layers, state)
        flux = torch.empty(self.grid.size, device=self.device)
        jacobian = torch.empty(0 if response is None else len(response.populations), self.grid.size, device=self.device)
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
        jacobian = response.by_label(jacobian / continuum - flux * d_continuum)
        return SyntheticSpectrum(self.wave, flux, continuum, jacobian, GRID_LABELS.names, len(state.index))

    @torch.no_grad()
    def line_responses(self, model: StellarModel, operator: csr_array) -> tuple[csr_array, csr_array]:
        """How an observed spectrum answers to every single line of `line_list`.

        The adjoint of the transfer knows dF/dkappa at every wavelength and depth already: contracted with the profile
        of one line instead of the opacity of a species it is the response to that line.

        Parameters
        ----------
        operator : (M, P) from the normalised flux on the fine grid to M observed pixels

        Returns
        -------
        (N, M) derivatives of the normalised flux with respect to ln gf and to ln of the van der Waals width of N lines
        """
        layers, background, rhox = self._line_layers(model), _Background(self, model), self._put(model.equilibrium.rhox)
        state = select_lines(
            self.lines, layers, background.total, *self._reference_layers(model), self.settings.line_cut,
            self.settings.window_cut,
        )  # fmt: skip
        to_observed = csr_array(operator.T)
        continuum = background.continuum_flux(rhox)
        found: list[list[coo_array]] = [[], []]
        for first in range(0, self.grid.size, self.settings.block):
            last = min(first + self.settings.block, self.grid.size)
            observed = to_observed[first:last]
            if not observed.nnz:
                continue
            wings = block_wings(self.lines, state, first, last)
            absorption, scattering, hydrogen = background.block(first, last)
            _, by_species = block_opacity(self.lines, state, self.profiles, wings, first, last)
            b, _ = planck(self.wave[first:last], layers.temperature)
            _, adjoint = flux_and_adjoint(absorption + hydrogen + by_species.sum(0), scattering, b, rhox)
            seen = adjoint.absorption / continuum[first:last, None]
            pieces = block_line_responses(self.lines, layers, state, self.profiles, wings, seen, first, last)
            for lines, pixels, *changes in pieces:
                for which, change in zip(found, changes):
                    which.append(_observed_response(lines, pixels, change, observed, len(self.line_list)))
        return tuple(_sum_of(pieces) for pieces in found)  # type: ignore[return-value]

    def synthesize(self, labels: ArrayLike | Mapping[str, float], derivatives: bool = True) -> SyntheticSpectrum:
        """`solve(prepare(labels, derivatives))`."""
        return self.solve(self.prepare(labels, derivatives))


def _mean_depth(model: StellarModel) -> Array:
    # Optical depth (D,) of the mean continuous absorption.
    return np.asarray(np.cumsum(column_steps(model.equilibrium.rhox) * model.continuum.absorption.mean(0)))


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
        left, weight = interpolation_weights(HYDROGEN_LINES, self.hydrogen_wave, wave)
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
        self.enrichment = put(answers.enrichment)

    def by_label(self, directions: Tensor) -> Tensor:
        """Derivatives (labels, P) from those (K, P) along the directions of `Answers`.

        Single abundances change the structure as well, through the electrons that they give.
        """
        labels = directions[: len(self.enrichment)]
        if len(directions) > len(labels):
            labels = labels + self.enrichment[:, None] * directions[-1]
        return labels

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


def _observed_response(lines: Tensor, pixels: Tensor, change: Tensor, operator: csr_array, count: int) -> coo_array:
    # Responses (n, W) of lines at fine pixels of a block, brought to observed pixels: (count, M).
    rows = np.repeat(np.arange(len(lines)), pixels.shape[1])
    fine = coo_array(
        (change.reshape(-1).cpu().numpy(), (rows, pixels.reshape(-1).cpu().numpy())),
        shape=(len(lines), operator.shape[0]),
    )
    seen = coo_array(csr_array(fine) @ operator)
    return coo_array((seen.data, (lines.cpu().numpy()[seen.row], seen.col)), shape=(count, operator.shape[1]))


def _sum_of(pieces: list[coo_array]) -> csr_array:
    joined = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("data", "row", "col"))
    data, row, col = joined
    return csr_array(coo_array((data, (row, col)), shape=pieces[0].shape))


def _is_followed(species: str) -> bool:
    # Lines of elements without a label of their own are kept where a late-type spectrum shows them.
    composition = SpeciesFormula.of(species)
    return composition.charge < 2 and all(element in FOLLOWED for element, _ in composition.atoms) and species != "H"
