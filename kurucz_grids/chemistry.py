"""Chemical equilibrium and background opacities of an atmosphere, from SMElib (through pysme-astro).

SMElib keeps its state in the process, so there is one `Chemistry` a process and one model at a time. What comes out
are plain arrays (`Equilibrium`, `Continuum`), from which the line opacities and the transfer are computed elsewhere.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.hydrogen import HydrogenLine
from kurucz_grids.linelists.elements import ATOMIC_WEIGHT
from phdlspec.errors import UserError
from phdlspec.solar import ATOMIC_NUMBER, SOLAR_ABUNDANCES
from phdlspec.wavelength import vacuum_to_air

if TYPE_CHECKING:
    from pysme.linelist.linelist import LineList

Array = NDArray[np.float64]

BOLTZMANN = 1.380649e-16  # erg/K
FAINT_LOGGF = -25.0
# The gas in which the self-broadening of hydrogen is measured, and the place in the wing (relative to the centre).
_TRIAL_TEMPERATURE = np.linspace(4000.0, 5200.0, 7)
_TRIAL_PRESSURE = 3e4  # dyn/cm2
_TRIAL_METALS = -2.0  # dex
_TRIAL_OFFSET = 3e-4

# Elements that lose a second electron in the deep layers of the hottest stars (second potential below 14.7 eV).
TWICE_IONISED = frozenset("Ca Sc Ti V Sr Y Zr Ba La Ce Pr Nd Sm Eu Gd Dy".split())
# Elements that are always followed, and the molecules that hold a notable share of them in a late-type star.
MAIN_ELEMENTS = tuple("H He C N O Na Mg Al Si S K Ca Ti Cr Mn Fe Ni".split())
MOLECULES = tuple(
    "H2 H2+ H- CO CH NH OH CN C2 N2 NO O2 H2O CO2 HCN CS MgH MgO AlH AlO SiH SiO SiS SiN H2S SO CaH CaO"
    " TiO TiO2 FeH CrH".split()
)


@dataclass(frozen=True)
class SpeciesFormula:
    """Atoms and charge of a species: `SpeciesFormula.of("TiO")`, `SpeciesFormula.of("Fe+")`."""

    atoms: tuple[tuple[str, int], ...]
    charge: int

    @classmethod
    def of(cls, species: str) -> SpeciesFormula:
        charge = species.count("+") - species.count("-")
        counts = re.findall(r"([A-Z][a-z]?)(\d*)", species.rstrip("+-"))
        return cls(tuple((element, int(number or 1)) for element, number in counts), charge)


@dataclass(frozen=True)
class Equilibrium:
    """Chemical equilibrium in D layers.

    Attributes
    ----------
    temperature, gas_pressure, rhox : (D,) K, dyn/cm2, g/cm2
    electron_density, density : (D,) 1/cm3, g/cm3
    number : species -> (D,) number density, 1/cm3
    population : species -> (D,) number density over partition function, 1/cm3
    """

    temperature: Array
    gas_pressure: Array
    rhox: Array
    electron_density: Array
    density: Array
    number: dict[str, Array]
    population: dict[str, Array]

    @property
    def perturbers(self) -> Array:
        """(D,) neutral perturbers in equivalents of H I, weighted with their van der Waals efficiency (Kurucz)."""
        return self.number["H"] + 0.42 * self.number["He"] + 0.85 * self.number["H2"]

    @cached_property
    def response(self) -> Response:
        """How everything answers to a change of an abundance at fixed temperature and pressure."""
        return Response.of(self)


@dataclass(frozen=True)
class Response:
    """Logarithmic derivatives of an equilibrium at fixed temperature and pressure.

    At fixed T the density of a species is a power product of those of its free atoms and of the electrons, so the
    answer to any small change follows from the densities alone: conservation of each element, of charge and the
    equation of state are linear in the logarithms. No equilibrium constant is needed, and no second solution.

    Attributes
    ----------
    inputs : the K elements except H, whose ln of abundance relative to H is changed
    species : species -> (K, D) d ln number / d input
    electrons, density : (K, D)
    """

    inputs: tuple[str, ...]
    species: dict[str, Array]
    electrons: Array
    density: Array

    @classmethod
    def of(cls, equilibrium: Equilibrium) -> Response:
        names = list(equilibrium.number)
        elements = _elements_of(names)
        index = {element: i for i, element in enumerate(elements)}
        n_elements = len(elements)
        power = np.zeros((len(names), n_elements + 1))  # exponents of free atoms and of the electrons
        atoms = np.zeros((len(names), n_elements))
        charge = np.zeros(len(names))
        for row, name in enumerate(names):
            composition = SpeciesFormula.of(name)
            for element, count in composition.atoms:
                atoms[row, index[element]] = count
            charge[row] = composition.charge
        power[:, :n_elements] = atoms
        power[:, -1] = -charge
        number = np.stack([equilibrium.number[name] for name in names], axis=1)  # (D, S)
        n_layers = number.shape[0]
        n_e = equilibrium.electron_density
        # d(nuclei of each element)/d(unknowns), relative to the nuclei
        nuclei = number @ atoms
        d_nuclei = np.einsum("ds,se,su->deu", number, atoms, power) / nuclei[:, :, None]
        matrix = np.zeros((n_layers, n_elements + 1, n_elements + 1))
        matrix[:, : n_elements - 1] = d_nuclei[:, 1:] - d_nuclei[:, :1]
        charges = np.einsum("ds,s,su->du", number, charge, power) / n_e[:, None]
        charges[:, -1] -= 1.0
        matrix[:, n_elements - 1] = charges
        total = number.sum(axis=1) + n_e
        pressure = np.einsum("ds,su->du", number, power) / total[:, None]
        pressure[:, -1] += n_e / total
        matrix[:, n_elements] = pressure
        rhs = np.eye(n_elements + 1, n_elements - 1)
        # Species differ by thirty orders of magnitude: equilibrate the rows before solving.
        norm = np.abs(matrix).max(axis=2, keepdims=True)
        unknowns = np.linalg.solve(matrix / norm, rhs[None] / norm)  # (D, U, K)
        answer = np.einsum("su,duk->skd", power, unknowns)
        density = np.einsum("du,duk->kd", d_nuclei[:, 0], unknowns)
        mass = nuclei * np.array([ATOMIC_WEIGHT[ATOMIC_NUMBER[element]] for element in elements])
        density += (mass / mass.sum(axis=1, keepdims=True)).T[1:]  # more of an element is also heavier
        return cls(
            inputs=elements[1:],
            species=dict(zip(names, answer)),
            electrons=unknowns[:, -1].T.copy(),
            density=density,
        )


@dataclass(frozen=True)
class Continuum:
    """Continuous opacity at M wavelengths (cm2/g) and its parts by what they are proportional to.

    Attributes
    ----------
    wave : (M,) vacuum Å
    absorption, scattering : (M, D)
    absorption_parts, scattering_parts : tuple of (species that it follows, (M, D)); the rest follows nothing
    """

    wave: Array
    absorption: Array
    scattering: Array
    absorption_parts: tuple[tuple[tuple[str, ...], Array], ...]
    scattering_parts: tuple[tuple[tuple[str, ...], Array], ...]


# SMElib's names of continuous opacities and the species whose product each is proportional to.
_ABSORPTION = {"AHMIN": ("H", "e"), "AHYD": ("H",), "AH2P": ("H", "H+"), "AHEMIN": ("He", "e")}
_COOL = {"C1": "C", "Mg1": "Mg", "Al1": "Al", "Si1": "Si", "Fe1": "Fe", "CH": "CH", "OH": "OH", "NH": "NH"}
_SCATTERING = {"SIGH": ("H",), "SIGEL": ("e",), "SIGH2": ("H2",)}
# The IFOP flags of ATLAS: all continuous sources on; hydrogen lines (the 14th) and metal lines are added by us.
_OPACITY_FLAGS = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0])
# Of hydrogen and its ions alone: what SMElib weighs hydrogen lines against, where only the lines are asked for.
_HYDROGEN_FLAGS = np.array([1, 1, 1, 1] + [0] * 16)


def sme_name(species: str) -> str:
    """The name under which SMElib finds a species.

    Without the trailing blank "S" is taken for "Si": the library compares only as many letters as it is given.
    """
    return species + " "


class Chemistry:
    """Driver of SMElib for one process.

    Parameters
    ----------
    line_species : species of the line list (SMElib names such as "Fe", "Fe+", "CH")
    hydrogen : lines of hydrogen whose opacity will be asked for
    wave_min, wave_max : vacuum Å
    """

    def __init__(
        self,
        line_species: Sequence[str],
        hydrogen: tuple[HydrogenLine, ...],
        wave_min: float,
        wave_max: float,
    ):
        try:
            from pysme.sme_synth import SME_DLL
        except ImportError as error:
            raise UserError(
                "synthesis needs the package pysme-astro: install phdlspec with the extra [grids]"
            ) from error
        self.species = _tracked_species(line_species)
        self._air_range = float(vacuum_to_air(wave_min)), float(vacuum_to_air(wave_max))
        self._hydrogen = hydrogen
        self._folder = TemporaryDirectory(prefix="phdlspec-")
        os.symlink(os.devnull, Path(self._folder.name) / "syntherr.log")
        self._sme = SME_DLL()
        self._sme.InputWaveRange(*self._air_range)
        self._sme.InputLineList(_sme_line_list(self.species, hydrogen, *self._air_range))

    def solve(
        self,
        temperature: Array,
        gas_pressure: Array,
        rhox: Array,
        electron_density: Array,
        abundances: dict[str, float],
        teff: float,
        logg: float,
        vmic: float,
    ) -> Equilibrium:
        """Solve the equation of state layer by layer at given T and P.

        `electron_density` (D,) is a starting value; `abundances` are A(X) = log10 N_X/N_H + 12 of all elements of
        the Sun: without the rare ones SMElib does not converge in cool layers. Leaves SMElib ready for `continuum` and
        `hydrogen_opacity` of this model.
        """
        total = gas_pressure / (BOLTZMANN * temperature)
        fractions = _number_fractions(abundances)
        atoms = total - electron_density
        atmosphere = {
            "depth": "RHOX", "RHOX": rhox, "temp": temperature, "xne": electron_density, "xna": atoms,
            "rho": atoms * 2.1e-24, "wlstd": 5000.0, "opflag": _OPACITY_FLAGS, "geom": "PP",
        }  # fmt: skip
        self._sme.InputModel(teff, logg, vmic, atmosphere)
        self._sme.InputAbund(lambda kind, raw: fractions.copy())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the electrons differ from those of the model: they should
            self._sme.Ionization(7)  # adopt atoms, electrons and density from the equation of state
        self._sme.Opacity()
        solved = {"xne": self._sme.GetNelec(), "xna": self._sme.GetNatom(), "rho": self._sme.GetDensity()}
        self._model = teff, logg, vmic, {**atmosphere, **{key: value.copy() for key, value in solved.items()}}
        number, population = {}, {}
        for name in self.species:
            if name == "H+":
                continue
            number[name] = np.asarray(self._sme.GetFraction(sme_name(name), mode=0), dtype=float)
            population[name] = np.asarray(self._sme.GetFraction(sme_name(name), mode=2), dtype=float)
        electrons = self._sme.GetNelec().copy()
        number["H+"] = population["H+"] = number["H"] * _saha_hydrogen(temperature) / electrons
        return Equilibrium(
            temperature=temperature,
            gas_pressure=gas_pressure,
            rhox=rhox,
            electron_density=electrons,
            density=self._sme.GetDensity().copy(),
            number=number,
            population=population,
        )

    def continuum(self, wave: Array, parts: bool = True) -> Continuum:
        """Continuous opacity of the last solved model at vacuum wavelengths (M,) Å."""
        components = []
        pieces: dict[str, list[Array]] = {}
        per_gram: dict[str, Array] = {}
        for wave_air in vacuum_to_air(wave):
            components.append(self._sme.GetContinuumOpacityComponents(float(wave_air)))
            if not parts:
                continue
            if not per_gram:
                per_gram = {name: self._sme.GetOpacity("ACOOL", species=name, key="fraction").copy() for name in _COOL}
            for name in (*_ABSORPTION, *_SCATTERING):
                pieces.setdefault(name, []).append(self._sme.GetOpacity(name).copy())
            for name in _COOL:
                cross_section = self._sme.GetOpacity("ACOOL", species=name, key="new")
                pieces.setdefault(name, []).append(cross_section * per_gram[name])
        stacked = np.array(components)
        table = {name: np.array(values) for name, values in pieces.items()}
        cool = {name: (species,) for name, species in _COOL.items()}
        return Continuum(
            wave=np.asarray(wave, dtype=float),
            absorption=stacked[:, 0],
            scattering=stacked[:, 1],
            absorption_parts=tuple((v, table[k]) for k, v in {**_ABSORPTION, **cool}.items() if k in table),
            scattering_parts=tuple((v, table[k]) for k, v in _SCATTERING.items() if k in table),
        )

    def hydrogen_opacity(self, wave: Array) -> Array:
        """(M, D) opacity of the hydrogen lines (cm2/g) of the last solved model at vacuum wavelengths (M,) Å.

        SMElib computes the continuum with every line opacity; without the metals' part that takes half the time.
        """
        self._set_continuum(_HYDROGEN_FLAGS)
        with self._elsewhere():
            self._prepare_lines()
            answer = np.array([self._sme.GetLineOpacity(float(w))[0] for w in vacuum_to_air(wave)])
        self._set_continuum(_OPACITY_FLAGS)
        return answer

    @contextmanager
    def _elsewhere(self) -> Iterator[None]:
        # SMElib writes a syntherr.log where it is at every call: a thousand times a model, into the user's folder.
        here = Path.cwd()
        os.chdir(self._folder.name)
        try:
            yield
        finally:
            os.chdir(here)

    def _set_continuum(self, flags: Array) -> None:
        teff, logg, vmic, atmosphere = self._model
        self._sme.InputModel(teff, logg, vmic, {**atmosphere, "opflag": flags})
        self._sme.Opacity()

    @cached_property
    def self_broadening(self) -> Array:
        """(lines, 2) how the damping of each hydrogen line by H atoms compares with its radiative damping.

        The ratio is n(H) exp(a + b ln T). SMElib does not tell it, so it is measured once in the wings of a cool gas,
        from the answers of the opacity to more metals (electrons) and to more pressure.
        """
        wings = np.array([line.wave_vacuum * (1.0 + _TRIAL_OFFSET) for line in self._hydrogen])
        column = np.geomspace(0.1, 1.0, len(_TRIAL_TEMPERATURE))

        def state(pressure: float, metals: float) -> tuple[Array, Array, Array]:
            abundances = {e: a if e in ("H", "He") else a + metals for e, a in SOLAR_ABUNDANCES.items()}
            total = np.full_like(column, pressure)
            n_e = 1e-5 * total / (BOLTZMANN * _TRIAL_TEMPERATURE)
            gas = self.solve(_TRIAL_TEMPERATURE, total, column, n_e, abundances, 4500.0, 4.0, 1.0)
            opacity = self.hydrogen_opacity(wings) * gas.density / gas.population["H"]
            return np.log(opacity), np.log(gas.electron_density), np.log(gas.number["H"])

        rich, e_rich, _ = state(_TRIAL_PRESSURE, _TRIAL_METALS + 0.05)
        dense, e_dense, n_dense = state(_TRIAL_PRESSURE * 1.02, _TRIAL_METALS)
        base, e_base, n_base = state(_TRIAL_PRESSURE, _TRIAL_METALS)
        by_electrons = (rich - base) / (e_rich - e_base)
        by_atoms = (dense - base - by_electrons * (e_dense - e_base)) / (n_dense - n_base)
        share = np.clip(by_atoms / (1.0 - by_electrons), 0.01, 0.99)
        ln_ratio = np.log(share / (1.0 - share)) - n_base
        slope, constant = np.polyfit(np.log(_TRIAL_TEMPERATURE), ln_ratio.T, 1)
        return np.stack([constant, slope], axis=1)

    def _prepare_lines(self) -> None:
        # SMElib sets up its line opacities only on the way to a spectrum: ask for two wavelengths.
        first, last = self._air_range
        self._sme.Transf(np.array([1.0]), wave=np.array([first + 1.0, last - 1.0]))


def _saha_hydrogen(temperature: Array) -> Array:
    # n(H+) n_e / n(H): both partition functions cancel the electron's two spin states.
    return 2.41468e15 * temperature**1.5 * np.exp(-157_887.5 / temperature)


def _elements_of(species: Sequence[str]) -> tuple[str, ...]:
    # All elements in the species, hydrogen first, then helium, then in order of appearance.
    found = dict.fromkeys(["H", "He"])
    for name in species:
        found.update(dict.fromkeys(element for element, _ in SpeciesFormula.of(name).atoms))
    return tuple(found)


def _tracked_species(line_species: Sequence[str]) -> tuple[str, ...]:
    # Atoms in three stages of ionisation, the molecules that bind a notable share, and whatever has lines.
    elements = dict.fromkeys([*MAIN_ELEMENTS, *_elements_of(line_species)])
    atoms = [e + "+" * stage for e in elements for stage in range(3 if e in TWICE_IONISED else 2)]
    return tuple(dict.fromkeys([*atoms, *MOLECULES, *line_species]))


def _sme_line_list(
    species: Sequence[str], hydrogen: tuple[HydrogenLine, ...], air_min: float, air_max: float
) -> LineList:
    # SMElib knows the populations of those species only that have a line: each gets a faint one of its own; not H+,
    # whose "line" would spoil the opacity at all wavelengths.
    import pandas as pd
    from pysme.linelist.linelist import LineList

    rows: list[tuple[Any, ...]] = []
    for line in hydrogen:
        # Principal quantum numbers stand in the Stark and van der Waals columns (the convention of VALD).
        air = float(vacuum_to_air(line.wave_vacuum))
        rows.append(("H 1", air, line.elow_ev, line.loggf, 0.0, float(line.lower), float(line.upper), 1.0, 1.0))
    for i, name in enumerate(name for name in species if name not in ("H", "H+")):
        stage = name.count("+") + 1
        base = name.rstrip("+")
        wave = air_min + (i + 1) * (air_max - air_min) / (len(species) + 1)
        rows.append((f"{base} {stage}", wave, 1.0, FAINT_LOGGF, 8.0, -6.0, -7.5, 1.0, float(stage)))
    columns = "species wlcent excit gflog gamrad gamqst gamvw atom_number ionization".split()
    table = pd.DataFrame(rows, columns=columns).sort_values("wlcent").reset_index(drop=True)
    return LineList(table, lineformat="short", medium="air")


def _number_fractions(abundances: dict[str, float]) -> Array:
    # SMElib wants N_H/N first, then log10 N_X/N of the elements in order of their atomic number up to Es.
    logarithms = np.full(99, -99.0)
    for element, value in abundances.items():
        logarithms[ATOMIC_NUMBER[element] - 1] = value - 12.0
    relative = np.where(logarithms > -90, 10.0**logarithms, 0.0)
    fractions = np.where(logarithms > -90, logarithms - np.log10(relative.sum()), -99.0)
    fractions[0] = relative[0] / relative.sum()
    return fractions
