"""calibration: the systematic errors of a catalogue, learned from stars that are known better, and taken out.

The public names are declared in `__init__.pyi` and loaded on first use.

The examples of its docstrings begin with a simulated survey, its catalogue and what others say of its stars:

>>> import numpy as np
>>> import calibration
>>> from calibration.simulate import SimulationSettings, simulate
>>> sizes = SimulationSettings(elements=("Mg",), pairs=60, members=40, survey_sizes=(150,), test_stars=50)
>>> survey = simulate(sizes, seed=1)
>>> catalogue, reference = survey.catalog, survey.labels[0]
>>> settings = calibration.LearnSettings(labels=("MG_FE",))
>>> learned = calibration.learn(catalogue, references=[reference], settings=settings)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
