"""Errors of interpolated and of extended atmospheres.

    python scripts/atmosphere_interpolation_error.py ck03_odfnew_grid.npz [--metal-poor kurucz1993_metal_poor.npz]

Interpolation: every model is interpolated from the others of its line along Teff, log g or [M/H] without those of its
own plane. The spacing is then twice that of the grid (in the lines of Teff and log g: of every second plane), so that
the error in use is several times smaller. Extension: the grid is cut, extended and compared with what was cut off.
Prints tables in Markdown: temperature over log tau(Rosseland) of -4 to 0 and 0 to 1, gas pressure over -4 to 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from kurucz_grids.atmosphere_extension import extended, with_fewer_metals, with_higher_gravity
from kurucz_grids.atmosphere_grid import AXES, AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from phdlspec.errors import UserError

LINES, DEEP = np.linspace(-4.0, 0.0, 33), np.linspace(0.0, 1.0, 9)
CLASSES = (("below 4250 K", 3500.0), ("4250-4750 K", 4250.0), ("4750-5500 K", 4750.0), ("5500-6500 K", 5500.0),
           ("6500-8000 K", 6500.0))  # fmt: skip
HOTTEST = 8000.0


def subset(grid: AtmosphereGrid, keep: np.ndarray) -> AtmosphereGrid:
    """The models of a grid where `keep` (N,) is true."""
    return AtmosphereGrid(grid.params[keep], grid.structure[keep], grid.titles[keep], grid.source)


def errors(ours: Atmosphere, truth: Atmosphere) -> tuple[float, float, float]:
    """Rms of T (K) over `LINES` and over `DEEP`, of ln P over `LINES`."""

    def at(model: Atmosphere, name: str, depth: np.ndarray) -> np.ndarray:
        return np.interp(depth, np.log10(model.tau_rosseland), getattr(model, name))

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(x**2)))

    lines, deep = (at(ours, "temperature", d) - at(truth, "temperature", d) for d in (LINES, DEEP))
    return rms(lines), rms(deep), rms(np.log(at(ours, "gas_pressure", LINES) / at(truth, "gas_pressure", LINES)))


def left_out(grid: AtmosphereGrid, axis: int) -> Iterator[tuple[np.ndarray, tuple[float, float, float]]]:
    """Parameters and errors of models interpolated without their plane, where two others lie on either side."""
    for x in grid.axes[axis][2:-2]:
        others = subset(grid, grid.params[:, axis] != x)
        for row in np.flatnonzero((grid.params[:, axis] == x) & (grid.params[:, 0] <= HOTTEST)):
            try:
                yield grid.params[row], errors(others.interpolate(*grid.params[row, :3]), grid.model(int(row)))
            except UserError:  # at the ragged edge
                continue


def cut(
    grid: AtmosphereGrid, gone: np.ndarray, extend: Callable[[AtmosphereGrid], AtmosphereGrid], at: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple[float, float, float]]]:
    """Parameters and errors of the models `at` of a grid, in what is extended from the grid without those `gone`."""
    again = extend(subset(grid, ~gone))
    for row in np.flatnonzero(at & (grid.params[:, 0] <= HOTTEST)):
        if again.contains(*grid.params[row, :3]):
            yield grid.params[row], errors(again.interpolate(*grid.params[row, :3]), grid.model(int(row)))


def table(name: str, found: Iterator[tuple[np.ndarray, tuple[float, float, float]]]) -> None:
    """Rows of the table: median and 95% of the rms values, by class of star."""
    params, rms = (np.array(x) for x in zip(*found))
    for giant in (True, False):
        for (label, low), (_, high) in zip(CLASSES, (*CLASSES[1:], ("", HOTTEST + 1.0))):
            mine = (params[:, 0] >= low) & (params[:, 0] < high) & ((params[:, 1] < 3.5) == giant)
            if mine.sum() < 3:
                continue
            forms = zip(rms[mine].T, (".1f", ".1f", ".3f"))
            t, deep, p = (f"{np.median(x):{form}}, {np.percentile(x, 95):{form}}" for x, form in forms)
            print(f"| {name} | {'giants' if giant else 'dwarfs'} {label} | {mine.sum()} | {t} | {deep} | {p} |")


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atmospheres")
    parser.add_argument("--metal-poor")
    args = parser.parse_args()
    grid = AtmosphereGrid.load(args.atmospheres)
    metal_poor = AtmosphereGrid.load(args.metal_poor) if args.metal_poor else None
    whole = extended(grid, metal_poor)
    head = (
        "| {} | stars | models | T (K), log tau -4 to 0: median, 95% | T (K), 0 to 1 | ln P, -4 to 0 |\n"
        "|---|---|---|---|---|---|"
    )
    print(head.format("plane left out"))
    for axis, name in enumerate(AXES):
        if name == "mh":
            table("mh 0, as computed", ((p, e) for p, e in left_out(grid, axis) if p[2] == 0.0))
            table("mh 0, one microturbulence", ((p, e) for p, e in left_out(whole, axis) if p[2] == 0.0))
        table(name, left_out(whole, axis))
    print("\n" + head.format("extended to"))
    logg, mh = grid.params[:, 1], grid.params[:, 2]
    highest, lowest = grid.axes[1][-1], grid.axes[2][0]
    table(
        f"logg {highest:g} from {grid.axes[1][-2]:g}",
        cut(grid, logg == highest, lambda part: with_higher_gravity(part, float(highest)), logg == highest),
    )
    if metal_poor is not None:
        table(
            f"[M/H] {lowest:g} from {grid.axes[2][1]:g}",
            cut(grid, mh == lowest, lambda part: with_fewer_metals(part, metal_poor), mh == lowest),
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
