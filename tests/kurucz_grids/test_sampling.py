import numpy as np
import pytest

from kurucz_grids.sampling import TEST, VALIDATION, sample_labels, split_rows
from phdlspec.errors import UserError
from phdlspec.labels import GRID_LABELS, typical_vmic


@pytest.fixture(scope="module")
def labels():
    return sample_labels(4000, seed=3)


def _column(labels, name):
    return labels[:, GRID_LABELS.index(name)]


def test_labels_are_inside_and_fill_every_range(labels):
    assert labels.shape == (4000, 32)
    assert GRID_LABELS.inside(labels).all()
    unit = GRID_LABELS.to_unit(labels)
    assert (unit.min(axis=0) < 0.01).all()
    assert (unit.max(axis=0) > 0.99).all()


def test_a_shorter_set_is_the_beginning_of_a_longer_one(labels):
    def contains(teff, logg, fe_h):
        return not (teff > 6500 and logg < 2)

    assert np.array_equal(sample_labels(1000, seed=3), labels[:1000])
    assert np.array_equal(sample_labels(300, 3, contains), sample_labels(700, 3, contains)[:300])
    assert not np.array_equal(sample_labels(10, seed=4), labels[:10])


def test_where_there_is_no_atmosphere_points_are_drawn_again(labels):
    def contains(teff, logg, fe_h):
        return not (teff > 6500 and logg < 2)

    again = sample_labels(4000, 3, contains)
    assert not ((_column(again, "TEFF") > 6500) & (_column(again, "LOGG") < 2)).any()
    moved = (again != labels).any(axis=1)
    assert 0 < moved.sum() < 1000
    with pytest.raises(UserError, match="no atmosphere"):
        sample_labels(3, 3, lambda *_: False)


def test_more_models_where_stars_are_and_none_of_the_box_is_left_out(labels):
    teff, logg, fe_h = (_column(labels, name) for name in ("TEFF", "LOGG", "FE_H"))
    sunlike = ((abs(teff - 5772) < 250) & (abs(logg - 4.44) < 0.25)).mean()
    nowhere = ((abs(teff - 7000) < 250) & (abs(logg - 2.0) < 0.25)).mean()
    assert sunlike > 2 * nowhere > 0
    assert ((fe_h > -1) & (fe_h < 0.4)).mean() > 0.6
    counts, _ = np.histogramdd(np.column_stack([teff, logg, fe_h]), bins=(5, 6, 5))
    assert counts.min() > 0


def test_vmic_follows_the_relation_with_scatter(labels):
    typical = typical_vmic(*(_column(labels, name) for name in ("TEFF", "LOGG", "FE_H")))
    residual = _column(labels, "VMIC") - typical
    assert 0.2 < np.subtract(*np.percentile(residual, [75, 25])) / 1.349 < 0.6


def test_alpha_rises_as_iron_falls_and_dredge_up_parts_carbon_from_nitrogen(labels):
    fe_h, logg = _column(labels, "FE_H"), _column(labels, "LOGG")
    poor, rich = fe_h < -1, fe_h > 0
    for name in ("O_FE", "MG_FE", "TI_FE"):
        assert _column(labels, name)[poor].mean() - _column(labels, name)[rich].mean() > 0.1
    assert abs(_column(labels, "NI_FE")[poor].mean()) < 0.03
    giants = logg < 3.4
    assert _column(labels, "C_FE")[giants].mean() < -0.1
    assert _column(labels, "N_FE")[giants].mean() > 0.1


def test_the_split_of_a_row_never_changes():
    assert np.array_equal(split_rows(10_000, 5)[:4000], split_rows(4000, 5))
    assert np.array_equal(split_rows(1234, 5)[:60], split_rows(60, 5))
    assert not np.array_equal(split_rows(4000, 5), split_rows(4000, 6))


@pytest.mark.parametrize(("n", "test"), [(750, 150), (2000, 150), (4000, 200), (10_000, 500)])
def test_the_shares_of_the_split(n, test):
    split = split_rows(n)
    assert (split == TEST).sum() == test
    assert 0.04 * n <= (split == VALIDATION).sum() <= 0.06 * n


def test_no_models_is_refused():
    with pytest.raises(UserError, match="at least one"):
        sample_labels(0)
