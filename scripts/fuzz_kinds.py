"""What `fuzz.py` changes: files of every kind that the program reads, and what it makes of each.

Of a reader any answer is right but a traceback, a message with control characters, or none within the limit. Of state
between two runs a changed file must be refused, made again, or do no harm: what is taken must be what was written.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table
from fuzz_more import MORE

from calibration.catalog import Catalog
from calibration.learning import learn_corrections
from calibration.simulate import SimulationSettings, simulate
from calibration.store import Calibration, evidence_path
from kurucz_grids.atmospheres import read_atmospheres
from kurucz_grids.fetch import MANIFEST, read_checksums
from kurucz_grids.grid_writer import collect, grid_attributes, make_manifest
from kurucz_grids.linelists import read_line_list
from phdlspec.catalog.chunks import wrong_in_chunk
from phdlspec.catalog.inputs import expand_inputs, read_reference, write_packed
from phdlspec.catalog.job import Chunk
from phdlspec.catalog.reading import read_catalog
from phdlspec.catalog.rows import NAMES, to_arrays, write_fits
from phdlspec.catalog.store import ChunkStore
from phdlspec.commands.info import describe
from phdlspec.datadriven.desa.light_curve import read_segment
from phdlspec.datadriven.label_table import read_label_table
from phdlspec.datadriven.rest_frame import read_physics_fit
from phdlspec.datadriven.scatter_vae.storage import read_model, write_model
from phdlspec.datadriven.training_folder import TrainingFolder
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.emulator.network import Architecture, Network
from phdlspec.emulator.training_state import AveragedWeights, TrainingState
from phdlspec.fitting.known_table import read_known
from phdlspec.fitting.result import Fitted
from phdlspec.gridfile import FORMS, Grid
from phdlspec.gridfile.parts import GridParts
from phdlspec.io import read_spectrum, write_lamost
from phdlspec.labels import GRID_LABELS
from phdlspec.products import read_hdf5, write_ecsv, write_hdf5
from phdlspec.spectrum import Spectrum
from phdlspec.tables import read_any_table
from phdlspec.wavelength import LAMOST_WAVE

SHIPPED = Path(__file__).resolve().parents[1] / "phdlspec" / "data"
MODEL = "vae_lamost.safetensors"
AGAIN = "made again"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Kind:
    """A kind of file. make : write whole ones into a folder and give the one that is changed. read : what the program
    makes of it; of state, its content as text or `AGAIN`. cost : so many times fewer inputs, for slow ones."""

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    state: bool = False
    cost: int = 1


def fingerprint(*what: object) -> str:
    """A text that stands for arrays, tensors and plain values."""
    found = hashlib.sha256()
    for value in what:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes() if array.dtype != object else repr(value).encode())
    return found.hexdigest()


# --- spectra -----------------------------------------------------------------------------------------------------


def spectrum(seed: int = 1) -> Spectrum:
    """A spectrum on LAMOST's wavelengths."""
    flux = 100.0 + np.random.default_rng(seed).normal(size=len(LAMOST_WAVE))
    about = {"OBSID": "7", "RA": 1.0, "DEC": 2.0, "DESIG": "LAMOST J000400.00+020000.0"}
    return Spectrum(LAMOST_WAVE, flux, np.ones(len(flux)), np.zeros(len(flux), bool), 1800.0, about)


def _lamost(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_lamost(spectrum(), folder / name)
        return folder / name

    return make


def _lamost_image(folder: Path) -> Path:
    one = spectrum()
    image = np.array([one.flux, one.ivar, one.wave, one.mask, one.mask], dtype=np.float32)
    hdu = fits.PrimaryHDU(image)
    hdu.header.update({"TELESCOP": "LAMOST", "VACUUM": True, "HELIO": True, "OBSID": 123, "Z": 1e-4})
    hdu.writeto(folder / "spec.fits")
    return folder / "spec.fits"


def _sdss(folder: Path) -> Path:
    one = spectrum()
    columns = {"flux": one.flux, "loglam": np.log10(one.wave), "ivar": one.ivar, "and_mask": one.mask.astype("i4"),
               "wdisp": np.ones(len(one), dtype="f4")}  # fmt: skip
    about = fits.BinTableHDU(Table({"CLASS": ["STAR"], "SUBCLASS": ["F9"], "Z": [1e-4]}), name="SPECOBJ")
    primary = fits.PrimaryHDU()
    primary.header.update({"PLATEID": 266, "MJD": 51602, "FIBERID": 31, "PLUG_RA": 145.9, "PLUG_DEC": 0.1})
    hdus = [primary, fits.BinTableHDU(Table(columns), name="COADD"), about]
    fits.HDUList(hdus).writeto(folder / "spec-0266-51602-0031.fits")
    return folder / "spec-0266-51602-0031.fits"


def _desi(folder: Path) -> Path:
    wave = np.arange(3600.0, 5800.0, 0.8)
    flux = 100.0 + np.random.default_rng(1).normal(size=(2, len(wave)))
    bands = np.repeat(np.exp(-0.5 * (np.arange(5, -6, -1) / 1.2) ** 2)[None, :, None], 2, axis=0) / 3.0
    data = {"WAVELENGTH": wave, "FLUX": flux, "IVAR": np.ones_like(flux), "MASK": np.zeros(flux.shape, dtype="i4"),
            "RESOLUTION": np.repeat(bands, len(wave), axis=2)}  # fmt: skip
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(values, name="B_" + name) for name, values in data.items())]
    fibers = {"TARGETID": [11, 22], "TARGET_RA": [1.0, 2.0], "TARGET_DEC": [4.0, 5.0]}
    fits.HDUList([*hdus, fits.BinTableHDU(Table(fibers), name="FIBERMAP")]).writeto(folder / "coadd.fits")
    return folder / "coadd.fits"


def _text(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        one = spectrum()
        table = Table({"wave_vac": one.wave[:600], "flux": one.flux[:600], "err": np.ones(600), "mask": one.mask[:600]})
        table["wave_vac"].unit = "Angstrom"
        table.meta = {"resolving_power": 1800.0}
        known = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits"}
        table.write(folder / name, format=known[Path(name).suffix])
        return folder / name

    return make


def _read_spectrum(path: Path) -> object:
    found = read_spectrum(path, resolving_power=1800.0, row=0 if path.name.startswith("coadd") else None)
    assert np.isfinite(found.flux).all()
    assert np.isfinite(found.ivar).all()
    return len(found)


def _packed(folder: Path) -> Path:
    write_packed(folder / "pack.h5", [spectrum(1), spectrum(2)])
    return folder / "pack.h5"


def _read_packed(path: Path) -> object:
    return [len(read_reference(reference)) for reference in expand_inputs([path])[:2]]


# --- tables and lists --------------------------------------------------------------------------------------------


def _stars(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rows = np.arange(20)
        table = Table({"OBSID": rows.astype(str), "RA": rows + 0.5, "DEC": rows - 5.0, "TEFF": 5000.0 + rows,
                       "TEFF_ERR": np.full(20, 30.0), "FE_H": rows / 20.0, "FE_H_ERR": np.full(20, 0.05)})  # fmt: skip
        known = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits"}
        table.write(folder / name, format=known[Path(name).suffix])
        return folder / name

    return make


def _read_stars(path: Path) -> object:
    read_known(str(path))
    return len(read_any_table(path)), len(read_label_table(path).infos)


def _list(folder: Path) -> Path:
    (folder / "stars.txt").write_text("\n".join(str(folder / f"spec-{i}.fits") for i in range(30)))
    return folder / "stars.txt"


def _light_curve(folder: Path) -> Path:
    time = 100.0 + 0.02 * np.arange(500)
    Table({"time": time, "flux": 1.0 + 0.01 * np.sin(time), "flux_err": np.full(500, 1e-3)}).write(folder / "kic1.csv")
    return folder / "kic1.csv"


def _sample(source: Path, lines: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with source.open("rb") as file:
            content = b"".join(file.readline() for _ in range(lines))
        (folder / source.name).write_bytes(content)
        return folder / source.name

    return make


def _sums(folder: Path) -> Path:
    (folder / MANIFEST).write_text("".join(f"{i:064x}  lines/file{i}\n" for i in range(10)))
    return folder / MANIFEST


# --- products and state between runs -----------------------------------------------------------------------------


def _results(count: int) -> list[Fitted]:
    random = np.random.default_rng(2)
    results = []
    for i in range(count):
        value, err = random.normal(size=(2, len(NAMES)))
        err = np.abs(err)
        results.append(Fitted(
            NAMES, value, err, value - err, value, value + err, err, np.zeros(len(NAMES), dtype=int), np.diag(err**2),
            mode="fast", chi2=1.0, npix=3000, snr=50.0, path=f"spec{i}.fits", meta={"OBSID": str(i)},
        ))  # fmt: skip
    return results


CHUNKS = [Chunk(0, ("a.fits", "b.fits")), Chunk(1, ("c.fits", "d.fits"))]


def _chunks(folder: Path) -> Path:
    store = ChunkStore(folder / "c.fits", "job")
    store.folder.mkdir()
    for chunk, results in zip(CHUNKS, (_results(2), _results(4)[2:])):
        store.write(chunk.index, chunk.references, to_arrays(results, chunk.references))
    return store.folder / "chunk_0000000.npz"


def _read_chunks(path: Path) -> str:
    store = ChunkStore(path.parents[1] / "c.fits", "job")
    planned = [chunk.references for chunk in CHUNKS]
    whole = store.finished(planned, lambda index, arrays: wrong_in_chunk(CHUNKS[index], arrays))
    return fingerprint(*store.read(0, planned[0]).values()) if 0 in whole else AGAIN


IDENTITY = {"version of phdlspec": "1", "list of inputs": "ab" * 32, "size of chunks": 32, "configuration": {"a": 1}}


def _job(folder: Path) -> Path:
    store = ChunkStore(folder / "c.fits", "job")
    store.open(IDENTITY, resume=False)
    return store.folder / "job.json"


def _read_job(path: Path) -> str:
    ChunkStore(path.parents[1] / "c.fits", "job").open(IDENTITY, resume=True)
    return "goes on"


def _grid_parts(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        random = np.random.default_rng(3)
        parts = GridParts(folder / "g.h5")
        labels = random.uniform(size=(3, 32))
        wave = FORMS["survey"].wave[:300]
        manifest = make_manifest(grid_attributes(FORMS["survey"], {"line_list_checksum": "abc"}, seed=1), wave)
        continuum = np.ones(len(manifest["continuum_wave"]))
        with parts.lock():
            parts.write_manifest(manifest, labels, np.zeros(3, dtype=np.uint8))
        for i in range(2):
            parts.write_row(i, labels[i], random.uniform(size=300), continuum, random.normal(size=(32, 300)))
        parts.write_failure(2, "no convergence")
        return parts.folder / name

    return make


def _read_grid_parts(path: Path) -> str:
    parts = GridParts(path.parents[1] / "g.h5")
    whole = parts.whole_rows()
    rows = [fingerprint(*parts.read_row(i).values()) if i in whole else AGAIN for i in range(2)]
    return AGAIN if AGAIN in rows else fingerprint(*rows, *parts.labels(), str(parts.manifest()))


def _read_failures(path: Path) -> object:
    return GridParts(path.parents[1] / "g.h5").failures()


def _grid(folder: Path) -> Path:
    _grid_parts("row_0000000.npz")(folder)
    return collect(folder / "g.h5")


def _read_grid(path: Path) -> object:
    describe(path)
    with Grid(path) as grid:
        rows = grid.rows()
        return [a.shape for a in (grid.flux(rows), grid.continuum(rows), grid.jacobian(rows))]


def _copy(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes((SHIPPED / name).read_bytes())
        return folder / name

    return make


def _read_checkpoint(path: Path) -> str:
    checkpoint = load_checkpoint(path)
    return fingerprint(str(checkpoint.metadata), *(checkpoint.tensors[name] for name in sorted(checkpoint.tensors)))


def _training(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    n_labels, patches, vectors = len(GRID_LABELS), 3, 2
    sizes = Architecture(n_labels, patches, vectors, width=8, heads=2, hidden=8, second_hidden=8, token_hidden=4)
    lower, upper = torch.as_tensor(GRID_LABELS.lower), torch.as_tensor(GRID_LABELS.upper)
    network = Network(sizes, lower, upper, torch.rand(patches, n_labels), torch.ones(patches, vectors))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network(torch.zeros(2, n_labels)).square().sum().backward()
    optimiser.step()
    return TrainingState(network, AveragedWeights.start(network), optimiser)


def _training_state(folder: Path) -> Path:
    _training(1).save(folder / "m.training", "of this run", 10)
    return folder / "m.training"


def _read_training_state(path: Path) -> str:
    state = _training(2)
    step = state.resume(path, "of this run", 100)
    moments = state.optimiser.state_dict()["state"]
    tensors = [*state.network.state_dict().values(), *(m[key] for m in moments.values() for key in sorted(m))]
    return fingerprint(step, *tensors, *state.averaged.mean.values(), *state.averaged.best.values())


def _small_network(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(4, 3)).sum().backward()
    optimiser.step()
    return network, optimiser


def _network_training(folder: Path) -> Path:
    TrainingFolder(folder).keep("network", *_small_network(1), {"epoch": 3})
    return folder / "state_network.safetensors"


def _read_network_training(path: Path) -> str:
    network, optimiser = _small_network(2)
    about = TrainingFolder(path.parent).restore("network", network, optimiser)
    moments = [m[key] for m in optimiser.state_dict()["state"].values() for key in sorted(m)]
    return AGAIN if about is None else fingerprint(str(about), *network.state_dict().values(), *moments)


def _model(folder: Path) -> Path:
    write_model(folder / "m.safetensors", _small_network(1)[0], {"wave": np.arange(9.0)}, {"settings": {"latents": 4}})
    return folder / "m.safetensors"


def _read_model(path: Path) -> str:
    header, state, arrays = read_model(path)
    return fingerprint(str(header), *(state[k] for k in sorted(state)), *(arrays[k] for k in sorted(arrays)))


@lru_cache(maxsize=1)
def _learned() -> Calibration:
    small = SimulationSettings(elements=("Mg",), pairs=40, members=20, survey_sizes=(80, 60), test_stars=10)
    survey = simulate(small, seed=11)
    return learn_corrections(Catalog.from_table(survey.catalog), survey.pairs, survey.clusters, survey.labels)


def _calibration(evidence: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = _learned().write(folder / "calibration.json")
        return evidence_path(path) if evidence else path

    return make


def _read_calibration(path: Path) -> str:
    found = Calibration.read(path.parent / "calibration.json")
    assert found.evidence is not None
    columns = [np.asarray(found.evidence[name]) for name in found.evidence.colnames]
    return fingerprint(found.identity, *columns)


def _catalogue(folder: Path) -> Path:
    results = _results(5)
    arrays = to_arrays(results, [result.path for result in results])
    header = {"EMUHASH": "0", "SOLSCALE": "Asplund2009", "SEED": 1, "CKPTHASH": "0"}
    write_fits(lambda: iter([arrays]), folder / "c.fits", header)
    return folder / "c.fits"


def _read_catalogue(path: Path) -> object:
    describe(path)
    Catalog.read(path)
    return len(read_catalog(path))


def _fit_hdf5(folder: Path) -> Path:
    write_hdf5(_results(1)[0], folder / "star.h5", {"seed": 1})
    return folder / "star.h5"


def _read_fit_hdf5(path: Path) -> object:
    describe(path)
    return len(Fitted(**read_hdf5(path)[0]).names)


def _fit_ecsv(folder: Path) -> Path:
    write_ecsv(_results(1)[0], folder / "star.ecsv", {"seed": 1})
    return folder / "star.ecsv"


def _read_moog(path: Path) -> object:
    return len(read_line_list(path, medium="air"))


def kinds() -> list[Kind]:
    """All kinds; those that need samples of other people's files only where these are."""
    found = [
        Kind("spectrum: LAMOST", _lamost("spec.fits"), _read_spectrum),
        Kind("spectrum: LAMOST, gzip", _lamost("spec.fits.gz"), _read_spectrum),
        Kind("spectrum: LAMOST, image", _lamost_image, _read_spectrum),
        Kind("spectrum: SDSS", _sdss, _read_spectrum),
        Kind("spectrum: DESI", _desi, _read_spectrum),
        Kind("spectrum: CSV", _text("a.csv"), _read_spectrum),
        Kind("spectrum: ECSV", _text("a.ecsv"), _read_spectrum),
        Kind("spectrum: FITS table", _text("a.fits"), _read_spectrum),
        Kind("spectra: packed HDF5", _packed, _read_packed, cost=20),
        Kind("table of stars: CSV", _stars("s.csv"), _read_stars),
        Kind("table of stars: ECSV", _stars("s.ecsv"), _read_stars),
        Kind("table of stars: FITS", _stars("s.fits"), _read_stars),
        Kind("list of paths", _list, lambda path: len(expand_inputs([path]))),
        Kind("light curve", _light_curve, lambda path: len(read_segment(path).time)),
        Kind("checksums of what was fetched", _sums, lambda path: len(read_checksums(path.parent))),
        Kind("catalogue", _catalogue, _read_catalogue),
        Kind("grid", _grid, _read_grid, cost=20),
        Kind("fit: HDF5", _fit_hdf5, _read_fit_hdf5, cost=20),
        Kind("fit: ECSV", _fit_ecsv, describe),
        Kind("velocity from a fit: HDF5", _fit_hdf5, read_physics_fit, cost=20),
        *(Kind(name, make, read, cost=cost) for name, make, read, cost in MORE),
        Kind("reasons of failed models", _grid_parts("failed_0000002.txt"), _read_failures),
        Kind("state: chunk of a catalogue", _chunks, _read_chunks, state=True),
        Kind("state: job of a catalogue", _job, _read_job, state=True),
        Kind("state: row of a grid", _grid_parts("row_0000000.npz"), _read_grid_parts, state=True),
        Kind("state: manifest of a grid", _grid_parts("manifest.json"), _read_grid_parts, state=True),
        Kind("state: labels of a grid", _grid_parts("labels.npy"), _read_grid_parts, state=True),
        Kind("state: checkpoint", _copy("default.safetensors"), _read_checkpoint, state=True, cost=4),
        Kind("state: training of an emulator", _training_state, _read_training_state, state=True),
        Kind("state: training of a network", _network_training, _read_network_training, state=True),
        Kind("state: model from data", _model, _read_model, state=True),
        Kind("model from data: info", _copy(MODEL), describe, cost=2),
        Kind("state: calibration", _calibration(False), _read_calibration, state=True),
        Kind("state: evidence of a calibration", _calibration(True), _read_calibration, state=True),
    ]
    samples = [
        ("line list: Kurucz", "linelists/native/gf0600_sample.dat", 60, lambda path: len(read_line_list(path))),
        ("line list: VALD", "linelists/native/long-extract-stellar.vald", 60, lambda path: len(read_line_list(path))),
        (
            "line list: MOOG",
            "linelists/native/s5eqw_short.moog",
            60,
            _read_moog,
        ),
        ("atmosphere: ATLAS9", "atmospheres/native/asunodfnew.dat", 200, read_atmospheres),
        ("atmosphere: ATLAS12", "atmospheres/native/at12_aaaaa_t05770g4.44.atm", 200, read_atmospheres),
    ]
    return found + [
        Kind(name, _sample(DATA / source, lines), read)
        for name, source, lines, read in samples
        if (DATA / source).is_file()
    ]


def quiet() -> None:
    """Leave the warnings about what is wrong with a file to its reader."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
