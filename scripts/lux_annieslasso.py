"""Labels of stars by the quadratic Cannon of AnniesLasso, for `lux_study.py`; run by a Python that has `annieslasso`.

    python lux_annieslasso.py IN.npz OUT.npz

IN has label (n, L), train_flux, train_err (n, P), test_flux, test_err (m, P); OUT gets label (m, L). Version 0.2.96 of
PyPI needs NumPy before 2.
"""

from __future__ import annotations

import sys

import numpy as np
import thecannon


def main() -> None:
    arrays = np.load(sys.argv[1])
    names = [f"label{i}" for i in range(arrays["label"].shape[1])]
    labels = np.core.records.fromarrays(arrays["label"].T, names=names)
    model = thecannon.CannonModel(
        labels, arrays["train_flux"], arrays["train_err"] ** -2, thecannon.vectorizer.PolynomialVectorizer(names, 2)
    )
    model.train()
    found, _, _ = model.test(arrays["test_flux"], arrays["test_err"] ** -2)
    np.savez(sys.argv[2], label=np.asarray(found))


if __name__ == "__main__":
    main()
