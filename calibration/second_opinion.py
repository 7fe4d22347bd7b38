"""A second opinion on every calibrated label: what a model learned from data says of the same spectra.

The catalogue is calibrated, the spectra that its column FILE names are given to a model of `phdlspec lux train`, and
the
differences (physics, calibrated, minus data) are shown by label and, where they exceed their error most, by star.
Abundances are brought to the calibration's solar scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table

from calibration.catalog import Catalog
from calibration.correction import check_applicable, correct
from calibration.scales import label_shift
from calibration.store import Calibration
from phdlspec.datadriven.lux.lux import Lux
from phdlspec.errors import UserError

NOT_STATED = "not stated"


def second_opinion(calibration: Calibration, model_path: str | Path, catalog_path: str | Path | None = None) -> Table:
    """One row a star and label: FILE, LABEL, PHYSICS, PHYSICS_ERR, DATA, DATA_ERR, DIFFERENCE, PULL, LUX_FLAG.

    catalog_path : the raw catalogue; by default the one that the calibration names.

    Raises `UserError` where the two have no label or no spectrum in common.
    """
    model = Lux.load(model_path)
    catalog = Catalog.read(catalog_path or calibration.catalog)
    check_applicable(catalog, calibration)
    if "FILE" not in catalog.table.colnames:
        raise UserError(f"{catalog.path}: has no column FILE that names the spectra for a second opinion")
    physics = correct(catalog, calibration).table
    data = model.apply([str(path) for path in physics["FILE"]])
    by_file = {str(path): i for i, path in enumerate(data["FILE"])}
    rows = np.array([by_file[str(path)] for path in physics["FILE"]])
    common = [(n, i) for n, i in zip(model.names, model.infos) if n in calibration.labels and n in physics.colnames]
    if not common:
        raise UserError(f"{model_path}: no label in common with the calibration ({', '.join(calibration.labels)})")
    parts = []
    for name, info in common:
        shift = 0.0
        if info.is_abundance and info.solar_scale != NOT_STATED:
            shift = label_shift(name, info.solar_scale, calibration.solar_scale)
        value, error = (np.asarray(physics[column], dtype=float) for column in (name, f"{name}_ERR"))
        other, other_error = np.asarray(data[name])[rows] + shift, np.asarray(data[f"{name}_ERR"])[rows]
        parts.append(Table({
            "FILE": np.asarray(physics["FILE"]).astype(str), "LABEL": np.full(len(physics), name), "PHYSICS": value,
            "PHYSICS_ERR": error, "DATA": other, "DATA_ERR": other_error, "DIFFERENCE": value - other,
            "PULL": (value - other) / np.hypot(error, other_error), "LUX_FLAG": np.asarray(data["FLAG"])[rows],
        }))  # fmt: skip
    return Table(np.concatenate([part.as_array() for part in parts]))
