"""A picture of the packages, drawn from the code: who imports whom, by layer.

  python scripts/package_picture.py --out docs/figures/packages.svg

The layers are those that `lint-imports` holds (setup.cfg); an arrow goes from a module or package to one that it
imports. Every arrow of phdlspec points downwards, or CI fails.
"""

from __future__ import annotations

import argparse
import configparser
from pathlib import Path

import grimp
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("phdlspec", "kurucz_grids", "calibration")
WIDTH = 16.0
COLOURS = {"phdlspec": "#dce9f7", "kurucz_grids": "#fde7d3", "calibration": "#e2f3df"}

Place = tuple[float, float]


def layers() -> list[list[str]]:
    """The layers of phdlspec from the top, as the contract has them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip() for name in line.split("|")] for line in lines if line.strip()]


def part(module: str) -> str:
    """The box that a module belongs to: phdlspec's modules and packages, the two other packages whole."""
    names = module.split(".")
    return names[1] if names[0] == "phdlspec" and len(names) > 1 else names[0]


def arrows(graph: grimp.ImportGraph) -> dict[tuple[str, str], int]:
    """Number of imports between boxes."""
    found: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = part(module), part(imported)
            if ends[0] != ends[1] and "phdlspec" not in ends:
                found[ends] = found.get(ends, 0) + 1
    return found


def places() -> dict[str, Place]:
    """Where the boxes stand: the layers below each other, the two other packages beside them."""
    found = {}
    rows = layers()
    for y, row in enumerate(rows):
        for x, name in enumerate(row):
            found[name] = (WIDTH * (x + 1.0) / (len(row) + 1.0), float(len(rows) - y))
    middle = 0.55 * len(rows)
    return found | {"kurucz_grids": (-2.4, middle), "calibration": (WIDTH + 2.4, middle)}


def draw(axes: Axes, graph: grimp.ImportGraph) -> None:
    """Boxes and arrows."""
    at = places()
    for (one, other), count in sorted(arrows(graph).items()):
        axes.annotate("", at[other], at[one], arrowprops={
            "arrowstyle": "-|>", "color": "0.35", "alpha": min(0.15 + 0.05 * count, 0.8), "lw": 0.5 + 0.06 * count,
            "shrinkA": 12, "shrinkB": 12, "connectionstyle": "arc3,rad=0.06",
        })  # fmt: skip
    for name, (x, y) in at.items():
        colour = COLOURS.get(name, COLOURS["phdlspec"])
        axes.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3,
                  bbox={"boxstyle": "round,pad=0.35", "fc": colour, "ec": "0.4", "lw": 0.7})  # fmt: skip
    axes.set(xlim=(-4.2, WIDTH + 4.2), ylim=(0.3, max(y for _, y in at.values()) + 0.7))
    axes.axis("off")


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "packages.svg")
    out = parser.parse_args().out
    figure = Figure(figsize=(13, 10), layout="constrained")
    draw(figure.add_subplot(), grimp.build_graph(*PACKAGES))
    with rc_context({"svg.hashsalt": "packages"}):  # the same code gives the same file
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    print(out)


if __name__ == "__main__":
    main()
