"""The bounds of labels within which models are made: what the atmospheres can do.

They reach beyond those of `phdlspec.labels`, which are the range of the shipped emulator and of fits. Within them there
are corners without an atmosphere (hot and of low gravity; cool dwarfs below [M/H] = -3): the grid of atmospheres knows.
"""

from __future__ import annotations

from dataclasses import replace

from phdlspec.labels import GRID_LABELS, LabelSet

_ATMOSPHERES = {"TEFF": (3600.0, 8000.0), "LOGG": (0.0, 5.2), "FE_H": (-4.0, 0.5)}


MODEL_LABELS = LabelSet(
    tuple(
        replace(label, lower=_ATMOSPHERES[label.name][0], upper=_ATMOSPHERES[label.name][1])
        if label.name in _ATMOSPHERES
        else label
        for label in GRID_LABELS
    )
)
