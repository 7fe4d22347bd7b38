"""One self-contained HTML page per star: what was observed, what the model says, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from phdlspec.columns import PARAMETER_SYMBOLS
from phdlspec.fitting.result import Fitted, ModelSpectrum
from phdlspec.flags import LabelFlag, label_words, star_words
from phdlspec.labels import ELEMENTS, abundance_name
from phdlspec.pages import Block, Code, Heading, PageTable, new_figure, picture, text, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 5
DPI = 110
ZOOM_WIDTH = 60.0  # Å
CORNER = ("TEFF", "LOGG", "VMIC", "FE_H", "MG_FE", "C_FE")
_BY_HEADER = {  # what a survey's file says of a star, as the page calls it
    "DESIG": "designation", "OBJECT": "object", "OBSID": "observation (OBSID)", "GAIA_ID": "Gaia source",
    "SURVEY": "survey", "CLASS": "class of the survey", "SUBCLASS": "subclass of the survey",
}  # fmt: skip


def write_report(result: Fitted, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write the page of one star. The result must have been made with `keep=True`, or have failed."""
    blocks = [_star(result), *_verdict(result)]
    if result.spectrum is not None:
        blocks += [
            Heading("Spectrum"), picture(spectrum_figure(result.spectrum), DPI),
            text("Grey: observed; red: model with the fitted continuum; shaded: left out (masks); crosses: pixels that "
                 "no noise explains. Below each panel: residual in units of the noise."),
            *_bridge(result),
            Heading("What carries each element"), picture(zoom_figure(result), DPI),
            text("The window that says most about the element, all other labels being free. Orange: the model with the "
                 "element changed by 0.2 dex."),
            Heading("Abundances"), picture(_abundance_figure(result), DPI),
            text("Open symbols: the spectrum says little about the element, the prior sets its error. Dashes: "
                 "Cramér–Rao bound, the smallest error that any measurement from this spectrum can have."),
            Heading("Labels"), *_given(result), *_label_table(result),
            Heading("Posterior of the main labels"), picture(corner_figure(result), DPI),
        ]  # fmt: skip
    write_page(path, result.title, [*blocks, Heading("How it was made"), _provenance(result, provenance)])


def _star(result: Fitted) -> Block:
    """Who the star is, as far as its file says it."""
    meta = result.meta
    rows = [(words, str(meta.get(key) or "").strip()) for key, words in _BY_HEADER.items()]
    rows.append(("position (ICRS)", _position(meta.get("RA"), meta.get("DEC"))))
    rows.append(("file", result.path))
    return PageTable((), [row for row in rows if row[1]])


def _position(ra: Any, dec: Any) -> str:
    """Right ascension and declination (deg) in degrees and as astronomers write them; "" where they are none."""
    try:
        place = SkyCoord(float(ra) * u.deg, float(dec) * u.deg)
    except (TypeError, ValueError):
        return ""
    if not np.isfinite(place.ra.deg + place.dec.deg):
        return ""
    sexagesimal = place.to_string("hmsdms", sep=":", precision=1)
    return f"{place.ra.deg:.5f}° {place.dec.deg:+.5f}° ({sexagesimal})"


def _verdict(result: Fitted) -> list[Block]:
    if result.reason:
        return [text(result.reason, mood="warn", strong="No result.")]
    main = ", ".join(
        f"{name} = {result[label]:{form}} ± {result.err[result.names.index(label)]:{form}} {unit}".strip()
        for label, name, form, unit in (
            ("TEFF", "Teff", ".0f", "K"), ("LOGG", "log g", ".2f", ""), ("FE_H", "[Fe/H]", ".2f", ""),
            ("RV", "RV", ".1f", "km/s"),
        )
    )  # fmt: skip
    notes = [*star_words(result.flag), *map(str, result.meta.get("WARNINGS", ()))]
    return [
        text(f"{main}. Reduced χ² {result.rchi2:.2f} over {result.npix} pixels, median S/N {result.snr:.0f}."),
        text(*notes, mood="warn") if notes else text("No flags.", mood="good"),
    ]


def _bridge(result: Fitted) -> list[Block]:
    """What the bridge did, where there is one."""
    s = result.spectrum
    if s is None or s.plain is None:
        return []
    change = (s.normalised - s.plain)[s.used]
    return [text(
        "Blue: the model at these labels without the bridge, what real stars have taught about models; it changes the "
        f"flux by {100 * np.sqrt(np.mean(change**2)):.1f}% of the continuum (rms). For a star of these labels "
        f"{100 * result.diagnostics['bridge_support']:.0f}% of the bridge is known."
    )]  # fmt: skip


def _given(result: Fitted) -> list[Block]:
    """What was given from elsewhere, what the spectrum alone says, and the bounds without."""
    if not result.given:
        return []
    head = ("label", "given", "error", "spectrum", "error", "bound", "sigma apart", "how")
    rows = [
        (_both_names(one.name), f"{one.value:.5g}", f"{one.err:.3g}", f"{one.alone:.5g}", f"{one.alone_err:.3g}",
         f"{one.alone_crlb:.3g}", f"{one.sigma:.1f}", one.source)
        for one in result.given
    ]  # fmt: skip
    return [
        text("Given from elsewhere (an error of 0: exactly), and what the spectrum alone says:"), PageTable(head, rows),
        text("The bounds below count what was given."),
    ]  # fmt: skip


def _shade(axes: Any, s: ModelSpectrum) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ~s.used & ~s.outlier, [0]])))
    for start, stop in edges.reshape(-1, 2):
        if stop - start > 2:
            axes.axvspan(s.wave[start], s.wave[min(stop, len(s.wave) - 1)], color="0.93", lw=0)


def spectrum_figure(s: ModelSpectrum) -> Figure:
    """Observed spectrum, best model and residuals in units of the noise, in panels along the wavelength."""
    figure = new_figure(13, 3.1 * PANELS)
    wave = s.wave[s.used]
    edges = np.geomspace(wave[0], wave[-1] + 1e-6, PANELS + 1)
    grid = figure.add_gridspec(2 * PANELS, 1, height_ratios=[3, 1] * PANELS)
    for i in range(PANELS):
        inside = (s.wave >= edges[i]) & (s.wave <= edges[i + 1])
        top = figure.add_subplot(grid[2 * i])
        bottom = figure.add_subplot(grid[2 * i + 1], sharex=top)
        with np.errstate(all="ignore"):
            observed = s.flux / s.continuum
        top.step(s.wave[inside], observed[inside], where="mid", color="0.55", lw=0.8)
        if s.plain is not None:
            top.plot(s.wave[inside], s.plain[inside], color="tab:blue", lw=0.7, alpha=0.7)
        top.plot(s.wave[inside], s.normalised[inside], color="tab:red", lw=0.9)
        out = inside & s.outlier
        top.plot(s.wave[out], observed[out], "x", color="tab:blue", ms=5)
        low = np.nanmin(s.normalised[inside])
        top.set_ylim(min(low, 0.8) - 0.1, 1.15)
        top.tick_params(labelbottom=False)
        top.set_title(f"{edges[i]:.0f}–{edges[i + 1]:.0f} Å", fontsize=9, loc="left")
        used = inside & s.used
        bottom.plot(s.wave[used], ((s.flux - s.model) / s.sigma)[used], ".", ms=1.5, color="0.3")
        bottom.axhline(0, color="tab:red", lw=0.6)
        bottom.set_ylim(-6, 6)
        bottom.set_xlim(edges[i], edges[i + 1])
        for axes in (top, bottom):
            _shade(axes, s)
    figure.supylabel("flux / continuum; residual / σ")
    bottom.set_xlabel("wavelength in vacuum (Å)")
    return figure


def _element_window(result: Fitted, column: int, weight: np.ndarray) -> float:
    # Centre of the window that says most about the label once all others are free: the share of each pixel in the
    # label's estimator, (C J^T)_p J_p / sigma_p^2. Where another label could do the same, it is small.
    s = result.spectrum
    assert s is not None
    response = s.jacobian * weight[:, None]
    share = np.where(s.used, (response @ result.cov[:, column]) * response[:, column], 0.0)
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    right = np.searchsorted(s.wave, s.wave + ZOOM_WIDTH)
    return float(s.wave[np.argmax(cumulative[right] - cumulative[:-1])] + 0.5 * ZOOM_WIDTH)


def zoom_figure(result: Fitted) -> Figure:
    """The window that says most about each of the 16 best measured elements; orange: it is changed by 0.2 dex.

    The result must have been made with `keep`.
    """
    s = result.spectrum
    assert s is not None
    with np.errstate(all="ignore"):
        weight = np.nan_to_num(s.continuum / s.sigma)
        observed = s.flux / s.continuum
    order = [abundance_name(element) for element in ELEMENTS]
    order.sort(key=lambda n: float(result.crlb[result.names.index(n)]))
    chosen = order[:16]
    figure = new_figure(13, 9)
    for position, name in enumerate(chosen):
        column = result.names.index(name)
        centre = _element_window(result, column, weight)
        inside = np.abs(s.wave - centre) < 0.5 * ZOOM_WIDTH
        axes = figure.add_subplot(4, 4, position + 1)
        axes.step(s.wave[inside], observed[inside], where="mid", color="0.55", lw=0.9)
        for sign in (-1, 1):
            changed = s.normalised[inside] + 0.2 * sign * s.jacobian[inside, column]
            axes.plot(s.wave[inside], changed, color="tab:orange", lw=0.8)
        axes.plot(s.wave[inside], s.normalised[inside], color="tab:red", lw=1.0)
        _shade(axes, s)
        axes.set_xlim(centre - 0.5 * ZOOM_WIDTH, centre + 0.5 * ZOOM_WIDTH)
        error = result.err[column]
        axes.set_title(f"{PARAMETER_SYMBOLS[name]} = {result.value[column]:+.2f} ± {error:.2f}", fontsize=9)
        axes.tick_params(labelsize=7)
    return figure


def _abundance_figure(result: Fitted) -> Figure:
    figure = new_figure(13, 3.6)
    axes = figure.add_subplot()
    index = [result.names.index(abundance_name(e)) for e in ELEMENTS]
    value, err, crlb = (x[index] for x in (result.value, result.err, result.crlb))
    poor = (result.label_flag[index] & int(LabelFlag.PRIOR_DOMINATED)) > 0
    x = np.arange(len(ELEMENTS))
    for mask, fill in ((~poor, "tab:red"), (poor, "white")):
        axes.errorbar(x[mask], value[mask], err[mask], fmt="o", color="tab:red", mfc=fill, capsize=2,
                      alpha=1.0 if fill != "white" else 0.35)  # fmt: skip
    shown = np.minimum(crlb, 0.9)
    axes.hlines(value - shown, x - 0.25, x + 0.25, color="0.4", lw=0.8)
    axes.hlines(value + shown, x - 0.25, x + 0.25, color="0.4", lw=0.8)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xticks(x, ELEMENTS)
    axes.set_ylim(-0.9, 0.9)
    axes.set_ylabel("[X/Fe]")
    return figure


def corner_figure(result: Fitted, names: Sequence[str] = CORNER) -> Figure:
    """Draws from the posterior of some parameters against each other. The result must have been made with `keep`."""
    draws = result.draws
    assert draws is not None
    columns = [draws[:, result.names.index(n)] for n in names]
    figure = new_figure(9, 9)
    size = len(names)
    for i in range(size):
        for j in range(i + 1):
            axes = figure.add_subplot(size, size, i * size + j + 1)
            if i == j:
                axes.hist(columns[i], bins=25, color="0.6")
                axes.set_yticks([])
            else:
                axes.plot(columns[j], columns[i], ".", ms=2, color="0.3", alpha=0.5)
            axes.tick_params(labelsize=7, labelbottom=i == size - 1, labelleft=j == 0 and i > 0)
            axes.locator_params(axis="x", nbins=3)  # more would overlap
            axes.tick_params(axis="x", labelrotation=30)
            if i == size - 1:
                axes.set_xlabel(PARAMETER_SYMBOLS[names[j]], fontsize=9)
            if j == 0 and i > 0:
                axes.set_ylabel(PARAMETER_SYMBOLS[names[i]], fontsize=9)
    return figure


def _both_names(name: str) -> str:
    """A parameter as people write it, and its column."""
    return f"{PARAMETER_SYMBOLS[name]}  {name}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def _label_table(result: Fitted) -> list[Block]:
    rows, poor = [], set()
    for i, row in enumerate(result.labels):
        digits = 0 if row["label"] == "TEFF" else 3
        numbers = (_number(float(row[c]), digits) for c in ("value", "err", "p16", "p50", "p84", "crlb"))
        words = "; ".join(label_words(int(result.label_flag[i])))
        if result.label_flag[i] & int(LabelFlag.PRIOR_DOMINATED):
            poor.add(i)
        rows.append((_both_names(str(row["label"])), *numbers, row["unit"], words))
    head = ("", "value", "error", "p16", "p50", "p84", "bound", "unit", "what its flag says")
    said = (
        "Value and error: mean and standard deviation of the posterior; p16, p50, p84: its percentiles. Bound: "
        "Cramér–Rao, – where the spectrum says nothing. In capitals: columns of a catalogue. Grey: the prior, not the "
        "spectrum, sets the value."
    )
    return [PageTable(head, rows, poor), text(said)]


def _provenance(result: Fitted, provenance: Mapping[str, Any]) -> Code:
    lines: Sequence[tuple[str, Any]] = [
        ("mode", result.mode), ("optimiser", result.stop_reason),
        *((name, f"{value:.3g}") for name, value in result.diagnostics.items()),
        *((f"seconds, {name}", f"{value:.2f}") for name, value in result.seconds.items()), *provenance.items(),
    ]  # fmt: skip
    return Code("\n".join(f"{name:24s}{value}" for name, value in lines))
