"""How good Lux is: ten-fold on real stars beside other methods, repeats, a simulated survey, transfer between surveys.

    python scripts/lux_study.py miles DATA --work DIR [--latents P] [--pollux PYTHON]
    python scripts/lux_study.py giants DATA --work DIR [--latents P] [--pollux PYTHON] [--annieslasso PYTHON]
    python scripts/lux_study.py lamost DATA --work DIR [--latents P]
    python scripts/lux_study.py simulated GRID.h5 --work DIR [--latents P]
    python scripts/lux_study.py transfer GRID.h5 --work DIR [--latents P]

DATA is the folder with `miles/`, `labels/` and `lamost/`; GRID.h5 a grid of `phdlspec grid build` (one in the making
will do). PYTHON is one with pollux, the successor of its authors' code, which needs Python 3.12, or with annieslasso,
which needs NumPy before 2. What is finished is kept in DIR: a study that was stopped goes on, and one that is finished
prints its table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from harness import table_head
from lux_peers import Cannon, PrincipalRidge
from lux_world import LABELS, World
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.label_table import LabelInfo
from phdlspec.datadriven.lux import Lux, train
from phdlspec.files import writing
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import air_to_vacuum

FOLDS, SEED = 10, 1
PARAMETERS = ("TEFF", "LOGG", "FE_H")
MILES_ERRORS = (80.0, 0.15, 0.08)  # of the literature
GIANT_ERRORS = (50.0, 0.1, 0.03)
LASP_ERRORS = (50.0, 0.08, 0.05)
PLANTED = (40.0, 0.08, 0.12)  # K, dex, dex: second survey minus first

Array = NDArray[np.float64]


def robust(x: Array) -> Array:
    """Standard deviation of each column from the median of its absolute deviations; NaN left out."""
    return np.asarray(1.4826 * np.nanmedian(np.abs(x - np.nanmedian(x, axis=0)), axis=0))


def errors_of(covariance: Array) -> Array:
    """(N, L)."""
    return np.sqrt(np.einsum("nll->nl", covariance))


# --- ten-fold on real stars ---------------------------------------------------------------------------------------


def plain_dataset(
    wave: Array, flux: Array, ivar: Array, names: tuple[str, ...], values: Array, errors: Array
) -> Dataset:
    """A data set from arrays: normalised spectra at rest."""
    files = tuple(f"star {i}" for i in range(len(flux)))
    nan = np.full(len(flux), np.nan)
    infos = tuple(LabelInfo(name, "labels", "K" if name == "TEFF" else "dex", "not stated") for name in names)
    good = ivar > 0
    return Dataset(
        wave, np.where(good, flux, 0.0).astype(np.float32), np.where(good, ivar, 0.0).astype(np.float32),
        np.full(len(wave), 1800.0), files, files, files, nan, nan, nan, np.median(flux * np.sqrt(ivar), axis=1),
        ("",) * len(files), infos, values, np.broadcast_to(errors, values.shape).copy(),
    )  # fmt: skip


def labelled(identifiers: NDArray, values: Array, errors: tuple[float, ...]) -> Table:
    """A table of labels with the same errors for all stars."""
    table = Table({"OBSID": identifiers.astype(str)})
    for name, column, error in zip(PARAMETERS, values.T, errors):
        table[name], table[f"{name}_ERR"] = column, np.full(len(column), error)
    return table


def miles(folder: Path, work: Path) -> Dataset:
    """Stars of the even half of MILES at 4000-7000 K with all three labels of the literature; S/N 100 is assumed."""
    path = work / "miles.h5"
    if not path.is_file():
        data = np.load(folder / "miles" / "miles_even.npz")
        labels = data["labels_literature"].astype(float)
        used = np.isfinite(labels).all(1) & (labels[:, 0] > 4000) & (labels[:, 0] < 7000)
        wave = air_to_vacuum(data["wave_air"])
        spectra = []
        for flux, number in zip(data["flux"][used].astype(float), data["miles_id"][used]):
            sigma = np.maximum(flux, 1e-3 * np.median(flux)) / 100.0
            spectra.append(Spectrum(wave, flux, sigma**-2, ~np.isfinite(flux), wave / 2.5, {"OBSID": str(number)}, ""))
        table = labelled(data["miles_id"][used], labels[used], MILES_ERRORS)
        read_dataset(spectra, [table], velocity="zero").write(path)
    return Dataset.read(path)


def giants(folder: Path, work: Path) -> Dataset:
    """671 giants of APOGEE with 100 pixels each."""
    data = np.load(folder / "labels" / "annieslasso_apogee_671x100.npz")
    flux, sigma = data["flux"].astype(float), data["sigma"].astype(float)
    good = np.isfinite(flux) & np.isfinite(sigma) & (sigma > 0) & (sigma < 0.5)
    ivar = np.where(good, 1.0 / np.where(good, sigma, 1.0) ** 2, 0.0)
    labels = data["labels"].astype(float)
    return plain_dataset(15000.0 + np.arange(flux.shape[1]), np.where(good, flux, 0.0), ivar, ("TEFF", "LOGG", "M_H"),
                         labels, np.array(GIANT_ERRORS))  # fmt: skip


def lamost(folder: Path, work: Path) -> Dataset:
    """The stars of LAMOST DR10 with labels of its own pipeline (LASP), below 7500 K."""
    path = work / "lamost.h5"
    if not path.is_file():
        table = Table.read(folder / "lamost" / "dr10_labels.csv", format="ascii.csv")
        values = np.column_stack(
            [np.ma.filled(table[c].astype(float), np.nan) for c in ("teff_lasp", "logg_lasp", "feh_lasp")]
        )
        used = np.isfinite(values).all(1) & (values[:, 0] < 7500) & (np.asarray(table["snrg"]) > 10)
        labels = labelled(np.asarray(table["obsid"])[used], values[used], LASP_ERRORS)
        files = [str(folder / "lamost" / f) for f in np.asarray(table["file"])[used]]
        data = read_dataset(files, [labels], progress=True)
        data.take(data.readable).write(path)
    return Dataset.read(path)


def filled(data: Dataset, mean: Array) -> Array:
    """Flux (N, P) with masked pixels at the mean."""
    return np.where(data.ivar > 0, data.flux, mean).astype(float)


def mean_flux(data: Dataset) -> Array:
    """Mean (P,) of the good pixels."""
    good = data.ivar > 0
    return np.asarray((data.flux * good).sum(0, dtype=float) / np.maximum(good.sum(0), 1))


def half_deleted(data: Dataset, seed: int) -> Dataset:
    """The same stars with half of all labels deleted at random."""
    kept_ = np.random.default_rng(seed).random(data.values.shape) < 0.5
    return replace(data, values=np.where(kept_, data.values, np.nan), errors=np.where(kept_, data.errors, np.nan))


def with_cannon(part: Dataset, test: Dataset, used: NDArray) -> Array:
    """Labels of test stars by our quadratic Cannon."""
    model = Cannon.fit(part.flux[:, used].astype(float), part.ivar[:, used].astype(float), part.values)
    return model.labels(test.flux[:, used].astype(float), test.ivar[:, used].astype(float))


def with_other(script: str, part: Dataset, test: Dataset, latents: int, python: str, work: Path) -> Array:
    """Labels of test stars by somebody else's code, run by a Python that has it with the same arrays."""
    source, target = work / f"{script}_in.npz", work / f"{script}_out.npz"
    mean = mean_flux(part)
    used = (part.ivar > 0).mean(0) > 0.5
    arrays = {"latents": np.array(latents), "label": part.values, "label_err": part.errors}
    for name, data in (("train", part), ("test", test)):
        ivar = data.ivar[:, used].astype(float)
        arrays |= {f"{name}_flux": filled(data, mean)[:, used],
                   f"{name}_err": np.where(ivar > 0, 1.0 / np.sqrt(np.where(ivar > 0, ivar, 1.0)), 10.0)}  # fmt: skip
    np.savez(source, allow_pickle=False, **arrays)
    path = Path(__file__).with_name(f"lux_{script}.py")
    subprocess.run([python, str(path), str(source), str(target)], check=True, env={}, stdout=subprocess.DEVNULL)
    return np.asarray(np.load(target)["label"])


def one_fold(data: Dataset, held: NDArray, args: argparse.Namespace, made: dict[str, Array]) -> dict[str, Array]:
    """What every method says of the stars held out; `made` has what is known already."""
    part, test = data.take(~held), data.take(held)
    made = dict(made)
    if "Lux" not in made:
        model = train(part, latents=args.latents)
        found = model.predict(test)
        made |= {"Lux": found.values, "error": errors_of(found.covariance)}
        made["latents"] = np.array(model.parameters.latents)
    latents = int(made["latents"])
    if args.study == "miles" and "half_error" not in made:
        half = train(half_deleted(part, SEED), latents=latents).predict(test)
        made |= {"Lux, half of the labels deleted": half.values, "half_error": errors_of(half.covariance)}
    used = (part.ivar > 0).mean(0) > 0.5
    if "quadratic Cannon" not in made:
        made["quadratic Cannon"] = with_cannon(part, test, used)
    if "PCA + quadratic ridge" not in made:
        mean = mean_flux(part)
        ridge = PrincipalRidge.fit(filled(part, mean)[:, used], part.values)
        made["PCA + quadratic ridge"] = ridge.labels(filled(test, mean)[:, used])
    for name, script, python in (("Cannon of AnniesLasso", "annieslasso", args.annieslasso),
                                 ("pollux", "pollux", args.pollux)):  # fmt: skip
        if python and name not in made:
            made[name] = with_other(script, part, test, latents, python, args.work)
    return made


def ten_fold(data: Dataset, args: argparse.Namespace) -> None:
    """Run or continue, and print the table."""
    fold = grouped_folds(data.stars, FOLDS, SEED)
    paths = [args.work / f"{args.study}_{k}.npz" for k in range(FOLDS)]
    for k in args.folds:
        known = dict(np.load(paths[k])) if paths[k].is_file() else {}
        made = one_fold(data, fold == k, args, known)
        if made.keys() != known.keys():
            with writing(paths[k]) as file:
                np.savez(file, allow_pickle=False, **made)
        print(f"fold {k}: {int((fold == k).sum())} stars", file=sys.stderr, flush=True)
    pieces = [dict(np.load(paths[k])) for k in args.folds]
    order = np.concatenate([np.flatnonzero(fold == k) for k in args.folds])
    truth, given = data.values[order], data.errors[order]
    names = [info.name for info in data.infos]
    latents = sorted({int(p["latents"]) for p in pieces})
    print(f"{len(order)} stars, {len(pieces)} of {FOLDS} folds by star, latents {latents}")
    print(
        "| method | " + " | ".join(f"{n} scatter" for n in names) + " | " + " | ".join(f"{n} rms" for n in names) + " |"
    )
    print("|---" * (1 + 2 * len(names)) + "|")
    methods = [m for m in pieces[0] if m not in ("error", "half_error", "latents") and all(m in p for p in pieces)]
    for method in methods:
        left = np.concatenate([p[method] for p in pieces]) - truth
        cells = [*robust(left), *np.sqrt(np.nanmean(left**2, axis=0))]
        print(f"| {method} | " + " | ".join(f"{c:.3g}" for c in cells) + " |")
    for method, error in (("Lux", "error"), ("Lux, half of the labels deleted", "half_error")):
        if method not in methods:
            continue
        left = np.concatenate([p[method] for p in pieces]) - truth
        pull = left / np.hypot(np.concatenate([p[error] for p in pieces]), given)
        within = 100 * np.nanmean(np.abs(pull) < 1, axis=0)
        cells = [f"{n} {x:.2f} ({share:.0f}% within the error)" for n, x, share in zip(names, robust(pull), within)]
        print(f"pull of {method}: " + ", ".join(cells))


def with_repeats(folder: Path, work: Path) -> Dataset:
    """DR10 as `lamost` gives it and, without labels, spectra of stars that LAMOST observed more than once."""
    path = work / "repeats.h5"
    if not path.is_file():
        table = Table.read(folder / "lamost" / "repeats.csv", format="ascii.csv")
        labelled_ = lamost(folder, work)
        files = [str(folder / "lamost" / f) for f in table["file"]]
        again = read_dataset(files, grid=labelled_.wave)
        stars = tuple(f"repeated {star}" for star in table["star"])
        empty = np.full((len(again), len(PARAMETERS)), np.nan)
        again = replace(again, stars=stars, infos=labelled_.infos, values=empty, errors=empty)
        joined(labelled_, again.take(again.readable)).write(path)
    return Dataset.read(path)


def joined(one: Dataset, two: Dataset) -> Dataset:
    """Two data sets of the same pixels and labels as one."""
    rows = ("files", "obsids", "stars", "reasons")
    changes = {name: getattr(one, name) + getattr(two, name) for name in rows}
    for name in ("flux", "ivar", "ra", "dec", "velocity", "snr", "values", "errors"):
        changes[name] = np.concatenate([getattr(one, name), getattr(two, name)])
    return replace(one, **changes)


def repeats(folder: Path, args: argparse.Namespace) -> None:
    """Pairs of spectra of one star: scatter of differences over the noise and the error that Lux reports.

    Half of the repeated stars are in the training, without labels; the pairs of the other half are judged; and the
    other way round.
    """
    data = with_repeats(folder, args.work)
    repeated = sorted({star for star in data.stars if star.startswith("repeated")})
    half = dict(zip(repeated, grouped_folds(repeated, 2, SEED)))
    pieces, pairs_known = [], []
    for number in range(2):
        held = np.array([half.get(star) == number for star in data.stars])
        path = args.work / f"lamost_repeats_{number}.safetensors"
        if not path.is_file():
            train(data.take(~held), latents=args.latents, parts=path.with_suffix(".parts")).save(path)
        model, test = Lux.load(path), data.take(held)
        pieces.append(_differences(model, test))
        pairs_known.append(model.errors.pairs)
    left, noise, error = (np.concatenate(part) for part in zip(*pieces))
    print(f"\n{len(left)} pairs of {len(repeated)} stars; k from {pairs_known[0]} and {pairs_known[1]} pairs of others")
    print(
        table_head("label", "scatter of differences / sqrt 2", "noise", "scatter over it", "error", "scatter over it")
    )
    for i, name in enumerate(PARAMETERS):
        cells = [robust(left)[i] / 2**0.5]
        for size in (noise, error):
            cells += [np.median(size[:, i]) / 2**0.5, 1.4826 * np.median(np.abs(left[:, i] / size[:, i]))]
        print(f"| {name} | " + " | ".join(f"{c:.3g}" for c in cells) + " |")


def _differences(model: Lux, data: Dataset) -> tuple[Array, Array, Array]:
    # Of all pairs of spectra of a star (M, L): difference of labels, noise and error of the difference.
    found = model.predict(data)
    good = (model.flags(data, found) & 24) == 0
    pairs = [(i, j) for i, j in combinations(range(len(data)), 2) if data.stars[i] == data.stars[j]]
    one, two = np.array([(i, j) for i, j in pairs if good[i] and good[j]]).T
    noise, error = errors_of(found.noise), errors_of(found.covariance)
    return found.values[one] - found.values[two], np.hypot(noise[one], noise[two]), np.hypot(error[one], error[two])


# --- simulated surveys --------------------------------------------------------------------------------------------


def simulated_survey(world: World, count: int, seed: int) -> tuple[Dataset, Array]:
    """Stars with S/N 20-150, APOGEE-like errors of 25 labels, 40% of them missing; and the true labels."""
    truth = world.population(count, seed)
    flux, ivar = world.observe(truth, seed + 1)
    random = np.random.default_rng(seed + 2)
    errors = np.broadcast_to(world.label_errors, truth.shape).copy()
    values = truth + errors * random.standard_normal(truth.shape)
    missing = random.random(truth.shape) < 0.4
    values[missing], errors[missing] = np.nan, np.nan
    return plain_dataset(world.wave, flux, ivar, LABELS, values, errors), truth


def simulated(world: World, args: argparse.Namespace) -> None:
    """Train on 3,000 stars and look at others: scatter over what the noise allows, pulls, biases."""
    path = args.work / "simulated.safetensors"
    if not path.is_file():
        survey, _ = simulated_survey(world, args.stars, 10)
        train(survey, latents=args.latents, parts=path.with_suffix(".parts")).save(path)
    model = Lux.load(path)
    test, truth = simulated_survey(world, args.tests, 20)
    found = model.predict(test)
    shuffled = replace(test, values=test.values[::-1].copy(), errors=test.errors[::-1].copy())
    same = bool(np.array_equal(model.predict(shuffled).values, found.values))
    bound = world.bounds(truth, test.ivar.astype(float))
    left, error = found.values - truth, errors_of(found.covariance)
    clean = np.where(test.ivar > 0, world.without_noise(truth), 0.0).astype(np.float32)
    silent = model.predict(replace(test, flux=clean)).values
    print(f"{args.stars} training stars, {args.tests} others, {int(model.parameters.latents)} latents; "
          f"labels of the test stars shuffled: {'the same answers' if same else 'OTHER ANSWERS'}")  # fmt: skip
    print(table_head("label", "spread", "scatter", "noise allows", "scatter over it", "the noise's part of that",
                     "left without noise", "pull", "bias / error"))  # fmt: skip
    rows = np.column_stack([robust(truth), robust(left), np.median(bound, 0), robust(left / bound),
                            robust((found.values - silent) / bound), robust((silent - truth) / bound),
                            robust(left / error), np.median(left, 0) / np.median(error, 0)])  # fmt: skip
    for name, row in zip(LABELS, rows):
        print(f"| {name} | " + " | ".join(f"{x:.3g}" for x in row[:3]) + " | " + " | ".join(f"{x:.2f}" for x in row[3:])
              + " |")  # fmt: skip


def transfer(world: World, args: argparse.Namespace) -> None:
    """Two label sets of different scale, each known for some of the stars: the difference that Lux finds."""
    places = [LABELS.index(name) for name in PARAMETERS]
    truth = world.population(args.stars, 30)
    flux, ivar = world.observe(truth, 31)
    random = np.random.default_rng(32)
    both = np.tile(truth[:, places], 2)
    both[:, 3:] += PLANTED
    errors = np.broadcast_to(np.tile(world.label_errors[places], 2), both.shape).copy()
    values = both + errors * random.standard_normal(both.shape)
    which = random.random(args.stars)
    for rows, columns in ((which < 0.45, slice(3, 6)), (which > 0.55, slice(0, 3))):  # a tenth has both
        values[rows, columns], errors[rows, columns] = np.nan, np.nan
    data = plain_dataset(world.wave, flux, ivar, PARAMETERS * 2, values, errors)
    infos = tuple(replace(info, set_name="first" if i < 3 else "second") for i, info in enumerate(data.infos))
    model = train(replace(data, infos=infos), latents=args.latents)
    flux, ivar = world.observe(world.population(args.tests, 40), 41)
    new = plain_dataset(world.wave, flux, ivar, PARAMETERS * 2, np.full((args.tests, 6), np.nan), np.ones(6))
    found = model.predict(new).values
    print(f"{args.stars} stars, labels of the first survey, of the second or (a tenth) of both; {args.tests} new stars")
    print(table_head("label", "planted", "second minus first", "error"))
    for i, name in enumerate(PARAMETERS):
        left = found[:, 3 + i] - found[:, i]
        print(f"| {name} | {PLANTED[i]:g} | {np.median(left):.4g} | {np.median(left) - PLANTED[i]:+.3g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("miles", "giants", "lamost", "simulated", "transfer"))
    parser.add_argument("source", type=Path, metavar="DATA|GRID")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is finished")
    parser.add_argument("--latents", type=int, help="by default chosen by cross-validation in every fold")
    parser.add_argument("--pollux", metavar="PYTHON", help="a Python that has pollux")
    parser.add_argument("--annieslasso", metavar="PYTHON", help="a Python that has annieslasso (slow)")
    parser.add_argument("--folds", type=int, nargs="+", default=range(FOLDS), help="only these, of 0 to 9")
    parser.add_argument("--stars", type=int, default=3000)
    parser.add_argument("--tests", type=int, default=600)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.study in ("simulated", "transfer"):
        {"simulated": simulated, "transfer": transfer}[args.study](World.of_grid(args.source, args.work), args)
        return
    ten_fold({"miles": miles, "giants": giants, "lamost": lamost}[args.study](args.source, args.work), args)
    if args.study == "lamost":
        repeats(args.source, args)


if __name__ == "__main__":
    main()
