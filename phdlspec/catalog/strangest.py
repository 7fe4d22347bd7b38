"""The strangest spectra of a catalogue, for its quality page."""

from __future__ import annotations

import html

import numpy as np
from astropy.table import Table

SHOWN = 10


def strangest_section(table: Table) -> str:
    """The ten spectra that are least like others, with the windows that deviate most; empty where none was judged."""
    score = np.asarray(table["ANOMALY"], dtype=float) if "ANOMALY" in table.colnames else np.empty(0)
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:SHOWN]
    order = order[np.isfinite(score[order])]
    if not len(order):
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(str(table['FILE'][i]))}</td><td>{table['SNR'][i]:.0f}</td><td>{score[i]:.2f}</td>"
        f"<td>{table['ANOMALY_PCT'][i]:.1f}</td><td>{html.escape(str(table['ANOMALY_IN'][i]))}</td></tr>"
        for i in order
    )
    return (
        "<h2>The strangest spectra</h2><p>The score is -log10 of the probability of the strangest sign among ordinary "
        "stars; + is light that no star like this one has.</p><table><tr><th>file</th><th>S/N</th><th>score</th>"
        f"<th>stranger than, %</th><th>sign: worst windows (sigma)</th></tr>{rows}</table>"
    )
