"""Model atmospheres and line lists from their public home, Kurucz's site, into a cache folder.

```
CACHE/                    $XDG_CACHE_HOME/phdlspec or ~/.cache/phdlspec
├── SHA256SUMS            recorded at the first download, verified ever after; `sha256sum -c` reads it
├── atmospheres/          ATLAS9 ODFNEW, one file a metallicity: what `grid build --atmospheres` takes
└── lines/                atoms and molecules: what `grid build --line-list` takes
```
The home publishes no checksums and speaks plain http: the recorded sums tell damage and change since the first
download, not whether that one was right. A file appears under its name when it is whole. Until then it lies in
`.NAME.VERSION.part`, where VERSION tells the server's file, so that a later call goes on only if that is the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import http
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from phdlspec import __version__
from phdlspec.errors import UserError
from phdlspec.files import DiskFullError, file_sha256, tells_of_full_disk, write_text

HOME = "http://kurucz.harvard.edu"
MANIFEST = "SHA256SUMS"
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
    with _locked(cache):
        sums = read_checksums(cache)
        for source in sources:
            path = cache / source.folder / source.name
            key = f"{source.folder}/{source.name}"
            try:
                missing = not path.exists()
                if missing:
                    download(source.url(base_url), path, progress=progress)
                digest = _sha256(path)
                if sums.get(key, digest) != digest:
                    raise FileProblem(_changed(path, missing))
            except FileProblem as problem:
                yield FetchOutcome(source, path, problem=str(problem))
                continue
            if key not in sums:
                sums[key] = digest
                _write_checksums(cache, sums)
            yield FetchOutcome(source, path, downloaded=missing)


def _changed(path: Path, fresh: bool) -> str:
    if fresh:
        return (
            f"{path}: the file at the server is not the one whose SHA-256 stands in {MANIFEST}; if it is meant to be "
            "a new version, remove its line there"
        )
    return (
        f"{path}: its SHA-256 is not the one in {MANIFEST}: the file is damaged or was changed since it was "
        "downloaded; delete it and fetch it again"
    )


def download(url: str, path: Path, *, progress: bool = False) -> None:
    """Download a file; what an interrupted call left is gone on with if the server's file is still the same.

    Raises `FileProblem` where the server has no such file, `UserError` for no network, a broken connection (the part
    is kept) or a full disk.
    """
    with _disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    parts = list(path.parent.glob(f".{path.name}.*.part"))
    begun = parts[0].stat().st_size if parts else 0
    reply = _ask(url, begun)
    if reply.start and (reply.start != begun or reply.part(path) != parts[0]):  # the file at the server is another now
        reply.stream.close()
        reply = _ask(url)
    with reply.stream, _disk(path):
        part = reply.part(path)
        for old in parts:
            if old != part:
                old.unlink()
        _receive(reply, part, path.name, progress)
        os.replace(part, path)


@dataclass(frozen=True)
class _Reply:
    """A server's answer: the bytes of a file from `start` on, its whole `size` (None: not told), what it calls it."""

    stream: http.client.HTTPResponse
    start: int
    size: int | None
    version: str

    def part(self, path: Path) -> Path:
        """Where this version of the file lies until it is whole."""
        return path.with_name(f".{path.name}.{self.version}.part")


def _ask(url: str, start: int = 0) -> _Reply:
    """Ask for a file from byte `start` on; servers that cannot do this, or have no such byte, send all of it."""
    headers = {"User-Agent": f"phdlspec/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        stream = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _ask(url)
        raise FileProblem(
            f"{url}: the server answers {error.code} ({error.reason}); the file may have moved, look at {HOME} or "
            "name a mirror with --base-url"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url}: the server cannot be reached ({reason}); check the network or name a mirror with --base-url"
        ) from error
    if stream.headers.get_content_type() == "text/html":
        stream.close()
        raise FileProblem(f"{url}: the server sends a web page instead of the file; is a login or a proxy in the way?")
    partial = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", stream.headers.get("Content-Range", ""))
    if start and stream.status == http.HTTPStatus.PARTIAL_CONTENT and partial is None:
        stream.close()
        return _ask(url)
    length = stream.headers.get("Content-Length", "")
    first, size = (int(partial[1]), int(partial[2])) if partial else (0, int(length) if length.isdigit() else None)
    told = (stream.headers.get("ETag"), stream.headers.get("Last-Modified"), size)
    return _Reply(stream, first, size, hashlib.sha256(repr(told).encode()).hexdigest()[:12])


def _receive(reply: _Reply, part: Path, name: str, progress: bool) -> None:
    bar = tqdm(total=reply.size, initial=reply.start, desc=name, unit="B", unit_scale=True, disable=not progress)
    with part.open("ab" if reply.start else "wb") as file, bar:
        while block := _read(reply.stream, name):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
        got = file.tell()
    if reply.size is not None and got > reply.size:
        part.unlink()
        raise FileProblem(f"{name}: the server sent {got} bytes where it announced {reply.size}; fetch it again")
    if reply.size is not None and got < reply.size:
        raise UserError(
            f"{name}: the connection ended after {got} of {reply.size} bytes; give the same command again, it goes on "
            "there"
        )


def _read(stream: http.client.HTTPResponse, name: str) -> bytes:
    try:
        return stream.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{name}: the connection broke ({error}); give the same command again, it goes on where it stopped"
        ) from error


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


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the cache for one fetch; the lock goes when its process dies."""
    with _disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{cache}: another fetch is filling this cache; wait for it") from error
        yield


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if tells_of_full_disk(error):
            raise DiskFullError(
                f"{path.parent}: the disk is full; {_KEPT}, make room and give the same command again or choose "
                "another --cache"
            ) from error
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another --cache") from error
