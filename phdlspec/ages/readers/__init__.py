"""Readers of isochrones: a name of a set of the package `lachesis-grids`, or files as their makers distribute them."""

from phdlspec.ages.readers.find import read_isochrones

__all__ = ["read_isochrones"]
