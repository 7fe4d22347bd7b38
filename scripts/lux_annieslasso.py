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
    model = thecannon.CannonModel(
        arrays["label"], arrays["train_flux"], arrays["train_err"] ** -2.0,
        thecannon.vectorizer.PolynomialVectorizer(names, 2),
    )  # fmt: skip
    model.train()
    found, _, _ = model.test(arrays["test_flux"], arrays["test_err"] ** -2.0)
    np.savez(sys.argv[2], label=np.asarray(found))


if __name__ == "__main__":
    main()
