"""What can be wrong with the labels of a star, as bits and in words."""

from __future__ import annotations

from enum import IntFlag


class LuxFlag(IntFlag):
    """Bits of the column FLAG; 0 is good."""

    OUTSIDE_TRAINING = 1
    POOR_FIT = 2
    LABELS_OUTSIDE = 4
    FEW_PIXELS = 8
    UNREADABLE = 16


LUX_WORDS: dict[LuxFlag, str] = {
    LuxFlag.OUTSIDE_TRAINING: "further from the training stars in the latents than 99.9% of stars of their kind",
    LuxFlag.POOR_FIT: "the model fits the spectrum worse than 99.9% of stars like the training stars",
    LuxFlag.LABELS_OUTSIDE: "a label outside the range of the training labels",
    LuxFlag.FEW_PIXELS: "less than half of the model's pixels are usable",
    LuxFlag.UNREADABLE: "no spectrum: see REASON",
}
