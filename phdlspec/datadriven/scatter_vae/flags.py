"""What can be wrong with a spectrum, as bits and in words."""

from __future__ import annotations

from enum import IntFlag


class VaeFlag(IntFlag):
    """Bits of the column FLAG; 0 is good."""

    STRANGE = 1
    OUTSIDE_TRAINING = 2
    FEW_PIXELS = 4
    UNREADABLE = 8


VAE_WORDS: dict[VaeFlag, str] = {
    VaeFlag.STRANGE: "stranger than 99% of the ordinary stars: see SIGN and WORST",
    VaeFlag.OUTSIDE_TRAINING: "the latents are farther out than those of 99.9% of the ordinary stars",
    VaeFlag.FEW_PIXELS: "less than half of the model's pixels are usable",
    VaeFlag.UNREADABLE: "no spectrum: see REASON",
}
