"""Models learned from data: one data set for all of them, one sub-package for each."""
