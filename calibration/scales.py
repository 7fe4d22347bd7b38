"""Solar abundance scales: what "[X/Fe] = 0" means in each source, and the conversion to the project's own
scale.

An abundance ratio of another scale is shifted by the difference of the two Suns:
[X/H]_to = [X/H]_from + A_from(X) - A_to(X), and [X/Fe] likewise with A(X) - A(Fe). A scale that is not known
is refused, never guessed.

Sources: Grevesse, Asplund & Sauval (2007, SSRv 130, 105); Asplund et al. (2009); Asplund, Amarsi & Grevesse
(2021, A&A 653, A141); Bergemann, Lodders & Palme (2025, Table 1, "Sun Convection Zone"). Each value of the last
was compared with the authors' machine-readable table, which gives numbers of atoms too. The review of Lodders,
Bergemann & Palme (2025) is quoted elsewhere with A(N) = 7.98 instead of 7.94 and with the same values otherwise.

Surveys that set their zero by their own measurement are *differential*: their 0 is the Sun (or the solar
neighbourhood at solar metallicity) as they measure it, and no table of A(X) is behind it. GALAH subtracts
what its own analysis finds for the Sun (its A(Eu) = 0.92 speaks of oscillator strengths, not of the Sun); the
calibrated APOGEE abundances of DR16 and DR17 are moved so that nearby stars of solar metallicity have [X/M] =
0, only the uncalibrated `_SPEC` columns are on Grevesse (2007). A differential scale is not shifted; what
remains is for the zero point of the set.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from phdlspec.errors import UserError
from phdlspec.foreign import one_sentence
from phdlspec.labels import abundance_name
from phdlspec.solar import SOLAR_ABUNDANCES, SOLAR_SCALE, SYMBOLS
from phdlspec.tables import number_column, read_any_table

Scale = Mapping[str, float]

_RATIOS = frozenset(map(abundance_name, SYMBOLS))  # surveys state elements that are none of our labels


def _scale(text: str) -> Scale:
    words = text.split()
    return MappingProxyType({element: float(value) for element, value in zip(words[::2], words[1::2])})


_GREVESSE_2007 = _scale("""
    H 12.00 He 10.93 Li 1.05 Be 1.38 B 2.70 C 8.39 N 7.78 O 8.66 F 4.56 Ne 7.84 Na 6.17 Mg 7.53 Al 6.37
    Si 7.51 P 5.36 S 7.14 Cl 5.50 Ar 6.18 K 5.08 Ca 6.31 Sc 3.17 Ti 4.90 V 4.00 Cr 5.64 Mn 5.39 Fe 7.45
    Co 4.92 Ni 6.23 Cu 4.21 Zn 4.60 Ga 2.88 Ge 3.58 As 2.29 Se 3.33 Br 2.56 Kr 3.25 Rb 2.60 Sr 2.92 Y 2.21
    Zr 2.58 Nb 1.42 Mo 1.92 Ru 1.84 Rh 1.12 Pd 1.66 Ag 0.94 Cd 1.77 In 1.60 Sn 2.00 Sb 1.00 Te 2.19 I 1.51
    Xe 2.24 Cs 1.07 Ba 2.17 La 1.13 Ce 1.70 Pr 0.58 Nd 1.45 Sm 1.00 Eu 0.52 Gd 1.11 Tb 0.28 Dy 1.14 Ho 0.51
    Er 0.93 Tm 0.00 Yb 1.08 Lu 0.06 Hf 0.88 Ta -0.17 W 1.11 Re 0.23 Os 1.25 Ir 1.38 Pt 1.64 Au 1.01 Hg 1.13
    Tl 0.90 Pb 2.00 Bi 0.65 Th 0.06 U -0.52
""")

_ASPLUND_2021 = _scale("""
    H 12.00 He 10.914 Li 0.96 Be 1.38 B 2.70 C 8.46 N 7.83 O 8.69 F 4.40 Ne 8.06 Na 6.22 Mg 7.55 Al 6.43
    Si 7.51 P 5.41 S 7.12 Cl 5.31 Ar 6.38 K 5.07 Ca 6.30 Sc 3.14 Ti 4.97 V 3.90 Cr 5.62 Mn 5.42 Fe 7.46
    Co 4.94 Ni 6.20 Cu 4.18 Zn 4.56 Sr 2.83 Y 2.21 Zr 2.59 Ba 2.27 La 1.11 Ce 1.58 Pr 0.75 Nd 1.42 Sm 0.95
    Eu 0.52
""")

_BERGEMANN_2025 = _scale("""
    H 12.00 He 10.922 Li 1.04 Be 1.21 B 2.70 C 8.51 N 7.94 O 8.76 F 4.40 Ne 8.15 Na 6.29 Mg 7.58 Al 6.43
    Si 7.56 P 5.44 S 7.16 Cl 5.43 Ar 6.50 K 5.09 Ca 6.35 Sc 3.13 Ti 4.97 V 3.89 Cr 5.74 Mn 5.52 Fe 7.51
    Co 4.95 Ni 6.24 Cu 4.24 Zn 4.55 Sr 2.93 Y 2.30 Zr 2.68 Ba 2.27 La 1.10 Ce 1.58 Pr 0.75 Nd 1.42 Sm 0.95
    Eu 0.57
""")

SCALES: dict[str, Scale] = {
    SOLAR_SCALE: SOLAR_ABUNDANCES,
    "Grevesse2007": _GREVESSE_2007,
    "Asplund2021": _ASPLUND_2021,
    "Bergemann2025": _BERGEMANN_2025,
    "APOGEE-SPEC": _GREVESSE_2007,
}
DIFFERENTIAL: tuple[str, ...] = ("differential", "APOGEE-DR16", "APOGEE-DR17", "GALAH-DR3", "GALAH-DR4")


def solar_scale(name: str) -> Scale:
    """The table A(X) of a named scale, or of a two-column file (element, A(X)); anything else is refused."""
    if name in SCALES:
        return SCALES[name]
    if Path(name).is_file():
        return read_solar_scale(name)
    known = (*SCALES, *DIFFERENTIAL)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? Known" if near else "known"
    raise UserError(
        f"unknown solar scale {name!r}: {hint} are {', '.join(known)}, or give a file with element and A(X)"
    )


def check_scale(name: str, table: str) -> None:
    """Raise `UserError` that names the table unless its scale is known."""
    if name not in DIFFERENTIAL:
        try:
            solar_scale(name)
        except UserError as error:
            raise UserError(f"{table}: {error}") from error


def is_abundance(label: str) -> bool:
    """True for `FE_H` and the [X/Fe] labels, whose value depends on the solar scale."""
    return label == "FE_H" or label in _RATIOS


def label_shift(label: str, from_scale: str, to_scale: str = SOLAR_SCALE) -> float:
    """What to add to a label (`FE_H` or `MG_FE`) to bring it from one solar scale to another, in dex.

    0 for labels that are no abundances. Raises `UserError` where either scale lacks the element.
    """
    if from_scale == to_scale or not is_abundance(label):
        return 0.0
    if from_scale in DIFFERENTIAL or to_scale in DIFFERENTIAL:
        return 0.0
    element = "Fe" if label == "FE_H" else label[:-3].capitalize()
    old, new = solar_scale(from_scale), solar_scale(to_scale)
    for name, scale in ((from_scale, old), (to_scale, new)):
        if element not in scale or "Fe" not in scale:
            raise UserError(f"the solar scale {name} has no value for {element}, so {label} cannot be converted")
    shift = old[element] - new[element]
    if label != "FE_H":
        shift -= old["Fe"] - new["Fe"]
    return shift


@one_sentence
def read_solar_scale(path: str | Path) -> Scale:
    """A solar scale from a text table with an `element` column and A(X) as `photosphere`, `A` or the second
    column."""
    table = read_any_table(path)
    names = {name.lower(): name for name in table.colnames}
    if "element" not in names:
        raise UserError(f"{path}: a solar scale needs a column 'element', found {', '.join(table.colnames)}")
    column = names.get("photosphere") or names.get("a") or table.colnames[1]
    values = number_column(table, column, path)
    symbols = [str(element).strip().capitalize() for element in table[names["element"]]]
    scale = {e: float(value) for e, value in zip(symbols, values) if e in SYMBOLS and value == value}
    if abs(scale.get("H", 12.0) - 12.0) > 1e-6 or "Fe" not in scale:
        raise UserError(f"{path}: column {column!r} is no scale A(X) with A(H) = 12 and a value for Fe")
    return MappingProxyType(scale)
