"""Ages and masses from labels, parallaxes and magnitudes by isochrones. Knows catalogues, nothing of spectra."""
