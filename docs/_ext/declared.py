"""Reference pages made from what the package declares, before every build of the site.

Each function gives one page as Markdown; `PAGES` names them. They are written into docs/reference/, which git ignores.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import calibration.correction
import phdlspec
from phdlspec.ages.flags import AGE_WORDS
from phdlspec.aliases import CLUSTERS, DECLINATIONS, IDENTIFIERS, MEMBERSHIPS, RIGHT_ASCENSIONS
from phdlspec.cli import COMMANDS, build_parser
from phdlspec.columns import COLUMNS, ON_REQUEST, QUANTITIES, Column, ColumnRole, calibration_columns
from phdlspec.datadriven.desa.flags import DESA_WORDS
from phdlspec.datadriven.lux.flags import LUX_WORDS
from phdlspec.datadriven.scatter_vae.flags import VAE_WORDS
from phdlspec.fitting.priors import PRIORS
from phdlspec.flags import LABEL_WORDS, NOTES, STAR_WORDS
from phdlspec.labels import ELEMENTS, LABELS, abundance_name
from phdlspec.masks import DEFAULT_INTERVALS
from phdlspec.resolution import DEFAULT_RESOLVING_POWER
from phdlspec.solar import SOLAR_ABUNDANCES, SOLAR_SCALE

_TYPES = {"U": "text", "f4": "float32", "f8": "float64", "i2": "int16", "i4": "int32", "u1": "uint8"}
_ITEM = re.compile(r"[\w, *]+ : ")  # of a section, as `wave : (P,) Å`
_CONSTANTS = {
    "LABELS": ("Labels", "labels.md"), "PRIORS": ("Priors", "priors.md"), "DEFAULT_INTERVALS": ("Masks", "masks.md"),
}  # fmt: skip
_EXAMPLE = "MG_FE"  # stands for all abundances

_FORMATS = {
    "Spectra that are read": ("phdlspec.io.lamost", "phdlspec.io.sdss", "phdlspec.io.desi", "phdlspec.io.table"),
    "Many spectra in one file": ("phdlspec.catalog.inputs",),
    "Model spectra of `phdlspec emulate`": ("phdlspec.io.model_spectra",),
    "A fit": ("phdlspec.products:write_ecsv", "phdlspec.products:write_hdf5"),
    "A catalogue in the making": ("phdlspec.catalog.store",),
    "References for a calibration": ("calibration.references", "calibration.surveys"),
    "A calibration": ("calibration.store",),
    "Grids": ("phdlspec.gridfile.layout", "phdlspec.gridfile.parts"),
    "Checkpoints": ("phdlspec.emulator.checkpoint",),
}


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def labels() -> str:
    """The labels with units and ranges."""
    rows = [(f"`{x.name}`", x.symbol, x.unit, f"{x.lower:g}", f"{x.upper:g}", x.description) for x in LABELS]
    sun = ", ".join(f"{element} {value:.2f}" for element, value in SOLAR_ABUNDANCES.items())
    return (
        "# Labels\n\nWhat a fit determines of a star, beside its radial velocity and a factor on the resolving power.\n"
        "Wherever a label is named, another usual spelling does as well: `Teff`, `[Mg/Fe]`, `mgfe`.\n\n"
        + _table(("label", "as written", "unit", "from", "to", "meaning"), rows)
        + f"\nThe solar scale is {SOLAR_SCALE}, A(X) = log N(X)/N(H) + 12: {sun}.\n"
    )


def flags() -> str:
    """All flags, bit by bit."""
    stars = [(int(b), f"`{b.name}`", w, "a note" if b & NOTES else "") for b, w in STAR_WORDS.items()]
    text = (
        "# Flags\n\nA flag is a sum of bits; 0 is good. `phdlspec.StarFlag` and `phdlspec.LabelFlag` are the same in "
        "Python. A star whose only bits are *notes* may be used: pages, calibrations and ages keep it.\n\n"
        "## Of a star\n\nColumn `FLAG` of a catalogue, `flag` of a fit.\n\n"
        + _table(("bit", "name", "meaning", ""), stars)
        + "\n## Of a label\n\nColumns `<LABEL>_FLAG`, column `flag` of a fit.\n\n"
        + _table(("bit", "name", "meaning"), [(int(b), f"`{b.name}`", w) for b, w in LABEL_WORDS.items()])
    )
    for title, column, words in (
        ("Of an age", "AGE_FLAG", AGE_WORDS), ("Of labels from data (Lux)", "FLAG", LUX_WORDS),
        ("Of a strange spectrum (ScatterVAE)", "FLAG", VAE_WORDS), ("Of an embedding (DESA)", "FLAG", DESA_WORDS),
    ):  # fmt: skip
        rows = [(int(b), f"`{b.name}`", w) for b, w in words.items()]
        text += f"\n## {title}\n\nColumn `{column}`.\n\n" + _table(("bit", "name", "meaning"), rows)
    docstring = inspect.getdoc(calibration.correction) or ""
    return text + f"\n## Of a calibration\n\nColumns `<LABEL>_CALFLAG`.\n\n```text\n{docstring}\n```\n"


def columns() -> str:
    """Columns of catalogues and of the table of one star."""
    of_star = [(f"`{q.name}`", q.comment) for q in QUANTITIES]
    return (
        "# Columns\n\n## Of a catalogue\n\n" + _catalogue_columns() + "\n## Of the table of one star\n\n"
        "One row a label: `label`, and\n\n" + _table(("column", "meaning"), of_star) + "\nand `unit`.\n"
    )


def _catalogue_columns() -> str:
    """One line a column of the star, of RV, a label that is no abundance and one abundance for all."""
    others = [name for name in map(abundance_name, ELEMENTS) if name != _EXAMPLE]
    rows: list[Sequence[object]] = []
    for column in COLUMNS:
        if column.parameter not in others:
            rows.append(_column(column))
        if column.parameter == _EXAMPLE and column.role is ColumnRole.FLAG:
            rows.append(("…", "", "", "the same for " + ", ".join(f"`{name}`" for name in others)))
    head = ("column", "unit", "type", "comment")
    return (
        _table(head, rows)
        + "\nOn request (`--columns NAME …`, in Python `fit_many(..., columns=[...])`):\n\n"
        + _table(("name", "columns"), [(f"`{name}`", words) for name, words in ON_REQUEST.items()])
        + "\nA calibration adds, for each label that it knows:\n\n"
        + _table(head, map(_column, calibration_columns(_EXAMPLE).values()))
    )


def _column(column: Column) -> Sequence[object]:
    return f"`{column.name}`", column.unit, _TYPES[column.dtype], column.comment


def names() -> str:
    """By which names columns of other people's tables are found."""
    groups = {
        "identifiers": IDENTIFIERS, "right ascension": RIGHT_ASCENSIONS, "declination": DECLINATIONS,
        "name of the cluster": CLUSTERS, "probability of membership": MEMBERSHIPS,
    }  # fmt: skip
    rows = [(what, ", ".join(f"`{name}`" for name in found)) for what, found in groups.items()]
    docstring = inspect.getdoc(importlib.import_module("phdlspec.aliases")) or ""
    return (
        f"# Names of columns\n\n{docstring}\n\nCapitals do not matter. Errors are found as `X_ERR`, `e_X`, `X_ERROR`, "
        "`S_X`, `sigma_X` and the like. What none of this finds, `--rename OLD=NEW` does.\n\n"
        + _table(("what", "names, the first that is there counts"), rows)
    )


def masks() -> str:
    """Wavelengths that are left out."""
    rows = [
        (f"`{m.name}`", f"{m.low:.1f}", f"{m.high:.1f}", m.frame, m.survey or "all", m.reason)
        for m in DEFAULT_INTERVALS
    ]
    return (
        "# Masks\n\nIntervals in vacuum Å that no stellar model explains. `--mask-off NAME` switches a group off, "
        "`--mask-file TABLE` (columns `low`, `high`, optional `name`, `frame`) adds some; in Python "
        "`fit(..., masks=[*phdlspec.DEFAULT_INTERVALS, (3700, 4100)])` and `phdlspec.mask_table`.\n\n"
        + _table(("group", "from", "to", "frame", "survey", "why"), rows)
    )


def priors() -> str:
    """Priors that can be asked for."""
    return (
        "# Priors\n\nWithout a prior every label is flat between its bounds. `--prior NAME` (more than once, if you "
        'like) or `fit(..., priors=("vmic", "alpha"))` adds\n\n'
        + _table(("name", "what it says"), [(f"`{p.name}`", p.description) for p in PRIORS.values()])
    )


def resolving_powers() -> str:
    """Typical resolving powers by survey."""
    rows = [(survey, f"{wave:.0f}", f"{power:.0f}") for survey, nodes in DEFAULT_RESOLVING_POWER.items()
            for wave, power in nodes]  # fmt: skip
    docstring = inspect.getdoc(importlib.import_module("phdlspec.resolution")) or ""
    return f"# Resolving powers\n\n{docstring}\n\n" + _table(("survey", "Å, vacuum", "R"), rows)


def formats() -> str:
    """File formats, from the modules that read and write them."""
    text = "# File formats\n\n`phdlspec info FILE` says what a file is and what made it.\n"
    for title, sources in _FORMATS.items():
        text += f"\n## {title}\n"
        for source in sources:
            module, _, name = source.partition(":")
            found: Any = importlib.import_module(module)
            text += f"\n````text\n{inspect.getdoc(getattr(found, name) if name else found)}\n````\n"
    return text


def commands() -> str:
    """Every command's help."""
    text = "# Commands\n"
    for name in COMMANDS:
        parser = build_parser(name)
        choices = next(a.choices for a in parser._actions if a.dest == "command")  # type: ignore[union-attr]
        text += f"\n## phdlspec {name}\n\n````text\n{choices[name].format_help()}````\n"
        actions = next((a.choices for a in choices[name]._actions if a.dest == "action"), None)
        for action, sub in (actions or {}).items():
            text += f"\n### phdlspec {name} {action}\n\n````text\n{sub.format_help()}````\n"
    return text


def api() -> str:
    """Every public name of the three packages."""
    text = "# Python\n\nEverything here is at the top of its package, as `phdlspec.fit`. Mistakes of input raise "
    text += "`phdlspec.UserError` with one sentence. Every example is run by the tests.\n"
    for package in ("phdlspec", "calibration", "kurucz_grids"):
        module = importlib.import_module(package)
        text += f"\n## {package}\n\n```{{eval-rst}}\n{inspect.getdoc(module)}\n```\n\n"
        for name in sorted(set(module.__all__) - {"__version__"}):
            text += f"\n### {package}.{name}\n\n" + _documented(package, name, getattr(module, name))
    return text


def _documented(package: str, name: str, found: Any) -> str:
    if inspect.isclass(found):
        directive = "autoexception" if issubclass(found, Exception) else "autoclass"
    elif callable(found):
        directive = "autofunction"
    elif inspect.ismodule(found):
        return f"```{{eval-rst}}\n{inspect.getdoc(found)}\n```\n"
    else:
        title, page = _CONSTANTS[name]
        return f"A {type(found).__name__} of {len(found)}: [{title}]({page}).\n"
    return f"```{{eval-rst}}\n.. {directive}:: {package}.{name}\n```\n"


def index() -> str:
    """The list of these pages."""
    pages = "\n".join(name for name in PAGES if name != "index")
    return f"# Look up\n\n```{{toctree}}\n:maxdepth: 1\n\n{pages}\n../model_card\n```\n"


PAGES: dict[str, Callable[[], str]] = {
    "index": index, "commands": commands, "api": api, "labels": labels, "columns": columns, "flags": flags,
    "names": names, "masks": masks, "priors": priors, "resolving_powers": resolving_powers, "formats": formats,
}  # fmt: skip


def write_pages(folder: Path) -> None:
    """Write all pages into a folder; those that are the same already are left alone, so that nothing is built anew."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / f"{name}.md", page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _end_of_sections(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Two blank lines where a paragraph follows a section (Parameters ...): what napoleon takes for its end."""
    for i in reversed(range(1, len(lines) - 2)):
        begins = lines[i] == "" and lines[i + 1][:1].strip()
        if begins and not _ITEM.match(lines[i + 1]) and not lines[i + 2].startswith("---"):
            lines.insert(i, "")


def setup(app: Any) -> dict[str, Any]:
    """The extension of Sphinx."""
    app.connect("autodoc-process-docstring", _end_of_sections, priority=400)  # before napoleon reads them
    app.connect("config-inited", lambda application, config: write_pages(Path(application.srcdir) / "reference"))
    return {"version": phdlspec.__version__, "parallel_read_safe": True}
