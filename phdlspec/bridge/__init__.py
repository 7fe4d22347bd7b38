"""Learning the bridge (`phdlspec.emulator.bridge`) from spectra of stars with known labels, and checking it."""
