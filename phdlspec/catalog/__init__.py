"""Catalogues: many spectra through the fit, resumable, in one table."""

from phdlspec.catalog.inputs import expand_inputs, write_packed
from phdlspec.catalog.job import CatalogJob
from phdlspec.catalog.reading import read_catalog
from phdlspec.catalog.run import make_catalog

__all__ = ["CatalogJob", "expand_inputs", "make_catalog", "read_catalog", "write_packed"]
