"""The line list that synthesis reads: columns of numpy arrays, vacuum wavelengths, isotope fractions applied."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.elements import ATOMIC_WEIGHT, MOLECULE_ATOMS
from phdlspec.errors import UserError
from phdlspec.solar import ATOMIC_NUMBER

_COLUMNS = {
    "wave_vacuum": np.float64,
    "species_index": np.int16,
    "elow_ev": np.float32,
    "loggf": np.float32,
    "gamma_rad": np.float32,
    "gamma_stark": np.float32,
    "gamma_vdw": np.float32,
    "vdw_exponent": np.float32,
    "isotope_fraction": np.float32,
}


@dataclass(frozen=True)
class LineList:
    """N spectral lines, sorted by wavelength.

    Attributes:
        wave_vacuum: (N,) vacuum wavelength, Å.
        species_names: names of the S species, as SMElib spells them: `"Fe"`, `"Fe+"`, `"CH"`, `"TiO"`.
        species_index: (N,) index into `species_names`.
        elow_ev: (N,) lower level, eV.
        loggf: (N,) log10 of gf with the isotope fraction applied: multiply by no fraction again.
        gamma_rad: (N,) radiative width, full width at half maximum in angular frequency, 1/s.
        gamma_stark: (N,) Stark width per electron at 10^4 K, cm3/s; it goes with T^(1/6).
        gamma_vdw: (N,) van der Waals width per hydrogen atom at 10^4 K, cm3/s; at other temperatures
            `gamma_vdw * (T / 1e4) ** vdw_exponent`.
        vdw_exponent: (N,) the exponent: (1 - alpha) / 2 of the ABO theory where known, else 0.3.
        isotope_fraction: (N,) the factor in gf by which *our reader* scaled; 1 where the source had scaled already
            or the line is of all isotopes. Kept for the record.
        medium: "air" or "vacuum", what the source listed.
        sources: count of lines by source.
        path: the file.

    Raises:
        UserError: unequal columns, values that are not finite, wavelengths that are not positive.

    >>> lines.species_names, lines.wave_vacuum.size
    (('Fe',), 2)
    """

    wave_vacuum: NDArray[np.float64]
    species_names: tuple[str, ...]
    species_index: NDArray[np.int16]
    elow_ev: NDArray[np.float32]
    loggf: NDArray[np.float32]
    gamma_rad: NDArray[np.float32]
    gamma_stark: NDArray[np.float32]
    gamma_vdw: NDArray[np.float32]
    vdw_exponent: NDArray[np.float32]
    isotope_fraction: NDArray[np.float32]
    medium: str = "vacuum"
    sources: Mapping[str, int] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        what = self.path or "line list"
        if self.medium not in ("air", "vacuum"):
            raise UserError(f"{what}: the medium is {self.medium!r}, expected 'air' or 'vacuum'")
        size = len(self.wave_vacuum)
        order = np.argsort(self.wave_vacuum, kind="stable")
        for name, dtype in _COLUMNS.items():
            values = np.asarray(getattr(self, name))
            if values.shape != (size,):
                raise UserError(f"{what}: the column {name} has shape {values.shape}, expected ({size},)")
            good = np.isfinite(values)
            if not good.all():
                row = int(np.argmin(good))
                raise UserError(
                    f"{what}: {name} of the line at {self.wave_vacuum[row]:.3f} Å is {values[row]}, expected a "
                    "finite number; correct or drop that line"
                )
            object.__setattr__(self, name, values[order].astype(dtype))
        if size and not self.wave_vacuum[0] > 0:
            raise UserError(f"{what}: a wavelength is {self.wave_vacuum[0]} Å, expected positive numbers")
        unknown = [name for name in self.species_names if _atoms(name) is None]
        if unknown:
            raise UserError(
                f"{what}: unknown species {', '.join(unknown)}; expected atoms, ions or the molecules "
                f"{', '.join(MOLECULE_ATOMS)}"
            )
        if size and not 0 <= self.species_index.min() <= self.species_index.max() < len(self.species_names):
            raise UserError(f"{what}: species_index leaves the {len(self.species_names)} species names")

    @classmethod
    def from_columns(cls, species: NDArray[np.str_], **columns: object) -> LineList:
        """A list from names line by line (N,) and the other fields of the class."""
        names, index = np.unique(np.asarray(species, dtype=str), return_inverse=True)
        return cls(species_names=tuple(str(n) for n in names), species_index=index, **columns)  # type: ignore[arg-type]

    @classmethod
    def joined(cls, lists: Sequence[LineList], path: str = "") -> LineList:
        """The lines of several lists; `medium` is theirs if they agree, else "vacuum", in which all are kept."""
        columns = {name: np.concatenate([getattr(one, name) for one in lists]) for name in _COLUMNS}
        names = sorted({name for one in lists for name in one.species_names})
        position = [np.array([names.index(name) for name in one.species_names], dtype=int) for one in lists]
        columns["species_index"] = np.concatenate([p[one.species_index] for p, one in zip(position, lists)])
        media = {one.medium for one in lists}
        sources: Counter[str] = Counter()
        for one in lists:
            sources.update(one.sources)
        return cls(
            species_names=tuple(names), **columns, path=path, sources=dict(sources),
            medium=media.pop() if len(media) == 1 else "vacuum",
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.wave_vacuum)

    @property
    def species(self) -> NDArray[np.str_]:
        """(N,) name of the species of every line."""
        return np.array(self.species_names)[self.species_index]

    @cached_property
    def atoms(self) -> NDArray[np.int16]:
        """(S, 3) atomic numbers of the first and second atom (0 for atoms and ions) and the charge, by species."""
        return np.array([_atoms(name) for name in self.species_names], dtype=np.int16).reshape(-1, 3)

    @property
    def z1(self) -> NDArray[np.int16]:
        """(N,) atomic number, of the lighter atom for a molecule."""
        return np.asarray(self.atoms[self.species_index, 0])

    @property
    def z2(self) -> NDArray[np.int16]:
        """(N,) atomic number of the heavier atom of a molecule, 0 for atoms and ions."""
        return np.asarray(self.atoms[self.species_index, 1])

    @property
    def charge(self) -> NDArray[np.int16]:
        """(N,) 0 for neutral, 1 for singly ionised …"""
        return np.asarray(self.atoms[self.species_index, 2])

    @property
    def mass(self) -> NDArray[np.float64]:
        """(N,) mass of the particle (amu), of the mean isotopic mixture."""
        weight = np.where(np.arange(len(ATOMIC_WEIGHT)) > 0, ATOMIC_WEIGHT, 0.0)
        return np.asarray(weight[self.atoms[:, :2]].sum(axis=1)[self.species_index])

    @cached_property
    def checksum(self) -> str:
        """sha256 over species names and all columns."""
        digest = hashlib.sha256("\n".join(self.species_names).encode())
        for name in _COLUMNS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> LineList:
        """The lines of a mask, of indices or of a slice."""
        return replace(self, **{name: getattr(self, name)[which] for name in _COLUMNS})

    def within(self, wave_min: float, wave_max: float) -> LineList:
        """The lines between two vacuum wavelengths (Å), both included."""
        a, b = np.searchsorted(self.wave_vacuum, [wave_min, np.nextafter(wave_max, np.inf)])
        return self.select(slice(int(a), int(b)))


def _atoms(name: str) -> tuple[int, int, int] | None:
    if name in MOLECULE_ATOMS:
        return (*MOLECULE_ATOMS[name], 0)
    symbol = name.rstrip("+")
    return (ATOMIC_NUMBER[symbol], 0, len(name) - len(symbol)) if symbol in ATOMIC_NUMBER else None
