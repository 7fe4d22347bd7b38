"""Kurucz's gfall: 160 columns a line, atoms and ions, wavelengths in nm.

The two levels of each line tell its vacuum wavelength, hence whether the list is in air or in vacuum. Hyperfine and
isotopic components carry the logarithms of their shares in columns of their own, which are applied here, once.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.damping import UNSOLD_EXPONENT, classical_radiative, stark, unsold_vdw, upper_level_ev
from kurucz_grids.linelists.elements import species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.medium import HOW_TO_SAY, to_vacuum
from phdlspec.errors import UserError
from phdlspec.wavelength import vacuum_to_air

log = logging.getLogger(__name__)

CM_TO_EV = 1.0 / 8065.544
_FIELDS = {
    "wave": (0, 11), "loggf": (11, 18), "code": (18, 24), "e_first": (24, 36), "e_second": (52, 64),
    "gamma_rad": (80, 86), "gamma_stark": (86, 92), "gamma_vdw": (92, 98), "hyperfine": (109, 115),
    "isotope": (118, 124),
}  # fmt: skip
# gfall08oct17 has "-1 72" for the log gf of Fe I 4488.9 Å: -1.72 in its source (Den Hartog et al. 2014, ApJS 215, 23).
_POINTLESS = re.compile(r"^(-?\d+) (\d+)$")
_TELLING = 500  # lines between levels of positive energy that settle the medium


def is_gfall(head: str) -> bool:
    """Whether the first line of a file looks like one of gfall."""
    try:
        numbers = float(head[0:11]) > 0 and 1.0 <= float(head[18:24]) < 100.0
        return len(head) >= 98 and numbers and bool(head[24:36].strip())
    except ValueError:
        return False


def read_gfall(path: str | Path, medium: str | None = None) -> LineList:
    """Read a gfall file; `medium`, if given, must be what the levels say.

    Raises `UserError` for a damaged line, an unknown species or the wrong medium.
    """
    text = Path(path).read_text(errors="replace").splitlines()
    rows = [(number, line) for number, line in enumerate(text, start=1) if line.strip()]
    values: dict[str, NDArray[np.float64]] = {}
    for name, (start, stop) in _FIELDS.items():
        column = np.empty(len(rows))
        for i, (number, line) in enumerate(rows):
            word = line[start:stop].strip()
            try:
                column[i] = _number(word) if word else 0.0
            except ValueError as error:
                raise UserError(f"{path}: line {number}, columns {start + 1}-{stop}: {word!r} is no number") from error
        values[name] = column
    z = np.floor(values["code"] + 1e-6).astype(int)
    charge = np.rint(100.0 * (values["code"] - z)).astype(int)
    # Highly charged ions have no place in the spectra of late-type stars.
    keep = (charge <= 1) & ~((z == 1) & (charge == 0))
    if (~keep).any():
        log.info("%s: %d lines of higher ions and of hydrogen are left out", path, (~keep).sum())
    values = {name: column[keep] for name, column in values.items()}
    z, charge = z[keep], charge[keep]
    names = np.array([species_name(int(a), 0, int(c)) or "" for a, c in zip(z, charge)])
    if (names == "").any():
        raise UserError(f"{path}: species code {values['code'][names == ''][0]:.2f} is unknown; drop its lines")
    listed = 10.0 * values["wave"]
    first, second = np.abs(values["e_first"]), np.abs(values["e_second"])
    found = _medium(listed, first, second, values, str(path))
    if medium is not None and found is not None and medium != found:
        raise UserError(f"{path}: its wavelengths are in {found} by their energy levels, but {medium} was asked for")
    chosen = found or medium
    if chosen is None:
        raise UserError(f"{path}: its levels do not tell air from vacuum; {HOW_TO_SAY}")
    wave = to_vacuum(listed, chosen)
    lower = np.minimum(first, second) * CM_TO_EV
    upper = upper_level_ev(wave, lower)
    strength = values["loggf"] + values["hyperfine"] + values["isotope"]
    given = {name: values[name] for name in ("gamma_rad", "gamma_stark", "gamma_vdw")}

    def width(name: str, estimate: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(given[name] != 0.0, 10.0 ** given[name], estimate)

    return LineList.from_columns(
        names, wave_vacuum=wave, elow_ev=lower, loggf=strength,
        gamma_rad=width("gamma_rad", classical_radiative(wave)),
        gamma_stark=width("gamma_stark", stark(z, charge, upper)),
        gamma_vdw=width("gamma_vdw", unsold_vdw(z, charge, lower, upper)),
        vdw_exponent=np.full(len(wave), UNSOLD_EXPONENT), isotope_fraction=10.0 ** values["isotope"], medium=chosen,
        sources={"gfall": len(wave)}, path=str(path),
    )  # fmt: skip


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float(_POINTLESS.sub(r"\1.\2", word))


def _medium(
    listed: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64], values: dict, path: str
) -> str | None:
    # Levels of predicted energies carry a minus sign and are not to be trusted to a part in 10^4.
    measured = (values["e_first"] >= 0) & (values["e_second"] >= 0) & (np.abs(first - second) > 0) & (listed > 2000.0)
    use = np.flatnonzero(measured)[:_TELLING]
    if len(use) < 3:
        return None
    vacuum = 1e8 / np.abs(first - second)[use]
    distance = {
        "vacuum": np.median(np.abs(listed[use] / vacuum - 1.0)),
        "air": np.median(np.abs(listed[use] / vacuum_to_air(vacuum) - 1.0)),
    }
    best = min(distance, key=lambda name: distance[name])
    if distance[best] > 5e-5:
        raise UserError(f"{path}: wavelengths and energy levels disagree in air and vacuum; is it in nm, as gfall is?")
    return best
