"""The report: one self-contained HTML page with a section a label.

Each section shows the bias before and after the correction against Teff, logg and [Fe/H] for every reference
set, the differences of pairs in units of their error, cluster members against logg, one-to-one plots against
every survey, and the external error by signal-to-noise (`calibration.external`); tables give what was found of
every set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from calibration.catalog import AXES
from calibration.external import MIN_ROWS, SnrBin, external_errors
from calibration.model import robust_scatter
from calibration.pixel_influence import Diagnostics, windows
from calibration.store import Calibration, LabelCalibration
from phdlspec.columns import PARAMETER_SYMBOLS
from phdlspec.errors import UserError
from phdlspec.pages import Block, Details, Heading, Listing, PageTable, new_figure, picture, text, write_page
from phdlspec.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS_NAMES = {"TEFF": "Teff (K)", "LOGG": "log g", "FE_H": "[Fe/H]"}
_MAX_POINTS = 3000
DPI = 72
_SNR_TICKS = (5, 10, 20, 50, 100, 200, 500)


def write_report(
    calibration: Calibration,
    folder: str | Path,
    diagnostics: str | Path | None = None,
    opinion: Table | None = None,
) -> Path:
    """Write `calibration.html` into a folder and return its path.

    `opinion` is the table of `calibration.second_opinion`; it is written beside the page as `second_opinion.ecsv`.

    Raises `UserError` if the evidence of the calibration is not beside it.
    """
    if calibration.evidence is None:
        raise UserError(
            "the evidence table (NAME.evidence.fits) is not beside the calibration file; keep the two together"
        )
    if "ERR_REFERENCE" not in calibration.evidence.colnames:
        raise UserError(
            "the evidence table beside the calibration file has no column ERR_REFERENCE, it was written by an "
            "earlier version; learn the calibration again"
        )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); give --out another folder") from error
    blocks = _head(calibration)
    pixels = Diagnostics.read(diagnostics) if diagnostics else None
    for name, label in calibration.labels.items():
        rows = calibration.evidence[np.asarray(calibration.evidence["LABEL"]).astype(str) == name]
        blocks.append(_section(calibration, label, rows))
    if pixels is not None:
        blocks += _influence_section(pixels)
    if opinion is not None:
        blocks += _opinion_section(opinion)
        write_table(opinion, folder / "second_opinion.ecsv")
    path = folder / "calibration.html"
    write_page(path, f"Calibration of {calibration.catalog}", blocks)
    return path


def _head(calibration: Calibration) -> list[Block]:
    references = PageTable(
        ("reference", "kind", "stars given", "used", "solar scale"),
        [(r["name"], r["kind"], r["given"], r["used"], r.get("solar_scale") or "") for r in calibration.references],
    )
    lines = []
    for name, label in calibration.labels.items():
        held = [f"{after:.3g} ({before:.3g})" for after, before in label.held_out.values()]
        lines.append((_called(name), sum(s.rows for s in label.sets), f"{label.scatter:.3g}", ", ".join(held),
                      "yes" if label.has_zero_point else "no: differences only"))  # fmt: skip
    overview = PageTable(
        ("label", "rows", "external scatter", "held-out scatter after (before), by set", "zero point known"), lines
    )
    blocks: list[Block] = [
        text(
            f"Learned {calibration.created} with {calibration.software}; checkpoint {calibration.emulator_hash}; "
            f"solar scale {calibration.solar_scale}; identity {calibration.identity}. The bias is raw minus truth and "
            "is subtracted. Every difference below is between our catalogue and a reference."
        ),
        references,
        Heading("All labels"),
        overview,
    ]
    if calibration.skipped:
        blocks += [text("Not calibrated:"), Listing([f"{_called(k)}: {v}" for k, v in calibration.skipped.items()])]
    return blocks


def _symbol(name: str) -> str:
    """A label as people write it: [Mg/Fe] for MG_FE."""
    return PARAMETER_SYMBOLS.get(name, name)


def _called(name: str) -> str:
    """A label as people write it, with its column."""
    return f"{_symbol(name)} ({name})" if name in PARAMETER_SYMBOLS else name


def _section(calibration: Calibration, label: LabelCalibration, rows: Table) -> Details:
    sets = PageTable(
        ("set", "rows", "intrinsic scatter", "discrepant", "their scatter", "held-out scatter", "before"),
        [(s.name, s.rows, f"{s.tau:.3g}", f"{100 * s.discrepant:.0f} %", f"{s.wide:.3g}",
          *(f"{v:.3g}" for v in label.held_out.get(s.name, (np.nan, np.nan)))) for s in label.sets],
    )  # fmt: skip
    shown = {k: v for k, v in label.nuisance.items() if "depletion" not in k}
    nuisance = "; ".join(f"{k} {v:+.3f} ± {e:.3f}" for k, (v, e) in shown.items())
    blocks = [
        sets, text(nuisance),
        text("Ours minus the reference against Teff, log g and [Fe/H]: above before, with the bias that was fitted "
             "(line, band its error; the other two at their median), below after. What is left below should be flat."),
        picture(_trend_figure(calibration, label, rows), DPI),
        text("Each reference set by itself, before and after."),
        picture(_set_figure(rows, label.label), DPI), *_external_section(rows, label),
    ]  # fmt: skip
    return Details(_called(label.label), blocks)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, NDArray[Any]]:
    figure = new_figure(*size)
    return figure, np.atleast_2d(figure.subplots(rows, columns, squeeze=False))


def _thin(n: int) -> NDArray[Any]:
    return np.random.default_rng(0).permutation(n)[:_MAX_POINTS]


def _trend_figure(calibration: Calibration, label: LabelCalibration, rows: Table) -> Figure:
    """Before and after against the three coordinates; the line is the fitted bias at the median of the
    others."""
    figure, axes = _figure(2, 3, (13, 5.6))
    values = [np.asarray(rows[name], dtype=float) for name in AXES]
    single = np.asarray(rows["KIND"]).astype(str) != "pairs"
    place = calibration.calibrated_coordinates(np.column_stack(values))
    bias, _ = label.bias(calibration.basis.design(place))
    before = np.where(single, np.asarray(rows["DATUM"]) - np.asarray(rows["FITTED"]) + bias, np.nan)
    after = np.asarray(rows["DATUM"]) - np.asarray(rows["FITTED"])
    sets = np.asarray(rows["SET"]).astype(str)
    good = np.asarray(rows["GOOD"]) > 0.5
    limit = max(
        4 * robust_scatter(before[single & good]) if (single & good).any() else 0,
        4 * robust_scatter(after[good]),
        1e-3,
    )
    for i, name in enumerate(AXES):
        for j, y in enumerate((before, after)):
            for color, one in enumerate(dict.fromkeys(sets)):
                at = np.flatnonzero((sets == one) & good & np.isfinite(y))
                at = at[_thin(len(at))]
                axes[j, i].plot(values[i][at], y[at], ".", ms=2, color=f"C{color}", label=one)
            axes[j, i].axhline(0, color="k", lw=0.6)
            axes[j, i].set_ylim(-limit, limit)
            axes[j, i].set_xlabel(_AXIS_NAMES[name])
        axis = calibration.basis.axes[i]
        grid = np.tile(np.median(place, axis=0), (100, 1))
        grid[:, i] = np.linspace(axis.lower, axis.upper, 100)
        line, error = label.bias(calibration.basis.design(grid))
        axes[0, i].plot(grid[:, i], line, "k-", lw=1.2)
        axes[0, i].fill_between(grid[:, i], line - error, line + error, color="k", alpha=0.2, lw=0)
    axes[0, 0].set_ylabel(f"{_symbol(label.label)}: before")
    axes[1, 0].set_ylabel("after")
    axes[1, 0].legend(fontsize=7, markerscale=4)
    return figure


def _set_figure(rows: Table, name: str) -> Figure:
    """One panel a set: pair differences in units of their error, members against Teff and logg,
    one-to-one."""
    kinds, sets = np.asarray(rows["KIND"]).astype(str), np.asarray(rows["SET"]).astype(str)
    panels = [(one, kinds[sets == one][0]) for one in dict.fromkeys(sets)]
    count = sum(2 if kind == "cluster" else 1 for _, kind in panels)
    figure, axes = _figure(1, count, (min(4.2 * count, 17), 3.6))
    column = 0
    for one, kind in panels:
        part = rows[sets == one]
        good = np.asarray(part["GOOD"]) > 0.5
        datum, fitted = np.asarray(part["DATUM"], dtype=float), np.asarray(part["FITTED"], dtype=float)
        raw = np.asarray(part["RAW"], dtype=float)
        panel = axes[0, column]
        if kind == "pairs":
            bins = np.linspace(-5, 5, 41)
            error = np.hypot(part["ERR_OURS"], part["ERR_REFERENCE"])
            panel.hist(datum / error, bins, histtype="step", label="before")
            panel.hist((datum - fitted) / error, bins, histtype="step", label="after")
            panel.set_xlabel(f"{one}: difference / error")
            panel.legend(fontsize=7)
        elif kind == "cluster":
            for offset, axis in enumerate(("TEFF", "LOGG")):
                panel = axes[0, column + offset]
                x = np.asarray(part[axis])
                panel.plot(x[good], datum[good], ".", ms=4, label="raw")
                panel.plot(x[~good], datum[~good], "x", ms=4, color="0.6", label="non-member or discrepant")
                panel.plot(x[good], fitted[good], ".", ms=3, color="k", label="model with depletion")
                panel.set_xlabel(f"{one}: {_AXIS_NAMES[axis]}")
            panel.legend(fontsize=7)
            column += 1
        else:
            at = np.flatnonzero(good)[_thin(good.sum())]
            reference = raw[at] - datum[at]
            panel.plot(reference, raw[at], ".", ms=2, label="before")
            panel.plot(reference, raw[at] - fitted[at], ".", ms=2, label="after")
            ends = np.nanpercentile(reference, [0.5, 99.5]) if len(at) else np.array([0, 1])
            panel.plot(ends, ends, "k-", lw=0.8)
            panel.set_xlabel(f"{one}: {_symbol(name)}")
            panel.set_ylabel("ours")
            panel.legend(fontsize=7, markerscale=4)
        column += 1
    return figure


def _external_section(rows: Table, label: LabelCalibration) -> list[Block]:
    """Figure and table of the external error in bins of signal-to-noise, one panel a set."""
    bins = external_errors(rows)
    if not bins:
        return [text(f"External error by SNR: no set has {MIN_ROWS} rows of one signal-to-noise.")]
    table = PageTable(
        ("set", "SNR", "rows", "held-out scatter", "reference's error", "external error", "range",
         "claimed by the fit", "claimed after calibration"),
        [(b.set_name, f"{b.low:g}-{b.high:g}", b.rows, *(f"{v:.3g}" for v in (b.scatter, b.reference, b.external)),
          "{:.3g} to {:.3g}".format(*b.external_range), f"{b.claimed:.3g}",
          f"{np.hypot(b.claimed, label.scatter):.3g}") for b in bins],
    )  # fmt: skip
    said = (
        "Scatter of rows that the fit had not seen, less the reference's own error, for one star; what is claimed "
        f"after calibration contains the external scatter {label.scatter:.3g}."
    )
    return [Heading("External error by SNR", 3), text(said), picture(_external_figure(bins, label), DPI), table]


def _external_figure(bins: list[SnrBin], label: LabelCalibration) -> Figure:
    """Points: external error; lines: the error claimed by the fit and that of the calibrated value."""
    names = list(dict.fromkeys(b.set_name for b in bins))
    figure, axes = _figure(1, len(names), (min(4.2 * len(names), 17), 3.4))
    for panel, name in zip(axes[0], names):
        part = [b for b in bins if b.set_name == name]
        snr, external, claimed = (np.array([getattr(b, key) for b in part]) for key in ("snr", "external", "claimed"))
        low, high = np.array([b.external_range for b in part]).T
        panel.errorbar(snr, external, (external - low, high - external), fmt="o", ms=4, label="external")
        panel.plot(snr, claimed, "k--", lw=1, label="claimed by the fit")
        panel.plot(snr, np.hypot(claimed, label.scatter), "k-", lw=1, label="claimed after calibration")
        panel.set_xscale("log")
        panel.set_xticks(_SNR_TICKS, [f"{tick}" for tick in _SNR_TICKS])
        panel.minorticks_off()
        panel.set_xlim(snr.min() / 1.2, snr.max() * 1.2)
        panel.set_ylim(bottom=0)
        panel.set_xlabel(f"{name}: SNR")
    axes[0, 0].set_ylabel(f"error of {_symbol(label.label)}")
    axes[0, 0].legend(fontsize=7)
    return figure


def _influence_section(found: Diagnostics) -> list[Block]:
    """Mean influence of windows of 20 Angstrom, the strongest windows named."""
    blocks: list[Block] = [
        Heading("Which pixels set the difference"),
        text("Mean over the reference stars of each window's share in the difference fit minus reference; the shares "
             "add up to the difference."),
    ]  # fmt: skip
    centre, total = windows(found.wave, found.mean_influence())
    for i, name in enumerate(found.labels):
        figure, axes = _figure(1, 1, (13, 2.6))
        axes[0, 0].bar(centre, total[:, i], width=20)
        axes[0, 0].set_xlabel("vacuum wavelength (Angstrom)")
        axes[0, 0].set_ylabel(_symbol(name))
        strongest = np.argsort(-np.abs(total[:, i]))[:6]
        rows = [(f"{centre[k]:.0f}", f"{total[k, i]:+.3g}") for k in strongest]
        summary = f"{_called(name)}: {total[:, i].sum():+.3g} in all"
        blocks.append(Details(summary, [picture(figure, DPI), PageTable(("window", "influence"), rows)]))
    return blocks


def _opinion_section(opinion: Table) -> list[Block]:
    """Physics minus data by label, and the stars that differ most."""
    names = np.asarray(opinion["LABEL"]).astype(str)
    usable = (np.asarray(opinion["LUX_FLAG"]) == 0) & np.isfinite(np.asarray(opinion["PULL"]))
    rows = []
    sections: list[Block] = []
    for name in dict.fromkeys(names):
        part = opinion[(names == name) & usable]
        if len(part) == 0:
            rows.append((_called(name), 0, "", "", ""))
            continue
        difference, pull = np.asarray(part["DIFFERENCE"]), np.asarray(part["PULL"])
        rows.append((_called(name), len(part), f"{np.median(difference):+.3g}", f"{robust_scatter(difference):.3g}",
                     f"{robust_scatter(pull):.2f}"))  # fmt: skip
        figure, axes = _figure(1, 1, (6, 3.2))
        at = _thin(len(part))
        axes[0, 0].errorbar(
            part["DATA"][at], difference[at], np.hypot(part["PHYSICS_ERR"], part["DATA_ERR"])[at], fmt=".", ms=3, lw=0.5
        )
        axes[0, 0].axhline(0, color="k", lw=0.6)
        axes[0, 0].set_xlabel(f"{_symbol(name)} from data")
        axes[0, 0].set_ylabel("physics minus data")
        worst = part[np.argsort(-np.abs(pull))[:10]]
        listed = PageTable(
            ("star", "physics", "data", "difference / error"),
            [(row["FILE"], f"{row['PHYSICS']:.4g}", f"{row['DATA']:.4g}", f"{row['PULL']:+.1f}") for row in worst],
        )
        sections.append(Details(_called(name), [picture(figure, DPI), listed]))
    said = (
        "Calibrated labels minus those of a model learned from data, for the stars that the model does not flag; all "
        "of them are in second_opinion.ecsv."
    )
    head = PageTable(("label", "stars", "median difference", "scatter", "scatter / error"), rows)
    return [Heading("Second opinion"), text(said), head, *sections]
