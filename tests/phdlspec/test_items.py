"""Items that were touched between two runs are told from those that were written: none is believed."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from phdlspec.items import ItemFolder, WrongItem, digest, item_indices, read_item, write_item

ABOUT = {"job": "a job", "index": 3}
PLAN = [digest(f"labels {i}") for i in range(10)]


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {"flux": random.normal(size=(4, 30)).astype(np.float32), "names": np.array(["a", "Å", "c", "d"])}


@pytest.fixture
def folder(tmp_path) -> ItemFolder:
    found = ItemFolder(tmp_path, "row", "a job", "finished rows are kept")
    for i in range(4):
        found.write(i, PLAN[i], {"values": np.full(5, float(i))})
    return found


def whole(folder: ItemFolder) -> set[int]:
    return folder.whole(PLAN, lambda _, found: "" if found["values"].shape == (5,) else "its shape is another")


@pytest.mark.parametrize("small", [False, True])
def test_what_was_written_is_read(tmp_path, small):
    write_item(tmp_path / "a.npz", ABOUT, arrays(), small=small)
    found = read_item(tmp_path / "a.npz", ABOUT)
    assert all(np.array_equal(found[name], values) for name, values in arrays().items())
    assert found["flux"].dtype == np.float32


def test_any_changed_byte_is_seen_or_does_no_harm(tmp_path):
    path = tmp_path / "a.npz"
    write_item(path, ABOUT, arrays())
    content = path.read_bytes()
    seen = 0
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            found = read_item(path, ABOUT)
        except WrongItem:
            seen += 1
        else:
            assert {name: values.tolist() for name, values in found.items()} == {
                name: values.tolist() for name, values in arrays().items()
            }
    assert seen > len(content) // 5 * 0.8


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", None], ids=["empty", "text", "zip", "cut"])
def test_what_is_no_item_is_told(tmp_path, content):
    path = tmp_path / "a.npz"
    write_item(path, ABOUT, arrays())
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(WrongItem, match="damaged"):
        read_item(path, ABOUT)


def test_arrays_without_their_description_are_no_item(tmp_path):
    np.savez(tmp_path / "a.npz", values=np.ones(3))
    np.savez(tmp_path / "b.npz", values=np.ones(3), about=np.array('{"job": "a job", "index": 3, "sha256": "00"}'))
    np.savez(tmp_path / "c.npz", about=np.array([{"pickled": 1}], dtype=object))
    for name, words in (("a", "damaged"), ("b", "not that of its checksum"), ("c", "damaged"), ("d", "no such file")):
        with pytest.raises(WrongItem, match=words):
            read_item(tmp_path / f"{name}.npz", ABOUT)
    os.mkfifo(tmp_path / "e.npz")
    with pytest.raises(WrongItem, match="no such file"):
        read_item(tmp_path / "e.npz", ABOUT)


def test_swapped_doubled_and_strange_items_are_made_again(folder, caplog):
    zero, one, two = (folder.path(i).read_bytes() for i in range(3))
    folder.path(0).write_bytes(one)
    folder.path(1).write_bytes(zero)
    folder.path(5).write_bytes(two)
    ItemFolder(folder.folder, "row", "another job", "").write(6, PLAN[6], {"values": np.zeros(5)})
    folder.write(7, digest("other labels"), {"values": np.zeros(5)})
    folder.write(8, PLAN[8], {"values": np.zeros(4)})
    with caplog.at_level(logging.WARNING):
        assert whole(folder) == {2, 3}
    reasons = [record.getMessage().split(": ", 1)[1] for record in caplog.records]
    assert reasons == [
        *["it is of another index; it is made again"] * 3,
        "it is of another job; it is made again",
        "it is of another input; it is made again",
        "its shape is another; it is made again",
    ]
    assert item_indices(folder.folder, "row") == {2, 3}


def test_files_of_others_are_left_alone(folder):
    (folder.folder / "row_abc.npz").write_text("no row")
    (folder.folder / "row_12.npz").write_text("no row")
    (folder.folder / "row_0000009.npz").mkdir()
    assert whole(folder) == {0, 1, 2, 3}
    assert len(list(folder.folder.iterdir())) == 7
