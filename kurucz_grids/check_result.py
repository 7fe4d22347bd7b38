"""The result of one check of a grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """One check: its name, level ("ok", "warning" or "error") and a sentence with figures."""

    check: str
    level: str
    text: str

    @classmethod
    def of_rows(cls, check: str, rows: list[int], wrong: str, right: str) -> CheckResult:
        """An error that names the rows, or, if there are none, that it is right."""
        if not rows:
            return cls(check, "ok", right)
        return cls(check, "error", f"{len(rows)} rows {wrong}: {', '.join(map(str, rows[:8]))}")
