"""Labels of stars by pollux (the successor of its authors' Lux), for `lux_study.py`; run by a Python that has it.

    python lux_pollux.py IN.npz OUT.npz

IN has latents, label, label_err (n, L), train_flux, train_err (n, P), test_flux, test_err (m, P); OUT gets label
(m, L). pollux 0.1.0 needs xmmutablemap before 0.3.
The model is its `Lux` with the scatter of the pixels fitted, blocks and optimisers are its defaults but for the number
of cycles and of steps.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
import pollux
from pollux.data import OutputData, PolluxData, ShiftScalePreprocessor

jax.config.update("jax_enable_x64", True)
CYCLES, STEPS = 12, 150


def main() -> None:
    arrays = np.load(sys.argv[1])
    scales = {name: ShiftScalePreprocessor.from_data(arrays[key]) for name, key in
              (("flux", "train_flux"), ("label", "label"))}  # fmt: skip
    train = PolluxData(
        flux=OutputData(arrays["train_flux"], err=arrays["train_err"], preprocessor=scales["flux"]),
        label=OutputData(arrays["label"], err=arrays["label_err"], preprocessor=scales["label"]),
    ).preprocess()
    model = pollux.Lux(
        latent_size=int(arrays["latents"]), label_size=arrays["label"].shape[1], flux_size=arrays["train_flux"].shape[1]
    )
    options = {"flux:err": {"num_steps": STEPS, "optimizer_kwargs": {"step_size": 1e-2}}}
    trained = model.optimize_iterative(
        train, max_cycles=CYCLES, rng_key=jax.random.PRNGKey(0), progress=False, block_options=options
    )
    test = PolluxData(
        flux=OutputData(arrays["test_flux"], err=arrays["test_err"], preprocessor=scales["flux"])
    ).preprocess()
    found = model.optimize_iterative(
        test, blocks=["latents"], fixed_pars=model.output_pars(trained.params), max_cycles=5, progress=False
    )
    label = model.predict_outputs(found.params, names=["label"])["label"]
    np.savez(sys.argv[2], label=np.asarray(scales["label"].inverse_transform(label)))


if __name__ == "__main__":
    main()
