"""Every column of a table of ages, declared once: name, unit, type, comment."""

from __future__ import annotations

from dataclasses import dataclass

from phdlspec.ages.stages import STAGE_WORDS, Stage


@dataclass(frozen=True)
class AgeColumn:
    """A column: its name, unit, numpy type and comment."""

    name: str
    unit: str
    dtype: str
    comment: str


# Quantity of `AgePosteriors`, first part of the columns' names, unit, words.
QUANTITIES: tuple[tuple[str, str, str, str], ...] = (
    ("age", "AGE", "Gyr", "age"),
    ("mass", "MASS", "solMass", "present mass"),
    ("logg", "LOGG_ISO", "dex", "log g of the isochrones"),
    ("modulus", "DIST_MOD", "mag", "distance modulus"),
    ("extinction", "AV", "mag", "extinction in V"),
)
MOMENTS: tuple[tuple[str, str], ...] = (
    ("", "posterior mean"), ("_ERR", "posterior standard deviation"), ("_P16", "16th percentile"),
    ("_P50", "median"), ("_P84", "84th percentile"),
)  # fmt: skip
STAGE_COLUMNS: dict[Stage, str] = {
    Stage.MAIN_SEQUENCE: "P_MS", Stage.SUBGIANT: "P_SGB", Stage.GIANT: "P_RGB", Stage.HELIUM: "P_HEB",
}  # fmt: skip

COLUMNS: tuple[AgeColumn, ...] = (
    AgeColumn("TEFF", "K", "f4", "effective temperature that was used"),
    AgeColumn("TEFF_ERR", "K", "f4", "its error"),
    AgeColumn("LOGG", "dex", "f4", "log g that was used"),
    AgeColumn("LOGG_ERR", "dex", "f4", "its error"),
    AgeColumn("FE_H", "dex", "f4", "[Fe/H] that was used"),
    AgeColumn("ALPHA_FE", "dex", "f4", "[alpha/Fe] that was used, NaN: taken as zero"),
    AgeColumn("M_H", "dex", "f4", "[M/H] of the two (Salaris et al. 1993)"),
    AgeColumn("M_H_ERR", "dex", "f4", "its error"),
    *(
        AgeColumn(name + suffix, unit, "f4", f"{words}: {what}")
        for _, name, unit, words in QUANTITIES
        for suffix, what in MOMENTS
    ),
    *(AgeColumn(STAGE_COLUMNS[stage], "", "f4", f"probability: {STAGE_WORDS[stage]}") for stage in Stage),
    AgeColumn("SUBGIANT", "", "?", "chosen between the lines of phdlspec.ages.selection"),
    AgeColumn("SUBGIANT_MK", "", "?", "M_Ks decided the choice, not log g"),
    AgeColumn("AGE_CHI2", "", "f4", "misfit of the best point of the isochrones"),
    AgeColumn("AGE_BITS", "", "f4", "what the data say about the age, in bits"),
    AgeColumn("AGE_FLAG", "", "i4", "bits, see AFLAG in the header; 0 is good"),
)
COMPARED: tuple[AgeColumn, ...] = (
    *(AgeColumn(f"AGE2{suffix}", "Gyr", "f4", f"age with the second set: {what}") for suffix, what in MOMENTS),
    AgeColumn("MASS2", "solMass", "f4", "present mass with the second set: posterior mean"),
    AgeColumn("AGE2_FLAG", "", "i4", "bits for the second set"),
)
