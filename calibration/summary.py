"""What was learned, in the few lines that a person wants to see when it is done."""

from __future__ import annotations

from calibration.store import Calibration
from phdlspec.columns import PARAMETER_SYMBOLS

_HEAD = f"  {'label':12s}{'reference':20s}{'rows':>6s}{'scatter raw':>13s}{'calibrated':>12s}{'zero point':>20s}"


def summary(calibration: Calibration) -> str:
    """By label and reference: rows, robust scatter of held-out rows before and after, the zero point of the set."""
    lines = [f"  {t['name']}: {t['used']} of {t['given']} {_KINDS[t['kind']]} used" for t in calibration.references]
    lines.append(_HEAD)
    for name, label in calibration.labels.items():
        digits = 0 if name == "TEFF" else 3
        for found in label.sets:
            after, before = label.held_out.get(found.name, (float("nan"), float("nan")))
            offset = label.nuisance.get(f"{found.name}: zero point")
            told = f"{offset[0]:+.{digits}f} ± {offset[1]:.{digits}f}" if offset else ""
            lines.append(
                f"  {PARAMETER_SYMBOLS[name]:12s}{found.name[:19]:20s}{found.rows:6d}{before:13.{digits}f}"
                f"{after:12.{digits}f}{told:>20s}"
            )
    return "\n".join(lines)


_KINDS = {"pairs": "pairs", "cluster": "members", "labels": "stars"}
