"""The project's solar scale: A(X) = log10(N_X / N_H) + 12 of Asplund et al. (2009, ARA&A 47, 481).

Photospheric values of their Table 1 (He, Ne, Ar, Kr and Xe are their indirect estimates); where the
photosphere gives none, the value of CI chondrites of the same table. Elements without a stable isotope, but
for Th and U, have no entry.
"""

from __future__ import annotations

from types import MappingProxyType

SOLAR_SCALE = "Asplund2009"

_PERIODIC_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb
Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U
"""
SYMBOLS: tuple[str, ...] = tuple(_PERIODIC_TABLE.split())
ATOMIC_NUMBER: MappingProxyType[str, int] = MappingProxyType({symbol: i for i, symbol in enumerate(SYMBOLS, start=1)})

# fmt: off
SOLAR_ABUNDANCES: MappingProxyType[str, float] = MappingProxyType({
    "H": 12.00, "He": 10.93, "Li": 1.05, "Be": 1.38, "B": 2.70, "C": 8.43, "N": 7.83, "O": 8.69,
    "F": 4.56, "Ne": 7.93, "Na": 6.24, "Mg": 7.60, "Al": 6.45, "Si": 7.51, "P": 5.41, "S": 7.12,
    "Cl": 5.50, "Ar": 6.40, "K": 5.03, "Ca": 6.34, "Sc": 3.15, "Ti": 4.95, "V": 3.93, "Cr": 5.64,
    "Mn": 5.43, "Fe": 7.50, "Co": 4.99, "Ni": 6.22, "Cu": 4.19, "Zn": 4.56, "Ga": 3.04, "Ge": 3.65,
    "As": 2.30, "Se": 3.34, "Br": 2.54, "Kr": 3.25, "Rb": 2.52, "Sr": 2.87, "Y": 2.21, "Zr": 2.58,
    "Nb": 1.46, "Mo": 1.88, "Ru": 1.75, "Rh": 0.91, "Pd": 1.57, "Ag": 0.94, "Cd": 1.71, "In": 0.80,
    "Sn": 2.04, "Sb": 1.01, "Te": 2.18, "I": 1.55, "Xe": 2.24, "Cs": 1.08, "Ba": 2.18, "La": 1.10,
    "Ce": 1.58, "Pr": 0.72, "Nd": 1.42, "Sm": 0.96, "Eu": 0.52, "Gd": 1.07, "Tb": 0.30, "Dy": 1.10,
    "Ho": 0.48, "Er": 0.92, "Tm": 0.10, "Yb": 0.84, "Lu": 0.10, "Hf": 0.85, "Ta": -0.12, "W": 0.85,
    "Re": 0.26, "Os": 1.40, "Ir": 1.38, "Pt": 1.62, "Au": 0.92, "Hg": 1.17, "Tl": 0.90, "Pb": 1.75,
    "Bi": 0.65, "Th": 0.02, "U": -0.54,
})
# fmt: on
