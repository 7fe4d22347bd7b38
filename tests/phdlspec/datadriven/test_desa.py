"""DESA on a small world: light curves read, periods found, an embedding that survives a kill, one modality, bad
input."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from phdlspec.cli import main
from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.desa import (
    Desa,
    DesaFlag,
    DesaSettings,
    LightCurveSet,
    gather,
    read_light_curves,
    read_segment,
    stitch,
    train,
)
from phdlspec.datadriven.desa.dual_former import DualFormer, alignment, contrastive, covariance
from phdlspec.datadriven.desa.encoders import SpectrumEncoder, features
from phdlspec.datadriven.desa.light_curve import STEP, Segment
from phdlspec.datadriven.desa.mock_light_curve import QUARTERS, Binary, Spots, granulation, observe, photon_noise
from phdlspec.datadriven.desa.period_network import LOG_PERIODS, PeriodNetwork, network_periods, period_loss, said
from phdlspec.datadriven.desa.pretraining import StretchPairs, pinball
from phdlspec.datadriven.desa.probes import (
    area_under_curve,
    average_precision,
    fit_matching,
    fit_probe,
    ranks_of_partners,
)
from phdlspec.datadriven.desa.rotation import acf_period, lomb_scargle_period
from phdlspec.datadriven.desa.rotators import draw_rotators
from phdlspec.datadriven.desa.stars import labels_of
from phdlspec.datadriven.desa.training import seen_with
from phdlspec.datadriven.desa.views import FREQUENCIES, LAGS, LENGTH, mean_views, no_views, views_of
from phdlspec.datadriven.training_folder import TrainingFolder
from phdlspec.errors import UserError

TINY = DesaSettings(
    width=16,
    layers=1,
    size=8,
    rotators=40,
    period_epochs=2,
    spectrum_epochs=12,
    curve_epochs=2,
    dual_epochs=3,
    batch=16,
)
TESS_FILE = "readers/kepler/tess2018206045859-s0001-0000000029666185-0120-s_lc.fits"
SHARED = Path(__file__).parents[4] / "shared" / "data"
N, P = 60, 200


def sine(period: float, days: float = 200.0, amplitude: float = 0.01, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    time = STEP * np.arange(int(days / STEP))
    noise = 1e-4 * np.random.default_rng(seed).normal(size=len(time))
    return time, 1.0 + amplitude * np.sin(2 * np.pi * time / period) + noise


def write_table(path: Path, time: np.ndarray, flux: np.ndarray, **more: np.ndarray) -> Path:
    Table({"time": time, "flux": flux, **more}).write(path, format="ascii.csv")
    return path


@pytest.fixture(scope="module")
def world() -> tuple[Dataset, LightCurveSet, Table, Table]:
    """Stars whose temperature is in the spectrum, whose period is in the light curve."""
    random = np.random.default_rng(1)
    teff, period = random.uniform(-1, 1, N), random.uniform(1.5, 12.0, N)
    wave = np.linspace(5000, 5300, P)
    flux = 1 - 0.3 * (1 + teff[:, None]) * np.exp(-0.5 * ((wave - 5100) / 20) ** 2) + 0.01 * random.normal(size=(N, P))
    names = tuple(f"star {i}" for i in range(N))
    nan = np.full(N, np.nan)
    spectra = Dataset(
        wave, flux.astype(np.float32), np.full((N, P), 1e4, np.float32), np.full(P, 1800.0), ("",) * N, names, names,
        nan, nan, np.zeros(N), np.full(N, 100.0), ("",) * N,
    )  # fmt: skip
    curves = LightCurveSet.from_light_curves(
        [stitch([Segment(n, n, *sine(p, 60.0, seed=i))]) for i, (n, p) in enumerate(zip(names, period))]
    )
    pairs = Table({"SPECTRUM": names, "LIGHT_CURVE": names})
    labels = Table({"OBSID": names, "TEFF": 5500 + 500 * teff, "TEFF_ERR": np.full(N, 50.0),
                    "LOG_PROT": np.log10(period), "LOG_PROT_ERR": np.full(N, 0.02), "FAST": (period < 6).astype(float),
                    "FAST_ERR": np.full(N, 0.1)})  # fmt: skip
    return spectra, curves, pairs, labels


@pytest.fixture(scope="module")
def model(world) -> Desa:
    return train(*world[:3], settings=TINY)


@pytest.mark.parametrize("period", [0.7, 5.0, 21.0])
def test_both_classical_periods_find_a_sine_with_gaps(period):
    _, flux = sine(period)
    flux = flux - 1
    flux[3000:3900] = np.nan
    assert acf_period(flux)[0] == pytest.approx(period, rel=0.03)
    assert lomb_scargle_period(flux)[0] == pytest.approx(period, rel=0.03)


def test_two_spots_do_not_halve_the_period():
    time = STEP * np.arange(9000)
    flux = 0.01 * np.cos(4 * np.pi * time / 10) + 0.004 * np.cos(2 * np.pi * time / 10)
    assert acf_period(flux)[0] == pytest.approx(10.0, rel=0.02)


def test_views_lie_on_their_grids():
    _, flux = sine(4.0, days=2 * LENGTH * STEP)
    views = views_of(flux - 1)
    assert len(views) == 2
    assert LAGS[np.argmax(np.where((LAGS * STEP > 2) & (LAGS * STEP < 6), views.acf[0], -1))] * STEP == pytest.approx(
        4.0, rel=0.03
    )
    peak = np.argmax(views.power[0])
    assert FREQUENCIES[peak] <= 1.02 / 4.0 <= 1.05 * FREQUENCIES[peak + 1]
    assert all(np.isfinite(getattr(views, name)).all() for name in ("flux", "acf", "power", "scalars"))


def test_power_is_in_ppm2_per_microhertz():
    random = np.random.default_rng(0)
    views = views_of(1e-4 * random.normal(size=LENGTH))
    white = 2 * 100.0**2 * STEP * 0.0864  # one-sided, ppm²/µHz
    assert 10 ** (2 * np.median(views.power[0][128:]) + 1) == pytest.approx(white, rel=0.1)


def test_detrending_keeps_rotation_and_takes_levels_and_slopes(tmp_path):
    time, flux = sine(20.0, 90.0)
    later = 100.0 + time
    curve = stitch([Segment("a", "s", time, 3 * flux * (1 + 2e-4 * time)), Segment("b", "s", later, 7 * flux)])
    assert np.nanstd(curve.flux) == pytest.approx(0.01 / np.sqrt(2), rel=0.1)
    assert acf_period(curve.flux)[0] == pytest.approx(20.0, rel=0.05)


def test_a_single_outlier_goes_and_an_eclipse_stays():
    time, flux = sine(20.0, 60.0)
    flux[500], flux[1000:1006] = 1.5, 0.7
    curve = stitch([Segment("a", "s", time, flux)])
    assert np.isnan(curve.flux[500])
    assert np.nanmin(curve.flux) < -0.25


def test_two_minute_cadence_is_averaged(tmp_path):
    time = np.arange(0, 27.0, 2 / 1440)
    flux = 1 + 0.01 * np.sin(2 * np.pi * time / 3) + 1e-3 * np.random.default_rng(0).normal(size=len(time))
    curve = stitch([read_segment(write_table(tmp_path / "a.csv", time, flux))])
    assert len(curve.flux) == pytest.approx(27.0 / STEP, abs=2)
    assert np.isfinite(curve.flux).mean() > 0.99


def test_kepseismic_images_are_read_in_ppm(tmp_path):
    time, flux = sine(5.0, 50.0)
    ppm = 1e6 * (flux - 1)
    ppm[:200] = 0.0
    hdu = fits.PrimaryHDU(np.column_stack([time, ppm]))
    hdu.header["OBJECT"] = "KIC 1"
    hdu.writeto(tmp_path / "k.fits")
    segment = read_segment(tmp_path / "k.fits")
    assert segment.target == "KIC 1"
    assert len(segment.time) == len(time) - 200
    assert segment.flux.std() == pytest.approx(flux.std(), rel=0.02)


def mission_file(path: Path, time: np.ndarray, flux: np.ndarray, quality: np.ndarray) -> Path:
    """A Kepler light-curve file, as far as lightkurve looks at it."""
    nan = np.full(len(time), np.nan, dtype=np.float32)
    primary = fits.PrimaryHDU()
    primary.header.update({"TELESCOP": "Kepler", "MISSION": "Kepler", "OBJECT": "KIC 7", "KEPLERID": 7, "QUARTER": 3,
                           "ORIGIN": "NASA/Ames", "CREATOR": "FluxExporter2PipelineModule",
                           "OBSMODE": "long cadence"})  # fmt: skip
    columns = [fits.Column("TIME", "D", unit="BJD - 2454833", array=time)]
    columns += [fits.Column(n, "E", unit="e-/s", array=a) for n, a in (
        ("SAP_FLUX", flux), ("SAP_FLUX_ERR", nan), ("PDCSAP_FLUX", flux), ("PDCSAP_FLUX_ERR", nan),
        ("MOM_CENTR1", nan), ("MOM_CENTR2", nan))]  # fmt: skip
    columns += [
        fits.Column("CADENCENO", "J", array=np.arange(len(time))),
        fits.Column("SAP_QUALITY", "J", array=quality),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")
    fits.HDUList([primary, table]).writeto(path)
    return path


def test_mission_files_are_read_by_lightkurve_without_flagged_points(tmp_path):
    pytest.importorskip("lightkurve", reason="lightkurve is not installed (the extra light-curves)")
    time, flux = sine(5.0, 50.0)
    quality = np.zeros(len(time), dtype=int)
    quality[:300], quality[300:400] = 32 | 256, 128
    segment = read_segment(mission_file(tmp_path / "k.fits", 130 + time, 1000 * flux, quality))
    assert segment.target == "KIC 7"
    assert len(segment.time) == len(time) - 300
    with pytest.raises(UserError, match=r"all\.fits: all of its \d+ points are flagged as bad"):
        read_segment(mission_file(tmp_path / "all.fits", 130 + time, flux, quality | 256))


BAD = {
    "one point": (lambda t, f: (t[:1], f[:1], {}), "has 1 usable points, expected 100 or more"),
    "all flagged": (lambda t, f: (t, f, {"quality": np.full(len(t), 256)}), "points are flagged as bad"),
    "other cadence": (lambda t, f: (50 * t, f, {}), "one point every 1.02 d, expected 30 minutes"),
    "duplicated times": (lambda t, f: (np.r_[t, t[:5]], np.r_[f, f[:5]], {}), "5 of its times stand there twice"),
    "magnitudes": (lambda t, f: (t, -f, {}), "median flux is -1, expected a positive one"),
    "constant": (lambda t, f: (t, 0 * f + 3, {}), "its flux is 3 everywhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_light_curves_are_one_sentence(case, tmp_path):
    change, words = BAD[case]
    time, flux, more = change(*sine(5.0, 50.0))
    path = write_table(tmp_path / "bad.csv", time, flux, **more)
    with pytest.raises(UserError, match=words) as caught:
        read_segment(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_bad_files(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_segment(tmp_path / "none.csv")
    (tmp_path / "x.fits").write_bytes(b"SIMPLE  = garbage")
    with pytest.raises(UserError, match=r"x\.fits"):
        read_segment(tmp_path / "x.fits")
    Table({"a": [1.0], "b": [2.0]}).write(tmp_path / "y.csv", format="ascii.csv")
    with pytest.raises(UserError, match="no columns TIME"):
        read_segment(tmp_path / "y.csv")
    time, flux = sine(1.0, 3.0)
    with pytest.raises(UserError, match=r"3\.0 d of s, expected 5"):
        stitch([Segment("a", "s", time, flux)])
    with pytest.raises(UserError, match="overlaps in time with a"):
        stitch([Segment("a", "s", time, flux), Segment("b", "s", time + 1.0, flux)])


def test_a_bad_file_is_a_row_with_a_reason_and_a_folder_of_them_an_error(tmp_path):
    write_table(tmp_path / "good.csv", *sine(5.0, 50.0))
    write_table(tmp_path / "short.csv", *(x[:3] for x in sine(5.0)))
    found = read_light_curves([tmp_path])
    assert dict(zip(found.stars, found.readable.tolist())) == {"good": True, str(tmp_path / "short.csv"): False}
    with pytest.raises(UserError, match="none of the 1 light curves can be used; the first"):
        read_light_curves([tmp_path / "short.csv"])


def test_a_set_of_light_curves_survives_the_disk(world, tmp_path):
    curves = world[1]
    curves.write(tmp_path / "c.h5")
    again = LightCurveSet.read(tmp_path / "c.h5")
    assert again.stars == curves.stars
    np.testing.assert_array_equal(again.views.flux, curves.views.flux)
    part = again.take(np.array([5, 2]))
    assert part.stars == ("star 5", "star 2")
    np.testing.assert_array_equal(part.views.acf, curves.views.acf[[5, 2]])


def test_pairs_that_name_what_is_not_there_are_one_sentence(world):
    spectra, curves, *_ = world
    with pytest.raises(
        UserError, match="1 of its 2 pairs name a light curve that is not among those given, the first nobody"
    ):
        gather(spectra, curves, Table({"SPECTRUM": ["star 1", "star 2"], "LIGHT_CURVE": ["star 1", "nobody"]}))
    with pytest.raises(UserError, match="name a spectrum"):
        gather(spectra, curves, Table({"SPECTRUM": ["x"], "LIGHT_CURVE": ["star 1"]}))
    with pytest.raises(UserError, match="expected columns SPECTRUM and LIGHT_CURVE"):
        gather(spectra, curves, Table({"A": ["x"], "LIGHT_CURVE": ["star 1"]}))
    with pytest.raises(UserError, match="stands there twice"):
        gather(spectra, curves, Table({"SPECTRUM": ["star 1"] * 2, "LIGHT_CURVE": ["star 1"] * 2}))


def test_what_is_in_no_pair_is_a_star_of_its_own(world):
    spectra, curves, *_ = world
    stars = gather(spectra, curves, Table({"SPECTRUM": ["star 1"], "LIGHT_CURVE": ["star 1"]}))
    assert len(stars) == 2 * N - 1
    assert stars.both.sum() == 1


def test_labels_of_either_modality_are_found_and_the_first_table_counts(world):
    spectra, curves, pairs, labels = world
    stars = gather(spectra, curves, pairs)
    other = Table({"FILE": ["star 3", "star 4"], "TEFF": [1.0, 2.0], "TEFF_ERR": [1.0, 1.0],
                   "AGE": [3.0, 4.0], "AGE_ERR": [1.0, 1.0]})  # fmt: skip
    found = labels_of(stars, spectra, curves, [labels, other])
    names = [info.name for info in found.infos]
    assert names == ["TEFF", "LOG_PROT", "FAST", "AGE"]
    assert found.values[3, 0] == labels["TEFF"][3]
    assert found.values[:, 3][np.isfinite(found.values[:, 3])].tolist() == [3.0, 4.0]


def test_the_transpose_does_not_change_the_quadratic_form():
    torch.manual_seed(0)
    e1, e2, matrix = torch.randn(50, 6), torch.randn(50, 6), torch.randn(6, 6)
    with_it, without = alignment(e1, e2, matrix), alignment(e1, e2, matrix, transpose=False)
    assert torch.allclose(with_it, without)
    by_hand = 0.5 * np.mean([((a @ matrix @ a - b @ matrix.T @ b) / 6) ** 2 for a, b in zip(e1, e2)])
    assert float(with_it) == pytest.approx(float(by_hand), rel=1e-5)


def test_covariance_is_zero_for_independent_components_alone():
    e = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(covariance(e)) == pytest.approx(0.0, abs=1e-7)
    assert float(covariance(e[:, :1].repeat(1, 2))) > 1


def test_contrastive_loss_is_least_for_the_right_partners():
    e = torch.eye(8)
    scale = torch.tensor(3.0)
    assert contrastive(e, e, scale) < contrastive(e, e.roll(1, 0), scale)


def test_projections_use_one_matrix_and_its_transpose():
    torch.manual_seed(0)
    dual = DualFormer((3, 4), 8, 5, 1)
    e1, e2 = torch.randn(2, 7, 5)
    p1, p2 = dual.projected(e1, e2)
    assert torch.allclose(p1, e1 @ dual.matrix.T)
    assert torch.allclose(p2, e2 @ dual.matrix)
    axes, symmetric = dual.axes(), 0.5 * (dual.matrix + dual.matrix.T)
    rotated = axes.T @ symmetric @ axes
    assert torch.allclose(rotated, torch.diag(rotated.diagonal()), atol=1e-5)


@pytest.mark.parametrize(("attention", "depends"), [("both", True), ("cross", True), ("self", False)])
def test_only_cross_attention_lets_one_modality_see_the_other(attention, depends):
    torch.manual_seed(0)
    dual = DualFormer((3, 4), 8, 5, 1, attention)
    for head in dual.heads:  # which begin at nothing
        torch.nn.init.normal_(head.weight)
    have = torch.ones(2, 2, dtype=torch.bool)
    spectrum, curve = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    one, _ = dual.raw(spectrum, curve, have)
    changed, _ = dual.raw(spectrum, torch.randn(2, 4, 8), have)
    assert torch.allclose(one, changed, atol=1e-6) != depends


def test_a_missing_modality_is_not_looked_at():
    torch.manual_seed(0)
    dual = DualFormer((3, 4), 8, 5, 1)
    have = torch.tensor([[True, False]])
    spectrum, curve = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    assert torch.equal(dual(spectrum, curve, have), dual(spectrum, torch.randn(1, 4, 8), have))


def test_tokens_are_standardised_by_those_of_the_training_pairs(world, model):
    stars = gather(*world[:3])
    tokens = model.tokens(stars, *world[:2])
    trained = np.isin(stars.names, model.metadata["training"])
    standard = model.dual_former.standard_tokens(tokens.spectrum[trained], 0)
    assert float(standard.mean().abs()) < 0.05
    assert float(standard.std(0).median()) == pytest.approx(1.0, abs=0.1)


def test_one_modality_learns_what_its_pair_would_say(world, model):
    """Embeddings from the spectrum alone are nearer to the pair's than those of other stars are."""
    stars = gather(*world[:3])
    tokens = model.tokens(stars, *world[:2])
    both, alone = (model.embed(seen_with(tokens, kind)) for kind in ("both", "spectrum"))
    own = np.square(both - alone).sum(1).mean()
    assert own < np.square(both - np.roll(alone, 1, axis=0)).sum(1).mean()


def test_masked_pixels_do_not_reach_the_tokens():
    torch.manual_seed(0)
    encoder = SpectrumEncoder(P, 0, 16, 1)
    flux, ivar = torch.rand(2, P), torch.ones(2, P)
    ivar[:, 50:80] = 0
    other = flux.clone()
    other[:, 50:80] = 9.0
    assert torch.equal(encoder(*encoder.standardised(flux, ivar)), encoder(*encoder.standardised(other, ivar)))


def test_pinball_loss_is_least_at_the_quantiles():
    labels = torch.linspace(0, 1, 1001)[:, None]
    best = torch.tensor([0.16, 0.5, 0.84]).expand(1001, 1, 3)
    assert pinball(best, labels) < pinball(best + 0.05, labels)
    with_missing = torch.cat([labels, torch.full((5, 1), torch.nan)])
    assert torch.isclose(pinball(best[:1].expand(1006, 1, 3), with_missing), pinball(best, labels))


def test_pairs_of_stretches_are_of_one_star_and_differ_where_they_can(world):
    curves = LightCurveSet.from_light_curves([stitch([Segment("a", "a", *sine(3.0, 400.0))]),
                                              stitch([Segment("b", "b", *sine(3.0, 60.0))])])  # fmt: skip
    pairs = StretchPairs(curves.views, curves.owner)
    generator = torch.Generator().manual_seed(0)
    one, other = pairs.draw(torch.tensor([0, 1] * 10), generator)
    assert not (one[2][::2] == other[2][::2]).all(dim=1).any()
    assert (one[2][1::2] == other[2][1::2]).all()


def test_training_holds_out_a_fifth_and_learns_no_label_unasked(model, world):
    held, trained = set(model.metadata["held_out"]), set(model.metadata["training"])
    assert len(held) == N // 5
    assert held.isdisjoint(trained)
    assert model.infos == ()


def test_a_killed_training_ends_as_one_that_was_not(world, model, tmp_path, monkeypatch):
    keep = TrainingFolder.keep

    def killed(self, stage, module, optimiser, about):
        keep(self, stage, module, optimiser, about)
        if (stage, about["epoch"]) == ("dual", 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingFolder, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        train(*world[:3], settings=TINY, parts=tmp_path / "parts")
    monkeypatch.undo()
    again = train(*world[:3], settings=TINY, parts=tmp_path / "parts")
    assert [len(v) for v in again.metadata["losses"].values()] == [0, 0, 0, 1]
    stars = gather(*world[:3])
    one, other = (m.embed(m.tokens(stars, *world[:2])) for m in (model, again))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert not (tmp_path / "parts").exists()


def test_a_model_survives_the_disk_and_embeds_either_modality(model, world, tmp_path):
    spectra, curves, pairs, _ = world
    model.save(tmp_path / "m.safetensors")
    again = Desa.load(tmp_path / "m.safetensors")
    table, same = (m.apply(gather(spectra, curves, pairs), spectra, curves) for m in (model, again))
    np.testing.assert_array_equal(table["EMBEDDING"], same["EMBEDDING"])
    alone = again.apply(gather(None, curves, None), None, curves)
    assert np.isfinite(alone["EMBEDDING"]).all()
    assert (alone["FLAG"] & int(DesaFlag.NO_SPECTRUM) > 0).all()
    only = again.apply(gather(spectra, None, None), spectra, None)
    assert np.isfinite(only["EMBEDDING"]).all()
    assert (only["FLAG"] & int(DesaFlag.NO_LIGHT_CURVE) > 0).all()
    assert not np.allclose(only["EMBEDDING"], table["EMBEDDING"])


def test_a_star_with_nothing_usable_is_a_flagged_row(model, world):
    _, curves, *_ = world
    broken = LightCurveSet.from_light_curves([])
    lost = LightCurveSet(
        ("x",), ("x.csv",), ("x.csv: broken",), *[np.full(1, np.nan)] * 6, np.empty(0, np.int64), broken.views
    )
    table = model.apply(gather(None, lost, None), None, lost)
    assert table["FLAG"][0] == DesaFlag.NOTHING
    assert np.isnan(table["EMBEDDING"]).all()
    assert table["REASON"][0] == "x.csv: broken"


def test_learned_labels_come_with_errors_and_are_not_scored(world, tmp_path):
    from phdlspec.datadriven.desa.check import write_check

    spectra, curves, pairs, labels = world
    model = train(spectra, curves, pairs, [labels["OBSID", "TEFF", "TEFF_ERR"]], TINY)
    stars = gather(spectra, curves, pairs)
    table = model.apply(stars, spectra, curves)
    assert np.isfinite(table["TEFF"]).all()
    assert (table["TEFF_ERR"] > 0).all()
    write_check(model, stars, spectra, curves, [labels], tmp_path, "m")
    scored = set(Table.read(tmp_path / "check.ecsv")["label"])
    assert scored == {"LOG_PROT", "FAST"}


def test_check_scores_held_out_stars_alone(model, world, tmp_path):
    from phdlspec.datadriven.desa.check import write_check

    spectra, curves, pairs, labels = world
    words = write_check(model, gather(spectra, curves, pairs), spectra, curves, [labels], tmp_path, "m")
    assert words.startswith(f"{tmp_path / 'check.html'}: {N // 5} held-out stars")
    table = Table.read(tmp_path / "check.ecsv")
    assert set(table["held_out"]) == {N // 5}
    teff = {row["input"]: row["R2"] for row in table if row["label"] == "TEFF"}
    assert teff["spectrum, encoder"] > 0.4 > teff["light curve, encoder"]
    period = {row["input"]: row for row in table if row["label"] == "LOG_PROT"}
    assert period["classical period"]["CLOSE"] > 0.8
    page = (tmp_path / "check.html").read_text()
    assert "HR and Kiel" not in page
    assert "Rotation periods, share within 10%" in page


def test_scores():
    labels = np.array([0, 0, 1, 1.0])
    assert area_under_curve(np.array([1, 2, 3, 4.0]), labels) == 1.0
    assert area_under_curve(np.array([1, 3, 2, 4.0]), labels) == 0.75
    assert average_precision(np.array([1, 3, 2, 4.0]), labels) == pytest.approx((1 + 2 / 3) / 2)
    assert ranks_of_partners(np.array([[3.0, 1, 2], [3, 2, 1], [0, 1, 2]])).tolist() == [0, 1, 0]
    assert ranks_of_partners(np.zeros((5, 5))).tolist() == [2] * 5  # nothing is told: neither first nor last


def test_partners_are_found_by_what_two_sets_of_features_share():
    random = np.random.default_rng(0)
    shared = random.normal(size=(500, 4))
    one, other = (
        np.hstack([shared + 0.1 * random.normal(size=(500, 4)), random.normal(size=(500, 6))])
        @ random.normal(size=(10, 10))
        for _ in range(2)
    )
    matching = fit_matching(one[:400], other[:400])
    ranks = ranks_of_partners(matching(one[400:], other[400:]))
    assert (ranks == 0).mean() > 0.5
    assert (matching.correlation > 0.5).sum() == 4
    unrelated = fit_matching(one[:400], random.normal(size=(400, 10)))
    assert unrelated.correlation.max() < 0.4


@pytest.mark.parametrize("kind", ["number", "class"])
def test_probes_find_a_straight_line_among_noise(kind):
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 30))
    y = x[:, 0] - 2 * x[:, 1] + 0.1 * random.normal(size=400)
    y = y if kind == "number" else (y > 0).astype(float)
    found = fit_probe(x[:300], y[:300])(x[300:])
    if kind == "number":
        assert np.std(found - y[300:]) < 0.15
    else:
        assert area_under_curve(found, y[300:]) > 0.95


def test_mock_light_curves_have_the_period_the_eclipse_and_the_noise_asked_for():
    random = np.random.default_rng(2)
    spots = Spots(period=6.0, amplitude=0.005, lifetime=60.0, inclination=1.4)
    curve = stitch(observe("a", 180.0, 5700.0, 4.4, 12.0, random, spots))
    assert acf_period(curve.flux)[0] == pytest.approx(6.0, rel=0.1)
    binary = Binary(3.0, 1.0, np.pi / 2, (0.1, 0.05), 0.5, 0.6, 60.0)
    time = STEP * np.arange(3000)
    flux = binary.flux(time)
    assert flux[np.argmin(np.abs(time - 1.0))] == pytest.approx(-0.25 * binary.light[0], rel=0.03)
    assert flux[np.argmin(np.abs(time - 2.5))] == pytest.approx(-binary.light[1], rel=0.1)
    quiet = stitch(observe("b", 100.0, 5700.0, 4.44, 15.0, random))
    scatter = np.nanstd(np.diff(quiet.flux)) / np.sqrt(2)
    assert scatter == pytest.approx(photon_noise(15.0), rel=0.1)


def test_mock_quarters_are_keplers_and_have_gaps():
    random = np.random.default_rng(1)
    for _ in range(5):
        segments = observe("a", 683.0, 5700.0, 4.4, 13.0, random)
        numbers = [int(s.path.split("Q")[1]) for s in segments]
        assert all(QUARTERS[q][0] <= s.time[0] and s.time[-1] <= QUARTERS[q][1] for q, s in zip(numbers, segments))
        assert any(np.diff(s.time).max() > 0.7 for s in segments)
        assert sum(s.time[-1] - s.time[0] for s in segments) > 400.0


def test_rotators_are_drawn_evenly_and_alike_for_a_seed():
    acf, power, log_period = draw_rotators(30, seed=3)
    assert acf.shape == power.shape == (30, len(LAGS))
    assert np.isfinite(acf).all()
    assert np.isfinite(power).all()
    assert log_period.min() > np.log10(0.19)
    assert log_period.max() < np.log10(71.0)
    np.testing.assert_array_equal(draw_rotators(5, seed=4)[2], draw_rotators(5, seed=4)[2])


def test_period_network_learns_the_period_of_rotators():
    rotators = [torch.as_tensor(x, dtype=torch.float32) for x in draw_rotators(60, seed=5)]
    torch.manual_seed(0)
    network = PeriodNetwork(8)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    first = float(period_loss(network, *rotators).detach())
    for _ in range(30):
        optimiser.zero_grad()
        loss = period_loss(network, *rotators)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < first - 1.0


def test_what_is_said_of_a_period():
    odds = torch.full((1, len(LAGS)), -50.0)
    odds[0, 100] = 0.0
    answer = said(odds)[0]
    assert answer[0] == pytest.approx(LOG_PERIODS[100], abs=1e-4)
    assert answer[1] == pytest.approx(0.0, abs=1e-3)
    assert answer[2:].argmax() == 100 // (len(LAGS) // 32)


def test_network_periods_come_from_the_mean_views_with_errors_and_nan_where_there_is_nothing(world):
    class AtTheSecondPeak(PeriodNetwork):
        def forward(self, acf, power):
            odds = torch.full_like(acf, -50.0)
            odds[:, [100, 120]] = torch.log(torch.tensor([0.7, 0.3]))
            return odds

    curves = world[1]
    lost = LightCurveSet(("x",), ("x.csv",), ("broken",), *[np.full(1, np.nan)] * 6, np.empty(0, np.int64), no_views(0))
    period, error = network_periods(AtTheSecondPeak(), curves)
    np.testing.assert_allclose(period, 10 ** LOG_PERIODS[100], rtol=0.03)
    np.testing.assert_allclose(error, 0.5 * (10 ** LOG_PERIODS[120] - 10 ** LOG_PERIODS[100]), rtol=0.1)
    assert np.isnan(network_periods(AtTheSecondPeak(), lost)).all()


def test_mean_views_weigh_stretches_by_what_they_hold(world):
    views = world[1].views.take(np.arange(3))
    views.scalars[:, 2] = [1.0, 3.0, 1.0]
    acf, _ = mean_views(views, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(acf[0], 0.25 * views.acf[0] + 0.75 * views.acf[1], atol=1e-6)
    np.testing.assert_array_equal(acf[1], 0.0)


def test_dual_former_begins_at_the_principal_components_of_the_features():
    torch.manual_seed(0)
    tokens = [torch.randn(200, 1, 3) @ torch.randn(3, 5 * 16) for _ in range(2)]
    one, other = (x.reshape(200, 5, 16) for x in tokens)
    dual = DualFormer((5, 5), 16, 8, 1)
    dual.set_tokens(one, other)
    e = dual.raw(one, other, torch.ones(200, 2, dtype=torch.bool))
    known = features(dual.standard_tokens(one, 0))
    assert torch.allclose(dual.readers[0](e[0] - dual.heads[0].bias), known, atol=1e-2)
    assert torch.allclose(e[0][:, :3].T.cov(), torch.eye(3), atol=0.05)


def test_granulation_of_a_giant_is_larger_than_the_suns():
    random = np.random.default_rng(0)
    sun, giant = (granulation(8192, t, g, random).std() * 1e6 for t, g in ((5772.0, 4.438), (4800.0, 2.5)))
    assert 10 < sun < 40
    assert giant > 5 * sun


def test_the_commands_from_files_to_a_report(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("phdlspec.commands.desa.DesaSettings", partial(DesaSettings, rotators=20))
    spectra, curves, pairs, labels = world
    spectra.write(tmp_path / "s.h5")
    curves.write(tmp_path / "c.h5")
    pairs.write(tmp_path / "p.ecsv")
    labels.write(tmp_path / "l.ecsv")
    stars = ["--spectra", f"{tmp_path}/s.h5", "--light-curves", f"{tmp_path}/c.h5", "--pairs", f"{tmp_path}/p.ecsv"]
    model = f"{tmp_path}/m.safetensors"
    assert main(["desa", "train", *stars, "--epochs", "1", "--out", model]) == 0
    assert main(["desa", "embed", model, *stars, "--out", f"{tmp_path}/e.fits"]) == 0
    assert main(["desa", "embed", model, "--light-curves", f"{tmp_path}/c.h5", "--out", f"{tmp_path}/e.ecsv"]) == 0
    assert main(["desa", "check", model, *stars, "--labels", f"{tmp_path}/l.ecsv", "--out", f"{tmp_path}/report"]) == 0
    assert len(Table.read(tmp_path / "e.fits")) == N
    assert (tmp_path / "report" / "check.html").is_file()
    capsys.readouterr()
    assert main(["desa", "embed", model, "--out", f"{tmp_path}/e.fits"]) == 1
    assert "give --spectra, --light-curves, or both" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(("kic", "period"), [("003733735", 2.57), ("008006161", 31.71), ("010644253", 10.88)])
def test_real_rotation_periods_by_autocorrelation(kic, period):
    found = acf_period(stitch([read_segment(SHARED / "kepler/lightcurves" / f"{kic}.fits")]).flux)[0]
    assert found == pytest.approx(period, rel=0.1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(
    "file",
    [
        "kepler/lightcurves/epic211015853.fits",
        "kepler/lightcurves/KIC-892376.csv",
        "kepler/lightcurves/m35_kacf/J06071008+2404374_xy_v2_ap2.0.dat.gz",
        TESS_FILE,
    ],
)
def test_real_files_of_k2_tess_and_tables_are_read(file):
    if file.endswith(".fits"):
        pytest.importorskip("lightkurve", reason="lightkurve is not installed (the extra light-curves)")
    segment = read_segment(SHARED / file)
    assert len(segment.time) > 1000
    assert len(views_of(stitch([segment]).flux)) == 1
