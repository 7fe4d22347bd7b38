"""Files of tensors: whole, of their kind, and as they were written."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phdlspec.errors import UserError
from phdlspec.tensor_file import FileKind

KIND = FileKind("test-kind", 3, "model", "phdlspec test", oldest=2, digest_since=3)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def write(path, header, tensors=TENSORS):
    save_file(tensors, path, {"phdlspec": header if isinstance(header, str) else json.dumps(header)})


def test_what_is_written_is_read(tmp_path):
    KIND.write(tmp_path / "m", {"t": TENSORS["a"].T}, {"number": 1.1, "nested": {"b": [1, 2], "a": None}})
    found = KIND.read(tmp_path / "m")
    assert torch.equal(found.tensors["t"], TENSORS["a"].T)
    assert found.metadata == {
        "number": 1.1, "nested": {"b": [1, 2], "a": None}, "format": "test-kind", "version": 3,
    }  # fmt: skip
    assert (tmp_path / "m").stat().st_mode & 0o044 == 0o044


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_is_seen(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed"
    KIND.write(path, TENSORS, {"number": 12.5, "name": "x" * 30})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = KIND.read(path)
    except UserError:
        return
    # White space in the header is all that may change.
    assert found.metadata == {"number": 12.5, "name": "x" * 30, "format": "test-kind", "version": 3}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_old_files_have_no_digest(tmp_path):
    path = tmp_path / "m"
    write(path, {"format": "test-kind", "version": 2, "x": 1})
    assert KIND.read(path).metadata["x"] == 1
    assert torch.equal(load_file(path)["a"], TENSORS["a"])


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"format": "test-kind", "version": 3}, "was changed"),
        ({"format": "test-kind", "version": 2, "sha256": "0"}, "was changed"),
        ({"format": "test-kind"}, "version None"), ({"format": "test-kind", "version": "3"}, "version '3'"),
        ({"format": "test-kind", "version": 4}, "version 4, this program knows 2 to 3"),
        ({"format": "test-kind", "version": True}, "version True"),
        ({"format": "test-kind", "version": 1}, "version 1"),
        ({"format": "other"}, "no model"), ({}, "no model"), ([1], "no table"), ("{", "damaged"), ("", "damaged"),
        ("[" * 100_000, "damaged"), ("1" * 5000, "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_this_kind_is_one_sentence(tmp_path, header, reason):
    write(tmp_path / "m", header)
    with pytest.raises(UserError, match=reason) as told:
        KIND.read(tmp_path / "m")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    KIND.write(tmp_path / "m", {"a": torch.tensor([float("inf")])}, {})
    with pytest.raises(UserError, match="not finite"):
        KIND.read(tmp_path / "m")
