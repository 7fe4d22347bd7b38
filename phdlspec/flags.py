"""What can be wrong with a label or with a star, as bits and in words."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray


class LabelFlag(IntFlag):
    """Bits of the flag of one label; 0 is good.

    >>> phdlspec.LabelFlag(6)
    <LabelFlag.PRIOR_DOMINATED|BELOW_BOUND: 6>
    >>> phdlspec.LabelFlag.NOT_CONVERGED in result["TEFF"].flag
    False
    """

    AT_BOUND = 1
    PRIOR_DOMINATED = 2
    BELOW_BOUND = 4
    UNTRUSTED_REGION = 8
    NOT_CONVERGED = 16
    GIVEN = 32
    NOT_MEASURED = 64


class StarFlag(IntFlag):
    """Bits of the flag of one star; 0 is good. Those in `NOTES` say something of a star that may be used.

    >>> phdlspec.StarFlag.FELL_BACK in phdlspec.StarFlag(130)
    True
    >>> phdlspec.StarFlag.POOR_FIT in phdlspec.StarFlag(result.flag)
    False
    """

    LOW_SNR = 1
    POOR_FIT = 2
    VELOCITY_UNSURE = 4
    NOT_CONVERGED = 8
    OUTSIDE_GRID = 16
    UNTRUSTED_REGION = 32
    MANY_OUTLIERS = 64
    FELL_BACK = 128
    NO_STAR = 256
    FAILED = 512
    UNREADABLE = 1024
    GIVEN_DISAGREES = 2048
    GIVEN_UNUSED = 4096
    NUISANCE_AT_BOUND = 8192
    DOUBLE_LINED = 16384
    STRANGE = 32768
    IMPERFECT_FIT = 65536
    OUTSIDE_BRIDGE = 131072


NOTES = StarFlag.FELL_BACK | StarFlag.GIVEN_UNUSED | StarFlag.IMPERFECT_FIT | StarFlag.OUTSIDE_BRIDGE


LABEL_WORDS: dict[LabelFlag, str] = {
    LabelFlag.AT_BOUND: "at the bound of its range",
    LabelFlag.PRIOR_DOMINATED: "the spectrum says little about it: the prior sets the error",
    LabelFlag.BELOW_BOUND: "the error is below the Cramer-Rao bound: prior or bounds, not the spectrum, set it",
    LabelFlag.UNTRUSTED_REGION: "the model is not trusted for this star, or not for this label",
    LabelFlag.NOT_CONVERGED: "the fit or the sampler did not converge",
    LabelFlag.GIVEN: "given from elsewhere: fixed, or with an error",
    LabelFlag.NOT_MEASURED: "no number: the error collapsed in a fit that did not converge or ran into a corner",
}
STAR_WORDS: dict[StarFlag, str] = {
    StarFlag.LOW_SNR: "low signal-to-noise ratio",
    StarFlag.POOR_FIT: "the model does not fit the spectrum: it is no star of this kind, or a bad spectrum",
    StarFlag.VELOCITY_UNSURE: "no velocity stands out: a galaxy, a quasar, an early-type star or too much noise",
    StarFlag.NOT_CONVERGED: "the fit or the sampler did not converge",
    StarFlag.OUTSIDE_GRID: "Teff, logg or [Fe/H] at the edge of the models: the star lies outside them",
    StarFlag.UNTRUSTED_REGION: "outside the range where the emulator is trusted, by its own errors (phdlspec info)",
    StarFlag.MANY_OUTLIERS: "many pixels that no noise explains",
    StarFlag.FELL_BACK: "the fast posterior was unreliable and the star was sampled in full",
    StarFlag.NO_STAR: "the file's own classification is not a star",
    StarFlag.FAILED: "the fit failed",
    StarFlag.UNREADABLE: "the file could not be read",
    StarFlag.GIVEN_DISAGREES: "what was given from elsewhere is more than 3 sigma from what the spectrum says",
    StarFlag.GIVEN_UNUSED: "something that was given from elsewhere could not be used",
    StarFlag.NUISANCE_AT_BOUND: "resolving power or broadening at its bound: a wrong resolving power or fast rotation",
    StarFlag.DOUBLE_LINED: "lines of a second star at another velocity: the labels are of neither",
    StarFlag.STRANGE: "the spectrum is unlike 99% of those that --anomaly learned from",
    StarFlag.IMPERFECT_FIT: "the model misses the spectrum by more than its noise, for which noise was added",
    StarFlag.OUTSIDE_BRIDGE: "outside the stars that the bridge was learned from: it fades out, its error grows",
}


def usable(flag: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the stars whose flags (n,) forbid nothing: none, or `NOTES` alone."""
    return np.asarray((np.asarray(flag, dtype=np.int64) & ~int(NOTES)) == 0)


def label_words(flag: int) -> list[str]:
    """The set bits of a label's flag in words; where the prior sets the error, that says all of the bound's."""
    if flag & LabelFlag.PRIOR_DOMINATED:
        flag &= ~int(LabelFlag.BELOW_BOUND)
    return [text for bit, text in LABEL_WORDS.items() if flag & bit]


def star_words(flag: int) -> list[str]:
    """The set bits of a star's flag in words."""
    return [text for bit, text in STAR_WORDS.items() if flag & bit]
