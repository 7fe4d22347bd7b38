"""One self-contained HTML page per star: what was observed, what the model says, and how sure that is."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from phdlspec.columns import PARAMETER_SYMBOLS
from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted, ModelSpectrum
from phdlspec.flags import LabelFlag, label_words, star_words
from phdlspec.labels import ELEMENTS, abundance_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 5
ZOOM_WIDTH = 60.0  # Å
CORNER = ("TEFF", "LOGG", "VMIC", "FE_H", "MG_FE", "C_FE")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ccc}
table{border-collapse:collapse;font-size:.92em}td,th{padding:2px 10px;text-align:right}th{border-bottom:1px solid #999}
td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}tr.poor{color:#999}
img{width:100%}.warn{background:#fff4d6;border-left:4px solid #e0a800;padding:.5em 1em}
.good{background:#e8f5e9;border-left:4px solid #43a047;padding:.5em 1em}
pre{background:#f6f6f6;padding:1em;overflow:auto}code{color:#777;font-size:.9em}
td:last-child{font-size:.85em;max-width:24em}
.star td{font-size:1em;max-width:none;text-align:left;padding-left:0;padding-right:1.5em}
"""
_BY_HEADER = {  # what a survey's file says of a star, as the page calls it
    "DESIG": "designation", "OBJECT": "object", "OBSID": "observation (OBSID)", "GAIA_ID": "Gaia source",
    "SURVEY": "survey", "CLASS": "class of the survey", "SUBCLASS": "subclass of the survey",
}  # fmt: skip


def write_report(result: Fitted, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write the page of one star. The result must have been made with `keep=True`, or have failed."""
    path = Path(path)
    title = result.title
    parts = [f"<h1>{html.escape(title)}</h1>", _star(result), _verdict(result)]
    if result.spectrum is not None:
        parts += [
            "<h2>Spectrum</h2>", _picture(spectrum_figure(result.spectrum)),
            "<p>Grey: observed; red: model with the fitted continuum; shaded: left out (masks); crosses: pixels that "
            "no noise explains. Below each panel: residual in units of the noise.</p>", _bridge(result),
            "<h2>What carries each element</h2>", _picture(zoom_figure(result)),
            "<p>The window that says most about the element, all other labels being free. Orange: the model with the "
            "element changed by 0.2 dex.</p>",
            "<h2>Abundances</h2>", _picture(_abundance_figure(result)),
            "<p>Open symbols: the spectrum says little about the element, the prior sets its error. Dashes: Cramér–Rao "
            "bound, the smallest error that any measurement from this spectrum can have.</p>",
            "<h2>Labels</h2>", _given(result), _label_table(result),
            "<h2>Posterior of the main labels</h2>", _picture(corner_figure(result)),
        ]  # fmt: skip
    parts += ["<h2>How it was made</h2>", _provenance(result, provenance)]
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _star(result: Fitted) -> str:
    """Who the star is, as far as its file says it."""
    meta = result.meta
    rows = [(words, str(meta.get(key) or "").strip()) for key, words in _BY_HEADER.items()]
    rows.append(("position (ICRS)", _position(meta.get("RA"), meta.get("DEC"))))
    rows.append(("file", result.path))
    told = "".join(f"<tr><td>{words}</td><td>{html.escape(text)}</td></tr>" for words, text in rows if text)
    return f"<table class='star'>{told}</table>"


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


def _verdict(result: Fitted) -> str:
    if result.reason:
        return f"<p class='warn'><b>No result.</b> {html.escape(result.reason)}</p>"
    main = ", ".join(
        f"{name} = {result[label]:{form}} ± {result.err[result.names.index(label)]:{form}} {unit}".strip()
        for label, name, form, unit in (
            ("TEFF", "T<sub>eff</sub>", ".0f", "K"), ("LOGG", "log g", ".2f", ""), ("FE_H", "[Fe/H]", ".2f", ""),
            ("RV", "RV", ".1f", "km/s"),
        )
    )  # fmt: skip
    notes = [*star_words(result.flag), *result.meta.get("WARNINGS", ())]
    text = f"<p>{main}. Reduced χ² {result.rchi2:.2f} over {result.npix} pixels, median S/N {result.snr:.0f}.</p>"
    if not notes:
        return text + "<p class='good'>No flags.</p>"
    return text + "<p class='warn'>" + "<br>".join(html.escape(note) for note in notes) + "</p>"


def _bridge(result: Fitted) -> str:
    """What the bridge did, where there is one."""
    s = result.spectrum
    if s is None or s.plain is None:
        return ""
    change = (s.normalised - s.plain)[s.used]
    return (
        f"<p>Blue: the model at these labels without the bridge, what real stars have taught about models; it changes "
        f"the flux by {100 * np.sqrt(np.mean(change**2)):.1f}% of the continuum (rms). For a star of these labels "
        f"{100 * result.diagnostics['bridge_support']:.0f}% of the bridge is known.</p>"
    )


def _given(result: Fitted) -> str:
    """What was given from elsewhere, what the spectrum alone says, and the bounds without."""
    if not result.given:
        return ""
    rows = "".join(
        f"<tr><td>{_both_names(one.name)}</td><td>{one.value:.5g}</td><td>{one.err:.3g}</td><td>{one.alone:.5g}</td>"
        f"<td>{one.alone_err:.3g}</td><td>{one.alone_crlb:.3g}</td><td>{one.sigma:.1f}</td><td>{one.source}</td></tr>"
        for one in result.given
    )
    return (
        "<p>Given from elsewhere (an error of 0: exactly), and what the spectrum alone says:</p>"
        "<table><tr><th>label</th>"
        "<th>given</th><th>error</th><th>spectrum</th><th>error</th><th>bound</th><th>sigma apart</th><th>how</th></tr>"
        f"{rows}</table><p>The bounds below count what was given.</p>"
    )


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # heavy, and not needed with --no-report

    return Figure(figsize=(width, height), layout="constrained")


def _shade(axes: Any, s: ModelSpectrum) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ~s.used & ~s.outlier, [0]])))
    for start, stop in edges.reshape(-1, 2):
        if stop - start > 2:
            axes.axvspan(s.wave[start], s.wave[min(stop, len(s.wave) - 1)], color="0.93", lw=0)


def spectrum_figure(s: ModelSpectrum) -> Figure:
    """Observed spectrum, best model and residuals in units of the noise, in panels along the wavelength."""
    figure = _figure(13, 3.1 * PANELS)
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
    figure = _figure(13, 9)
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
    figure = _figure(13, 3.6)
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
    figure = _figure(9, 9)
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
    return f"{html.escape(PARAMETER_SYMBOLS[name])} <code>{html.escape(name)}</code>"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def _label_table(result: Fitted) -> str:
    rows = []
    for i, row in enumerate(result.labels):
        digits = 0 if row["label"] == "TEFF" else 3
        numbers = "".join(
            f"<td>{_number(float(row[c]), digits)}</td>" for c in ("value", "err", "p16", "p50", "p84", "crlb")
        )
        words = "; ".join(label_words(int(result.label_flag[i])))
        poor = " class='poor'" if result.label_flag[i] & int(LabelFlag.PRIOR_DOMINATED) else ""
        rows.append(
            f"<tr{poor}><td>{_both_names(str(row['label']))}</td>{numbers}<td>{row['unit']}</td><td>{words}</td></tr>"
        )
    names = ("", "value", "error", "p16", "p50", "p84", "bound", "unit", "what its flag says")
    head = "".join(f"<th>{n}</th>" for n in names)
    return (
        f"<table><tr>{head}</tr>{''.join(rows)}</table><p>Value and error: mean and standard deviation of the "
        "posterior; p16, p50, p84: its percentiles. Bound: Cramér–Rao, – where the spectrum says nothing. In "
        "<code>this</code> type: columns of a catalogue. Grey: the prior, not the spectrum, sets the value.</p>"
    )


def _provenance(result: Fitted, provenance: Mapping[str, Any]) -> str:
    lines: Sequence[tuple[str, Any]] = [
        ("mode", result.mode), ("optimiser", result.stop_reason),
        *((name, f"{value:.3g}") for name, value in result.diagnostics.items()),
        *((f"seconds, {name}", f"{value:.2f}") for name, value in result.seconds.items()), *provenance.items(),
    ]  # fmt: skip
    return "<pre>" + html.escape("\n".join(f"{name:24s}{value}" for name, value in lines)) + "</pre>"
