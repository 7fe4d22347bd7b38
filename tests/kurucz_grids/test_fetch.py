"""Fetching from a server of our own, which can answer ranges, break off, move files and change them."""

from __future__ import annotations

import hashlib
import re
import resource
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.fetch import MANIFEST, SOURCES, choose, fetch, read_checksums
from kurucz_grids.linelists import read_line_list
from phdlspec import cli
from phdlspec.errors import UserError
from phdlspec.files import only_writer

CONTENT = bytes(range(256)) * 1200  # 300 kB
DECK = choose(["ap00k2odfnew.dat"])
PATH = "/grids/gridp00odfnew/ap00k2odfnew.dat"


class Server(ThreadingHTTPServer):
    """Serves `files`; `break_after` bytes of a reply the connection ends.

    ranges : False, it knows none. conditions : False, it sends a range though the file has changed.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.ranges = True
        self.conditions = True
        self.content_type = "text/plain"
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range") if self.server.ranges else None
        self.server.requests.append((self.path, self.headers.get("Range")))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if self.server.conditions and self.headers.get("If-Range") != etag:
            asked = None
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        stop = None if self.server.break_after is None else start + self.server.break_after
        self.wfile.write(body[start:stop])

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.files[PATH] = CONTENT
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "atmospheres" / "ap00k2odfnew.dat"


def part(path: Path) -> Path:
    """What an interrupted download left of a file."""
    return path.parents[1] / ".parts" / f"{path.name}.part"


def leftovers(path: Path) -> list[Path]:
    return list(part(path).parent.iterdir())


def test_download_then_verify_without_asking_the_server(server, tmp_path, target):
    (first,) = fetch(DECK, tmp_path, server.url)
    assert first.downloaded
    assert first.problem == ""
    assert target.read_bytes() == CONTENT
    assert read_checksums(tmp_path) == {"atmospheres/ap00k2odfnew.dat": hashlib.sha256(CONTENT).hexdigest()}
    assert (tmp_path / MANIFEST).read_text().endswith("  atmospheres/ap00k2odfnew.dat\n")  # as sha256sum writes it
    (second,) = fetch(DECK, tmp_path, server.url)
    assert not second.downloaded
    assert server.requests == [(PATH, None)]


def test_an_interrupted_download_goes_on(server, tmp_path, target):
    server.break_after = 100_000
    with pytest.raises(UserError, match=r"connection broke.*100000 bytes read.*goes on"):
        list(fetch(DECK, tmp_path, server.url))
    assert not target.exists()
    assert not (tmp_path / MANIFEST).exists()
    assert list(target.parent.iterdir()) == []  # nothing half-made where atmospheres are read
    server.break_after = None
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert outcome.downloaded
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=65535-"]  # whole blocks, but the last byte
    assert leftovers(target) == []


@pytest.mark.parametrize("change", ["other file", "no ranges", "shorter file", "already whole"])
def test_going_on_is_safe(server, tmp_path, target, change):
    server.break_after = 100_000
    with pytest.raises(UserError, match="goes on"):
        list(fetch(DECK, tmp_path, server.url))
    server.break_after = None
    expected = CONTENT
    if change == "other file":
        expected = server.files[PATH] = CONTENT[::-1]
    elif change == "shorter file":
        expected = server.files[PATH] = b"short"
    elif change == "already whole":
        part(target).write_bytes(CONTENT)
    else:
        server.ranges = False
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert outcome.downloaded
    assert target.read_bytes() == expected
    assert leftovers(target) == []


def test_a_server_in_trouble_costs_nothing_of_what_there_is(server, tmp_path, target):
    server.break_after = 100_000
    with pytest.raises(UserError, match="goes on"):
        list(fetch(DECK, tmp_path, server.url))
    kept = server.files.pop(PATH)
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert "404" in outcome.problem
    assert part(target).stat().st_size > 65_000
    server.break_after, server.files[PATH] = None, kept
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert outcome.downloaded
    assert server.requests[-1][1].startswith("bytes=6553")
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("other", [CONTENT[::-1], b"short"])
def test_a_range_of_another_file_is_not_taken(server, tmp_path, target, other):
    server.break_after = 100_000
    with pytest.raises(UserError, match="goes on"):
        list(fetch(DECK, tmp_path, server.url))
    server.break_after, server.conditions, server.files[PATH] = None, False, other
    (refused,) = fetch(DECK, tmp_path, server.url)
    assert "has changed" in refused.problem or "416" in refused.problem
    assert not target.exists()
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert outcome.downloaded
    assert target.read_bytes() == other


def test_damage_is_found_and_the_other_files_are_fetched(server, tmp_path, target):
    list(fetch(DECK, tmp_path, server.url))
    target.write_bytes(CONTENT[:-1] + b"x")
    server.files["/grids/gridm05odfnew/am05k2odfnew.dat"] = b"metal-poor"
    wanted = choose(["ap00k2odfnew.dat", "am05k2odfnew.dat", "am10k2odfnew.dat"])
    outcomes = {outcome.source.name: outcome for outcome in fetch(wanted, tmp_path, server.url)}
    assert "SHA-256 is not the one" in outcomes["ap00k2odfnew.dat"].problem
    assert outcomes["am05k2odfnew.dat"].downloaded
    assert "404" in outcomes["am10k2odfnew.dat"].problem
    target.unlink()
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert outcome.downloaded


def test_a_new_version_at_the_server_is_told(server, tmp_path, target):
    list(fetch(DECK, tmp_path, server.url))
    target.unlink()
    server.files[PATH] = b"another"
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert "the file at the server is not the one" in outcome.problem
    assert not target.exists()


def test_a_web_page_is_no_file(server, tmp_path, target):
    server.content_type = "text/html; charset=utf-8"
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert "web page" in outcome.problem
    assert not target.exists()


def test_no_network(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match="cannot be reached"):
            list(fetch(DECK, tmp_path, url))
    for url in ("ftp://example.org", "http://[bad"):
        with pytest.raises(UserError, match="begins with http"):
            list(fetch(DECK, tmp_path, url))


def test_a_folder_in_the_place_of_a_file(server, tmp_path, target):
    target.mkdir(parents=True)
    (outcome,) = fetch(DECK, tmp_path, server.url)
    assert "cannot be read" in outcome.problem


def test_a_full_disk_keeps_the_part(server, tmp_path, target):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="disk is full"):
            list(fetch(DECK, tmp_path, server.url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not target.exists()
    list(fetch(DECK, tmp_path, server.url))
    assert target.read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=99999-"


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "atmospheres").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        list(fetch(DECK, tmp_path, server.url))


def test_one_fetch_at_a_time(server, tmp_path):
    with only_writer(tmp_path / MANIFEST), pytest.raises(UserError, match="another run is making it"):
        list(fetch(DECK, tmp_path, server.url))


def test_a_damaged_manifest_is_told(server, tmp_path):
    (tmp_path / MANIFEST).write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1 is not a SHA-256"):
        list(fetch(DECK, tmp_path, server.url))


def test_choice():
    assert choose([]) == list(SOURCES)
    assert {source.folder for source in choose(["lines"])} == {"lines"}
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    assert DECK[0].url() == "http://kurucz.harvard.edu" + PATH
    with pytest.raises(UserError, match="no such file to fetch"):
        choose(["ap99k2odfnew.dat"])


def test_command(server, tmp_path, capsys):
    where = ["--cache", str(tmp_path), "--base-url", server.url]
    assert cli.main(["grid", "fetch", "ap00k2odfnew.dat", *where]) == 0
    assert "ap00k2odfnew.dat: downloaded" in capsys.readouterr().out
    assert cli.main(["grid", "fetch", "ap00k2odfnew.dat", "am05k2odfnew.dat", *where]) == 1
    told = capsys.readouterr()
    assert "ap00k2odfnew.dat: verified" in told.out
    assert len(told.err.splitlines()) == 1
    assert cli.main(["grid", "fetch", "--list", *where]) == 0
    assert "0.3 MB  ATLAS9 ODFNEW, [M/H] = +0.0" in capsys.readouterr().out


def test_what_was_fetched_is_read(server, tmp_path, shared_data):
    deck = shared_data / "atmospheres" / "native" / "am10ak1nover.dat"
    server.files[PATH] = deck.read_bytes()
    molecules = shared_data / "linelists" / "native" / "mgh_sample.asc"
    server.files["/linelists/linesmol/mgh.asc"] = molecules.read_bytes()
    atoms = shared_data / "linelists" / "native" / "gf0600_sample.dat"
    server.files["/linelists/gfnew/gfall08oct17.dat"] = atoms.read_bytes()
    list(fetch([*DECK, *choose(["mgh.asc", "gfall08oct17.dat"])], tmp_path, server.url))
    assert len(AtmosphereGrid.load(tmp_path / "atmospheres").params) > 300
    both = read_line_list(tmp_path / "lines")
    assert len(both) == len(read_line_list(molecules)) + len(read_line_list(atoms))
