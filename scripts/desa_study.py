"""The DualFormer with its ablations, a contrastive loss and plain concatenation, on the same encoders and stars.

  python scripts/desa_study.py MODEL --pairs pairs/ --epochs 15 --out study.ecsv

MODEL is one of `phdlspec desa train` on a folder of `scripts/desa_pairs.py`. Its encoders stay as they are; for each
variant a DualFormer is trained anew on its training stars, and probes fitted on those are scored on the held-out ones.
Without the transpose the loss is the same number, so that variant shares the training of the full one. A variant that
is in the table already is not trained again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.desa import Desa, LightCurveSet, gather
from phdlspec.datadriven.desa.check import Inputs, Split, find_partners, inputs_of, retrieval, scores, split_of
from phdlspec.datadriven.desa.desa import Tokens
from phdlspec.datadriven.desa.dual_former import DualFormer
from phdlspec.datadriven.desa.stars import StarLabels, labels_of
from phdlspec.datadriven.desa.training import take_tokens, train_dual
from phdlspec.files import replacing

VARIANTS: dict[str, dict[str, Any]] = {
    "dual, self + cross attention": {},
    "dual, without the transpose": {"transpose": False},
    "dual, self-attention alone": {"attention": "self"},
    "dual, cross-attention alone": {"attention": "cross"},
    "contrastive (CLIP)": {"objective": "contrastive", "attention": "self"},
}


def row_of(name: str, kind: str, table: Table, found: dict[str, float], seconds: float) -> Table:
    """One row: the score of each label from both modalities, and retrieval."""
    row: dict[str, object] = {"variant": name, "seconds": round(seconds, 1)}
    for score in table[table["input"] == kind]:
        column = "AUC" if np.isfinite(score["AUC"]) else "R2"
        row[f"{score['label']} {column}"] = round(float(score[column]), 3)
    return Table([row | {key: round(value, 4) for key, value in found.items()}])


def run_variant(
    name: str,
    model: Desa,
    tokens: Tokens,
    labels: StarLabels,
    split: Split,
    epochs: int,
    trained: dict[str, DualFormer],
) -> Table:
    """Train a variant, or take the training it shares, and score it."""
    settings = replace(model.settings, dual_epochs=epochs, **VARIANTS[name])
    began = time.process_time()
    key = f"{settings.attention} {settings.objective}"
    if key not in trained:
        rows = split.training & tokens.have.all(dim=1).numpy()
        trained[key], _ = train_dual(take_tokens(tokens, rows), settings)
    dual = trained[key]
    dual.transpose = settings.transpose
    seconds = time.process_time() - began
    model = replace(model, dual_former=dual, settings=settings)
    inputs = inputs_of(model, tokens, np.full(len(tokens.have), np.nan))
    only = part_of(inputs, "both, embedding")
    return row_of(name, "both, embedding", scores(only, labels, split)[0], retrieval(model, tokens, split), seconds)


def part_of(inputs: Inputs, name: str) -> Inputs:
    """One kind of features."""
    return replace(inputs, features={name: inputs.features[name]}, there={name: inputs.there[name]})


def run_concatenation(model: Desa, tokens: Tokens, labels: StarLabels, split: Split) -> Table:
    """The encoders' features side by side."""
    inputs = inputs_of(model, tokens, np.full(len(tokens.have), np.nan))
    only = part_of(inputs, "both, encoders")
    one, other = (inputs.features[f"{kind}, encoder"] for kind in ("spectrum", "light curve"))
    found = find_partners(one, other, np.asarray(tokens.have.all(dim=1)), split)
    return row_of("concatenation", "both, encoders", scores(only, labels, split)[0], found, 0.0)


def main() -> None:
    """Run what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of desa_pairs.py")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = Desa.load(args.model)
    spectra, curves = Dataset.read(args.pairs / "spectra.h5"), LightCurveSet.read(args.pairs / "light_curves.h5")
    stars = gather(spectra, curves, args.pairs / "pairs.ecsv")
    labels = labels_of(stars, spectra, curves, [args.pairs / "truth.ecsv"])
    split, tokens = split_of(model, stars), model.tokens(stars, spectra, curves)
    done = Table.read(args.out) if args.out.is_file() else Table({"variant": np.array([], dtype=str)})
    trained: dict[str, DualFormer] = {}
    for name in ("concatenation", *VARIANTS):
        if name in done["variant"]:
            continue
        if name == "concatenation":
            row = run_concatenation(model, tokens, labels, split)
        else:
            row = run_variant(name, model, tokens, labels, split, args.epochs, trained)
        done = vstack([done, row]) if len(done) else row
        with replacing(args.out) as temporary:
            done.write(temporary, format="ascii.ecsv", overwrite=True)
        print(dict(zip(row.colnames, row[0])), flush=True)


if __name__ == "__main__":
    main()
