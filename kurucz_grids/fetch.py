"""Model atmospheres and line lists from their public home, Kurucz's site, into a cache folder.

```
CACHE/                    $XDG_CACHE_HOME/phdlspec or ~/.cache/phdlspec
├── SHA256SUMS            recorded at the first download, verified ever after; `sha256sum -c` reads it
├── atmospheres/          ATLAS9 ODFNEW, one file a metallicity: what `grid build --atmospheres` takes
├── lines/                atoms and molecules: what `grid build --line-list` takes
└── .parts/               what an interrupted download left, with the server's word for the file it is of
```
The home publishes no checksums and speaks plain http: the recorded sums tell damage and change since the first
download, not whether that one was right. A file appears under its name when it is whole and what its sum says.
"""

from __future__ import annotations

import logging
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pooch
import requests

from phdlspec import __version__
from phdlspec.errors import UserError, first_line
from phdlspec.files import disk_errors, file_sha256, only_writer, write_text

HOME = "http://kurucz.harvard.edu"
MANIFEST = "SHA256SUMS"
_PARTS = ".parts"
_TIMEOUT = 60.0  # s without a byte
_BLOCK = 1 << 16
_KEPT = "what was downloaded is kept"


@dataclass(frozen=True)
class Source:
    """A file of the home: its name, the cache folder it goes to, its path there, and what it is."""

    name: str
    folder: str
    path: str
    what: str

    def url(self, base_url: str = HOME) -> str:
        """Where it is, at home or at a mirror of the same layout."""
        return f"{base_url.rstrip('/')}/{self.path}/{self.name}"


def _atlas9(code: str) -> Source:
    mh = float(code[1:]) / (-10.0 if code[0] == "m" else 10.0)
    return Source(f"a{code}k2odfnew.dat", "atmospheres", f"grids/grid{code}odfnew", f"ATLAS9 ODFNEW, [M/H] = {mh:+.1f}")


SOURCES: tuple[Source, ...] = (
    *map(_atlas9, ("m25", "m20", "m15", "m10", "m05", "p00", "p02", "p05")),
    Source("gfall08oct17.dat", "lines", "linelists/gfnew", "atoms and ions, air"),
    Source("chmasseron.asc", "lines", "molecules/ch", "CH (Masseron 2014); said by others to hold spurious lines"),
    Source("cnaxbrookek.asc", "lines", "molecules/cn", "CN A-X (Brooke 2014)"),
    Source("cnbxbrookek.asc", "lines", "molecules/cn", "CN B-X (Brooke 2014)"),
    Source("c2dabrookek.asc", "lines", "molecules/c2", "C2 d-a, Swan (Brooke 2013)"),
    Source("c2ax.asc", "lines", "linelists/linesmol", "C2 A-X, Phillips"),
    Source("mgh.asc", "lines", "linelists/linesmol", "MgH"),
    Source("nh.asc", "lines", "linelists/linesmol", "NH"),
    Source("ohupdate.asc", "lines", "molecules/oh", "OH"),
    Source("sihax.asc", "lines", "molecules/sih", "SiH A-X"),
)


class FileProblem(UserError):
    """What is wrong with one file; the others may be fetched all the same."""


@dataclass(frozen=True)
class FetchOutcome:
    """What became of one file: downloaded now, or verified, or else the problem in one sentence."""

    source: Source
    path: Path
    downloaded: bool = False
    problem: str = ""


def default_cache() -> Path:
    """The user's cache folder for this package."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "phdlspec"


def choose(names: Sequence[str]) -> list[Source]:
    """The sources of the given files or folders (`atmospheres`, `lines`), all of them for no name.

    Raises `UserError` for a name that is neither.
    """
    unknown = [n for n in names if not any(n in (source.name, source.folder) for source in SOURCES)]
    if unknown:
        raise UserError(
            f"{unknown[0]}: there is no such file to fetch; expected atmospheres, lines or a name that "
            "`phdlspec grid fetch --list` shows"
        )
    return [source for source in SOURCES if not names or source.name in names or source.folder in names]


def fetch(
    sources: Sequence[Source], cache: Path, base_url: str = HOME, *, progress: bool = False
) -> Iterator[FetchOutcome]:
    """Download what is not in the cache and verify what is, file by file.

    A file that is missing at the server, or damaged here, is an outcome with a problem and the next one follows.
    Raises `UserError` where no further file could be had either: no network, a connection that breaks, a full disk,
    another fetch at work in this cache.
    """
    try:
        usable = urllib.parse.urlsplit(base_url).scheme in ("http", "https")
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{base_url}: expected a base URL that begins with http:// or https://")
    with only_writer(cache / MANIFEST):
        sums = read_checksums(cache)
        for source in sources:
            path = cache / source.folder / source.name
            key = f"{source.folder}/{source.name}"
            missing = not path.exists()
            try:
                if missing:
                    _download(source.url(base_url), path, cache / _PARTS, sums.get(key), progress)
                digest = _sha256(path)
                if sums.get(key, digest) != digest:
                    raise FileProblem(
                        f"{path}: its SHA-256 is not the one in {MANIFEST}: the file is damaged or was changed since "
                        "it was downloaded; delete it and fetch it again"
                    )
            except FileProblem as problem:
                yield FetchOutcome(source, path, problem=str(problem))
                continue
            if key not in sums:
                sums[key] = digest
                _write_checksums(cache, sums)
            yield FetchOutcome(source, path, downloaded=missing)


def _download(url: str, path: Path, parts: Path, known: str | None, progress: bool) -> None:
    # A whole file, of the SHA-256 that is known, or none. Raises `FileProblem` where the server has no such file.
    pooch.get_logger().setLevel(logging.WARNING)
    with disk_errors(path, _KEPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole = pooch.retrieve(url, known, path.name, parts, downloader=_Transfer(parts / path.name, progress))
        except requests.HTTPError as error:
            raise FileProblem(
                f"{first_line(error)}; the file may have moved, look at {HOME} or name a mirror with --base-url"
            ) from error
        except requests.RequestException as error:
            raise UserError(
                f"{url}: the server cannot be reached or the connection broke ({_cause(error)}); check the network or "
                "name a mirror with --base-url, and give the same command again: it goes on where it stopped"
            ) from error
        except ValueError as error:  # pooch: another SHA-256
            raise FileProblem(
                f"{path}: the file at the server is not the one whose SHA-256 stands in {MANIFEST}; if it is meant to "
                "be a new version, remove its line there"
            ) from error
        os.replace(whole, path)


class _Transfer(pooch.HTTPDownloader):  # type: ignore[misc]
    # pooch's transfer by HTTP, which goes on with what a broken one left if the server still has that very file.

    def __init__(self, path: Path, progress: bool):
        super().__init__(progressbar=progress, chunk_size=_BLOCK, timeout=_TIMEOUT)
        self.part, self.etag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.etag")

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        headers = {"User-Agent": f"phdlspec/{__version__}", "Accept-Encoding": "identity"}
        with self.part.open("ab") as file:
            start = max(file.tell() - 1, 0)  # asks for one byte at least: for none a server answers with an error
            file.truncate(start)
            etag = self.etag.read_text() if start and self.etag.exists() else ""
            if etag:
                headers |= {"Range": f"bytes={start}-", "If-Range": etag}
            hooks = {"response": lambda reply, *_, **__: self._begin(reply, etag, file)}
            self.kwargs |= {"headers": headers, "hooks": hooks}
            super().__call__(url, file, pooch)
        os.replace(self.part, output_file)
        self.etag.unlink(missing_ok=True)

    def _begin(self, reply: requests.Response, etag: str, file: IO[bytes]) -> None:
        status, told = reply.status_code, reply.headers.get("ETag", "")
        goes_on = status == requests.codes.partial_content and etag and told == etag
        if goes_on or reply.is_redirect or (not reply.ok and status != requests.codes.range_not_satisfiable):
            return
        if reply.ok and reply.headers.get("Content-Type", "").startswith("text/html"):
            raise FileProblem(
                f"{reply.url}: the server sends a web page instead of the file; is a login or a proxy in the way?"
            )
        file.truncate(0)
        self.etag.write_text("" if told.startswith("W/") else told)
        if status == requests.codes.partial_content:
            raise FileProblem(f"{reply.url}: the file at the server has changed; give the same command again")


def _cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return first_line(error)


def read_checksums(cache: Path) -> dict[str, str]:
    """SHA-256 by path relative to the cache; empty where nothing was fetched yet."""
    manifest = cache / MANIFEST
    if not manifest.exists():
        return {}
    sums = {}
    for number, line in enumerate(manifest.read_text(errors="replace").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise UserError(f"{manifest}: line {number} is not a SHA-256 and a name; correct or remove that line")
        sums[name] = digest
    return sums


def _write_checksums(cache: Path, sums: dict[str, str]) -> None:
    write_text(cache / MANIFEST, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), _KEPT)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise FileProblem(f"{path}: cannot be read ({error.strerror}); move it away and fetch again") from error
