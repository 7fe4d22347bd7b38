"""What can be wrong with the embedding of a star, as bits and in words."""

from __future__ import annotations

from enum import IntFlag


class DesaFlag(IntFlag):
    """Bits of the column FLAG; 0 is a star with both modalities, like those of the training set."""

    NO_SPECTRUM = 1
    NO_LIGHT_CURVE = 2
    OUTSIDE_TRAINING = 4
    SHORT_LIGHT_CURVE = 8
    NOTHING = 16


DESA_WORDS: dict[DesaFlag, str] = {
    DesaFlag.NO_SPECTRUM: "no usable spectrum: the embedding is from the light curve alone",
    DesaFlag.NO_LIGHT_CURVE: "no usable light curve: the embedding is from the spectrum alone",
    DesaFlag.OUTSIDE_TRAINING: "further from the training stars than 99.9% of them, seen with the same modalities",
    DesaFlag.SHORT_LIGHT_CURVE: "the light curve fills less than a quarter of the length of a stretch",
    DesaFlag.NOTHING: "neither: see REASON",
}
