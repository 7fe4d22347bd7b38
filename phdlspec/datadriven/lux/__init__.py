"""Lux: labels from spectra by a latent vector that explains both, with missing labels and errors on both sides.

After Horta et al. (2025); equations from the paper, code and choices our own (docs/lux.md).

>>> from astropy.table import Table
>>> random = np.random.default_rng(1)
>>> teff, stars = random.uniform(4500, 5100, 40), []
>>> for i in range(40):
...     native = emulator.native_flux(torch.as_tensor(emulator.labels.complete({"TEFF": teff[i]})[None]).float())
...     stars.append(phdlspec.mock_lamost(native[0], emulator.native, teff[i], 100, i, identifier=str(i)))
>>> survey = Table({"OBSID": [str(i) for i in range(30)], "TEFF": teff[:30], "TEFF_ERR": [30.0] * 30})
>>> model = phdlspec.lux.train(stars, [survey], latents=3)
>>> model.apply(stars[30:])["TEFF"].shape
(10,)
"""

from phdlspec.datadriven.lux.flags import LUX_WORDS, LuxFlag
from phdlspec.datadriven.lux.lux import Lux, Prediction
from phdlspec.datadriven.lux.training import train

__all__ = ["LUX_WORDS", "Lux", "LuxFlag", "Prediction", "train"]
