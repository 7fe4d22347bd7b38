"""What can be wrong with an age, as bits and in words."""

from __future__ import annotations

from enum import IntFlag


class AgeFlag(IntFlag):
    """Bits of AGE_FLAG; 0 is good."""

    NOT_SUBGIANT = 1
    OUTSIDE_SET = 2
    AGE_LIMIT = 4
    BIMODAL = 8
    PRIOR_DOMINATED = 16
    CONFLICT = 32
    NO_COVARIANCE = 64
    BAD_PARALLAX = 128
    NO_LUMINOSITY = 256
    LABELS_FLAGGED = 512
    NO_LABELS = 1024


AGE_WORDS: dict[AgeFlag, str] = {
    AgeFlag.NOT_SUBGIANT: "more likely not a subgiant: the age rests on a slower clock",
    AgeFlag.OUTSIDE_SET: "outside what the isochrones cover in [M/H], Teff or log g",
    AgeFlag.AGE_LIMIT: "the posterior runs into the youngest or oldest age allowed",
    AgeFlag.BIMODAL: "two ages are possible (the hook of the turn-off, or two stages)",
    AgeFlag.PRIOR_DOMINATED: "the data say less than one bit about the age: the prior sets it",
    AgeFlag.CONFLICT: "no isochrone agrees with labels and photometry (chance below 0.001)",
    AgeFlag.NO_COVARIANCE: "labels without correlations: taken as independent",
    AgeFlag.BAD_PARALLAX: "the parallax cannot be used (more than six errors negative, or without an error)",
    AgeFlag.NO_LUMINOSITY: "no usable magnitude: log g alone tells the luminosity",
    AgeFlag.LABELS_FLAGGED: "the labels carry a flag of the fit",
    AgeFlag.NO_LABELS: "no usable Teff, log g, [Fe/H] with errors: no age",
}
