import numpy as np
import pytest
import torch

from phdlspec.errors import UserError
from phdlspec.labels import (
    ELEMENTS,
    GRID_LABELS,
    GRID_ROLES,
    LABELS,
    STRUCTURE,
    LabelSet,
    Role,
    abundance_name,
    typical_vmic,
)


def test_roles_name_what_stands_where():
    labels = LabelSet()
    assert labels.names[labels.place(Role.MAIN)] == ("TEFF", "LOGG", "VMIC", "FE_H")
    assert labels.names[labels.place(Role.ABUNDANCE)] == tuple(map(abundance_name, ELEMENTS))
    assert labels.names[labels.place(Role.BROADENING)] == ("VBROAD",)
    assert labels.names[labels.place(*GRID_ROLES)] == GRID_LABELS.names
    assert set(STRUCTURE) < set(labels.names[labels.place(Role.MAIN)])


def test_labels_of_one_role_that_are_scattered_are_refused():
    scattered = LabelSet((LABELS[0], LABELS[-1], LABELS[1]))
    with pytest.raises(ValueError, match="do not stand together"):
        scattered.place(Role.MAIN)


def test_the_element_of_a_label():
    assert LabelSet()["MG_FE"].element == "Mg"
    assert LabelSet()["FE_H"].element is None


def test_microturbulence_is_one_relation_for_arrays_and_tensors():
    stars = np.array([[5772.0, 4.44, 0.0], [4500.0, 2.0, -0.5], [4000.0, 5.0, 0.3], [7500.0, 0.5, -2.0]])
    vmic = typical_vmic(*stars.T)
    assert vmic == pytest.approx(typical_vmic(*torch.as_tensor(stars).T).numpy(), abs=1e-12)
    assert vmic[0] == pytest.approx(1.07, abs=0.05)  # the Sun's
    assert vmic.min() == 0.7
    assert vmic.max() == 2.5


def test_a_star_from_a_few_labels():
    theta = LabelSet().complete({"TEFF": 4800.0, "LOGG": 2.5, "FE_H": -0.3, "MG_FE": 0.2})
    found = dict(zip(LabelSet().names, theta))
    assert (found["TEFF"], found["MG_FE"], found["CA_FE"]) == (4800.0, 0.2, 0.0)
    assert found["VMIC"] == pytest.approx(float(typical_vmic(*np.array([[4800.0], [2.5], [-0.3]]))[0]))
    with pytest.raises(UserError, match="did you mean TEFF"):
        LabelSet().complete({"TEF": 5000.0})
