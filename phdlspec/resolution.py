"""Resolving power by wavelength: a default for each survey, and what the user gives instead.

The default is a fallback: the true resolving power differs from fibre to fibre and biases abundances when
wrong. Give a measured one where there is one, or let the fit scale it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError
from phdlspec.foreign import MOST_SHORT, content_of, reading

# wave (vacuum Å), resolving power; linear in between, constant outside, a pair of equal wavelengths is a
# jump.
DEFAULT_RESOLVING_POWER: dict[str, tuple[tuple[float, float], ...]] = {
    # Measured by scripts/measure_lamost_resolution.py: the HARPS Sun broadened to fit 25 solar-like dwarfs of
    # DR10 in windows from 3850 to 6850 Å; medians, the scatter between fibres and nights is 15%. It agrees
    # with the survey's statement (1800 at 5500 Å). Beyond 6850 Å extrapolated with the FWHM of the red arm,
    # 4.25 Å.
    "LAMOST": (
        *((3700.0, 1030.0), (4000.0, 1130.0), (4250.0, 1290.0), (4500.0, 1450.0)),
        *((5000.0, 1680.0), (5500.0, 1760.0), (5900.0, 1800.0)),
        *((5900.0, 1340.0), (6140.0, 1390.0), (6400.0, 1510.0), (6750.0, 1595.0), (9100.0, 2140.0)),
    ),
    # Guy et al. (2023, AJ 165, 144): the three arms of DESI, used where the file has no resolution matrix.
    "DESI": (
        (3600.0, 2000.0),
        (5780.0, 3200.0),
        (5780.0, 3200.0),
        (7570.0, 4100.0),
        (7570.0, 4000.0),
        (9824.0, 5000.0),
    ),
    # Smee et al. (2013, AJ 146, 32): used where the file has no wdisp column.
    "SDSS": ((3800.0, 1500.0), (6000.0, 2000.0), (6000.0, 1850.0), (9200.0, 2300.0)),
    # Falcon-Barroso et al. (2011, A&A 532, A95): a FWHM of 2.50 Å everywhere.
    "MILES": ((3500.0, 1400.0), (7500.0, 3000.0)),
}

ResolvingPower = float | str | Path | tuple[ArrayLike, ArrayLike]


def default_resolving_power(survey: str, wave: NDArray[np.float64]) -> NDArray[np.float64]:
    """The survey's typical resolving power (P,) at vacuum wavelengths (P,) in Å.

    >>> phdlspec.default_resolving_power("LAMOST", np.array([5000.0, 5500.0]))
    array([1680., 1760.])
    """
    if survey.upper() not in DEFAULT_RESOLVING_POWER:
        known = " ".join(sorted(DEFAULT_RESOLVING_POWER))
        raise UserError(f"no default resolving power is known for {survey!r} (only for {known}): give one")
    nodes = np.array(DEFAULT_RESOLVING_POWER[survey.upper()])
    return np.asarray(np.interp(wave, nodes[:, 0], nodes[:, 1]))


def resolving_power_at(given: ResolvingPower, wave: NDArray[np.float64]) -> NDArray[np.float64] | float:
    """What the user gave, at vacuum wavelengths (P,) in Å.

    `given` is a number, a pair of arrays (wave in vacuum Å, resolving power), the name of a survey whose typical one
    is meant (LAMOST, DESI, SDSS, MILES), or the path of a table (ECSV or CSV) with the columns `wave` and
    `resolving_power`.
    """
    if isinstance(given, str) and given.upper() in DEFAULT_RESOLVING_POWER:
        return default_resolving_power(given, wave)
    if isinstance(given, (str, Path)):
        try:
            with reading(given):
                table = Table.read(content_of(given, MOST_SHORT).decode(), format="ascii")
                given = (np.array(table["wave"], dtype=float), np.array(table["resolving_power"], dtype=float))
        except UserError as error:
            raise UserError(
                f"{given}: neither a survey ({' '.join(DEFAULT_RESOLVING_POWER)}) nor a table with the columns 'wave' "
                f"(vacuum Å) and 'resolving_power' ({error})"
            ) from error
    if isinstance(given, tuple):
        nodes, power = (np.asarray(x, dtype=float) for x in given)
        if nodes.shape != power.shape or nodes.ndim != 1 or len(nodes) == 0 or (np.diff(nodes) < 0).any():
            raise UserError("the resolving power's table needs increasing wavelengths, one value for each")
        return np.asarray(np.interp(wave, nodes, power))
    try:
        return float(given)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"resolving_power is a {type(given).__name__}, expected a number, a pair of arrays, a survey or a table"
        ) from error
