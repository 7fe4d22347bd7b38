"""How the structure of an atmosphere answers to electron donors: makes kurucz_grids/data/structure_response.npz.

    python scripts/structure_response.py ATMOSNET --atmospheres atlas9.npz [--out TABLE] [--shares FILE]

ATMOSNET is the folder of the networks of atmosnet (D. Nidever, MIT licence; `atmosnet_c3k_col1_300neurons_cool.npz` …),
which give ATLAS12 structures by Teff, log g, [Fe/H] and [alpha/Fe]. Their differences between [alpha/Fe] = 0 and 0.2,
0.4, 0.6 at equal Rosseland depth are fitted with a multiple of the enrichment in electron donors
(`kurucz_grids.structure_response`), averaged over points around each node of the table to take out the networks' noise,
and smoothed in depth. The shares of the donors come from the equation of state in scaled-solar models (`--atmospheres`,
as `scripts/extend_atmospheres.py` writes them), as a polynomial in 5040 K/Teff, log g and [M/H].
Prints, by kind of star, the change of T and P for [alpha/Fe] = +0.4 and what of the networks the table leaves.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.chemistry import Chemistry
from kurucz_grids.stellar_model import HYDROGEN_LINES
from kurucz_grids.structure_response import ALPHA, DONORS, TABLE, response_at
from phdlspec.errors import UserError
from phdlspec.solar import SOLAR_ABUNDANCES

TEFF, LOGG, MH = np.arange(3500.0, 7751.0, 250.0), np.arange(0.0, 5.51, 0.5), np.arange(-4.0, 0.51, 0.5)
LOG_TAU = np.arange(-6.5, 2.01, 0.25)
FINE = np.arange(-7.0, 2.51, 0.0625)
SMOOTHING = 0.15  # dex in depth
ALPHAS = np.array([0.2, 0.4, 0.6])
AROUND = (80.0, 0.15, 0.12)  # K, dex, dex between a node and the points that it is the mean of
SCALE = np.array([1e-4, 1e-3, 5e-4])  # of T, P, column less P, as integers
DEGREE = 4
SHARE_LAYERS = -2.0, 0.0  # log10 of the Rosseland depth
STARS = ((5777.0, 4.44, 0.0), (4286.0, 1.6, -0.5), (4000.0, 1.0, 0.0), (4500.0, 1.5, -1.5), (5000.0, 2.5, -2.0),
         (4000.0, 4.6, 0.0), (5250.0, 4.5, -1.0), (6250.0, 4.0, -1.5), (7000.0, 4.0, 0.0))  # fmt: skip
NAMES = "rhox T Pgas xne abross".split()
NOTICE = """Derived from the neural networks of atmosnet (https://github.com/dnidever/atmosnet).
MIT License. Copyright (c) 2021 David Nidever.
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software.
THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


class Networks:
    """Structures of ATLAS12 models, by neural networks of two hidden layers, one a column."""

    def __init__(self, folder: Path):
        self._columns = []
        for i, name in enumerate(NAMES):
            path = folder / f"atmosnet_c3k_col{i + 1}_300neurons_cool.npz"
            try:
                with np.load(path) as file:
                    self._columns.append({key: file[key].astype(float) for key in file.files if key[1:2] == "_"})
            except (OSError, KeyError, ValueError) as error:
                raise UserError(f"{path}: the network of {name} cannot be read ({error}); get atmosnet's") from error

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """ln of T, gas pressure and column mass (N, 3, `FINE`) at labels (N, 4), `FINE` the log Rosseland depth."""
        logs = {name: self._column(net, labels) for name, net in zip(NAMES, self._columns)}
        rhox, opacity = np.exp(logs["rhox"]), np.exp(logs["abross"])
        steps = 0.5 * (opacity[:, 1:] + opacity[:, :-1]) * np.diff(rhox, axis=1)
        tau = opacity[:, :1] * rhox[:, :1] + np.concatenate([0 * rhox[:, :1], np.cumsum(steps, axis=1)], axis=1)
        answer = np.full((len(labels), 3, len(FINE)), np.nan)
        for i in np.flatnonzero((np.diff(tau, axis=1) > 0).all(axis=1)):  # a network may fail at the edge of its range
            at = [np.interp(FINE, np.log10(tau[i]), logs[name][i]) for name in ("T", "Pgas", "rhox")]
            answer[i] = np.array(at)
        return answer

    @staticmethod
    def _column(net: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
        x = np.clip(labels, net["x_min"], net["x_max"])
        layer = (x - net["x_min"]) / (net["x_max"] - net["x_min"]) - 0.5
        for i in range(2):
            layer = layer @ net[f"w_array_{i}"].T + net[f"b_array_{i}"]
            layer = np.where(layer > 0, layer, 0.01 * layer)
        return np.log(10.0) * (layer @ net["w_array_2"].T + net["b_array_2"])  # they give decadic logarithms


def electron_shares(atmospheres: AtmosphereGrid) -> tuple[np.ndarray, np.ndarray]:
    """Labels (M, 3) and shares of the donors in the electrons of metals (M, donors), at every second node or so."""
    ions = [f"{element}+" for element in DONORS]
    chemistry = Chemistry([*DONORS, *ions], HYDROGEN_LINES, 3685.0, 9120.0)
    labels, shares = [], []
    for row, (teff, logg, mh, _) in enumerate(atmospheres.params):
        if teff > TEFF[-1] or (teff % 500.0 and teff > 4500.0) or (logg % 1.0 and logg != 4.5) or mh not in MH[::2]:
            continue
        model = atmospheres.model(row)
        keep = (np.log10(model.tau_rosseland) > SHARE_LAYERS[0]) & (np.log10(model.tau_rosseland) < SHARE_LAYERS[1])
        abundances = {e: a if e in ("H", "He") else a + mh for e, a in SOLAR_ABUNDANCES.items()}
        gas = chemistry.solve(
            model.temperature[keep], model.gas_pressure[keep], model.rhox[keep], model.electron_density[keep],
            abundances, teff, logg, 2.0,
        )  # fmt: skip
        electrons = np.array([np.mean(gas.number[ion] / gas.electron_density) for ion in ions])
        labels.append((teff, logg, mh))
        shares.append(electrons / electrons.sum())
    return np.array(labels), np.array(shares)


def polynomials(labels: np.ndarray) -> np.ndarray:
    """(N, terms) of total degree `DEGREE` in 5040 K/Teff, log g and [M/H], each between -1 and 1."""
    variables = np.column_stack([5040.0 / labels[:, 0], labels[:, 1], labels[:, 2]])
    low, high = np.array([5040.0 / TEFF[-1], LOGG[0], MH[0]]), np.array([5040.0 / TEFF[0], LOGG[-1], MH[-1]])
    scaled = (2.0 * variables - low - high) / (high - low)
    chebyshev = [np.polynomial.chebyshev.chebvander(scaled[:, i], DEGREE) for i in range(3)]
    powers = [p for p in itertools.product(range(DEGREE + 1), repeat=3) if sum(p) <= DEGREE]
    return np.stack([chebyshev[0][:, i] * chebyshev[1][:, j] * chebyshev[2][:, k] for i, j, k in powers], axis=1)


def response(networks: Networks, labels: np.ndarray, alpha_share: np.ndarray) -> np.ndarray:
    """Change of ln T, ln P, ln column (N, 3, `FINE`) with the enrichment, mean over points around the labels (N, 3)."""
    enrichment = np.log10(alpha_share[:, None] * 10.0**ALPHAS + 1.0 - alpha_share[:, None])
    total, count = np.zeros((len(labels), 3, len(FINE))), np.zeros((len(labels), 1, 1))
    for offset in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        around = labels + np.array(offset) * AROUND
        solar = networks(np.column_stack([around, np.zeros(len(labels))]))
        change = np.stack([networks(np.column_stack([around, np.full(len(labels), a)])) - solar for a in ALPHAS])
        slope = np.einsum("na,anqd->nqd", enrichment, change) / (enrichment**2).sum(1)[:, None, None]
        known = np.isfinite(slope).all(axis=(1, 2), keepdims=True)
        total += np.where(known, slope, 0.0)
        count += known
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def known_nodes(trained: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """(N,) whether the networks were trained within one step of nodes (N, 3): elsewhere they extrapolate."""
    step = np.array([250.0, 0.5, 0.5])
    return np.array([(np.abs(trained[:, :3] - node) <= step).all(axis=1).any() for node in nodes])


def tabulated(answers: np.ndarray, known: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Answers (N, 3, `FINE`) smoothed in depth, at `LOG_TAU`, (Teff, log g, [M/H], 3, `LOG_TAU`).

    A node that is not known takes those of the nearest one, of the same Teff if there is one.
    """
    scaled = nodes / (10.0, 1.0, 1.0)
    nearest = np.flatnonzero(known)[np.asarray(cKDTree(scaled[known]).query(scaled)[1])]
    smooth = gaussian_filter1d(answers[nearest], SMOOTHING / (FINE[1] - FINE[0]), axis=2)
    sampled = CubicSpline(FINE, smooth, axis=2)(LOG_TAU)
    return sampled.reshape(len(TEFF), len(LOGG), len(MH), 3, len(LOG_TAU))


def compare(networks: Networks) -> None:
    """Print the change of T and P for [alpha/Fe] = +0.4 of the networks and of the table that is shipped now."""
    depths = (-4.0, -3.0, -2.0, -1.0, 0.0)
    places = ", ".join(f"{depth:g}" for depth in depths)
    print(f"| star | change of T (K) at log tau {places}: networks | table | of ln P: networks | table |")
    print("|---|---|---|---|---|")
    for teff, logg, mh in STARS:
        model = networks(np.array([[teff, logg, mh, a] for a in (0.0, 0.4)]))
        change = model[1] - model[0]
        grid = np.interp(depths, FINE, np.arange(len(FINE)))
        answer = response_at(teff, logg, mh, np.array(depths))
        e = answer.enrichment(dict.fromkeys(ALPHA, 0.4))
        net_t, net_p = (np.array([np.interp(g, np.arange(len(FINE)), change[q]) for g in grid]) for q in (0, 1))
        base = np.array([np.interp(g, np.arange(len(FINE)), np.exp(model[0, 0])) for g in grid])
        rows = [" ".join(f"{x:+.0f}" for x in base * y) for y in (net_t, e * answer.temperature)]
        rows += [" ".join(f"{x:+.2f}" for x in y) for y in (net_p, e * answer.gas_pressure)]
        print(f"| {teff:.0f}, {logg:g}, {mh:g} | {rows[0]} | {rows[1]} | {rows[2]} | {rows[3]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path)
    parser.add_argument("--atmospheres", help="to make the table; without, the one that is there is only compared")
    parser.add_argument("--out", default=str(Path("kurucz_grids") / "data" / TABLE))
    args = parser.parse_args()
    networks = Networks(args.networks)
    if args.atmospheres:
        write_table(networks, args.networks, AtmosphereGrid.load(args.atmospheres), args.out)
    compare(networks)


def write_table(networks: Networks, folder: Path, atmospheres: AtmosphereGrid, out: str) -> None:
    """Make the table and write it to `out`."""
    sampled, shares = electron_shares(atmospheres)
    coefficients = np.linalg.lstsq(polynomials(sampled), np.log(shares), rcond=None)[0]
    fitted = np.exp(polynomials(sampled) @ coefficients)
    misses = np.sqrt(np.mean((fitted / fitted.sum(1, keepdims=True) - shares) ** 2, axis=0))
    print(f"shares of electrons in {len(sampled)} models; the polynomials miss them by (rms) "
          + ", ".join(f"{name} {x:.3f}" for name, x in zip(DONORS, misses)))  # fmt: skip
    nodes = np.array(list(itertools.product(TEFF, LOGG, MH)))
    ln_shares = polynomials(nodes) @ coefficients
    ln_shares -= np.log(np.exp(ln_shares).sum(1, keepdims=True))
    alpha_share = np.exp(ln_shares[:, [name in ALPHA for name in DONORS]]).sum(1)
    answers = response(networks, nodes, alpha_share)
    answers[:, 2] -= answers[:, 1]
    with np.load(folder / "atmosnet_c3k_col1_300neurons_cool.npz") as file:
        known = known_nodes(file["training_labels"], nodes) & np.isfinite(answers).all(axis=(1, 2))
    table = tabulated(answers, known, nodes)
    integers = np.clip(np.rint(table / SCALE[:, None]), -32767, 32767).astype(np.int16)
    shape = len(TEFF), len(LOGG), len(MH), len(DONORS)
    np.savez_compressed(
        out, teff=TEFF, logg=LOGG, mh=MH, log_tau=LOG_TAU, answers=integers, scale=SCALE, notice=NOTICE,
        ln_shares=ln_shares.reshape(shape).astype(np.float32), donors=DONORS,
    )  # fmt: skip
    print(f"{out}: {known.sum()} of {len(nodes)} nodes known to the networks, {Path(out).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
