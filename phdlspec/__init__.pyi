from .catalog import fit_many as fit_many
from .catalog import read_catalog as read_catalog
from .datadriven import lux as lux
from .default_emulator import load_emulator as load_emulator
from .direct_synthesis import load_direct_synthesis as load_direct_synthesis
from .emulator.emulator import Emulator as Emulator
from .errors import UserError as UserError
from .fitting.driver import fit as fit
from .fitting.result import FitResult as FitResult
from .fitting.settings import FitSettings as FitSettings
from .io import read_spectrum as read_spectrum
from .labels import LabelSet as LabelSet
from .spectrum import Spectrum as Spectrum

__version__: str
