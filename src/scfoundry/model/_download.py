"""Fetch a file once: resumed where it broke off, never more than its size, and refused unless its checksum is right."""

from __future__ import annotations

import hashlib
import time
from http.client import HTTPException
from typing import IO, TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock
from tqdm.auto import tqdm

from scfoundry._settings import settings

if TYPE_CHECKING:
    from http.client import HTTPMessage, HTTPResponse
    from pathlib import Path

__all__ = ["download"]

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
SLOWEST_BYTES = 1_000  # per second, over TIMEOUT_SECONDS


class Replaced(ValueError):
    """What the server sends cannot be the file."""


class _Redirects(HTTPRedirectHandler):
    """Redirects to any host, as the checksum decides, but never from https to http, nor to ``file:`` and the like."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        asked, offered = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if offered not in {"https", asked}:
            reason = f"redirected from {asked} to {newurl[:200]}, which is not followed"
            raise HTTPError(req.full_url, code, reason, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, sha256: str, size: int) -> Path:
    """Download a file of ``size`` bytes to ``target`` unless it is there; an unfinished one stays as ``<name>.part``.

    ConnectionError: if the server cannot be reached, the connection breaks or is too slow, or the file cannot be
    written; the part that arrived is kept, and resumed by the next call.
    ValueError: if the file has another size or checksum; it is deleted.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        msg = f"{url} is no address of a server. Pass one that begins with https://."
        raise ValueError(msg)
    if _is_whole(target, sha256, size):
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock")
        lock.touch()  # says what is wrong with a folder; FileLock may wait for ever
        with FileLock(lock):  # jobs that share a cache fetch a file once
            if _is_whole(target, sha256, size):
                return target
            _fetch(url, part, size)
            found = _sha256(part)
            if found == sha256:
                return part.replace(target)
            msg = f"has sha256 {found}, expected {sha256}"
            raise Replaced(msg)
    except Replaced as error:
        part.unlink(missing_ok=True)
        msg = (
            f"{url} {error}: the file is damaged or was replaced. Nothing was kept. Run the same call again, or place "
            f"the file at {target} by hand."
        )
        raise ValueError(msg) from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: urllib's, of addresses and headers
        arrived = part.stat().st_size if part.exists() else 0
        msg = (
            f"Downloading {url} failed after {arrived:,} of {size:,} bytes: {str(error) or type(error).__name__}. Run "
            f"the same call again to resume, or place the file at {target} by hand."
        )
        raise ConnectionError(msg) from error


def _is_whole(path: Path, sha256: str, size: int) -> bool:
    """Whether a file is there as it should be; a damaged one is fetched again."""
    return path.exists() and path.stat().st_size == size and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path, size: int) -> None:
    """Append the rest of a file to its part."""
    start = part.stat().st_size if part.exists() else 0
    if start == size:
        return
    if start > size:
        part.unlink()
        start = 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    response: HTTPResponse = build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS)
    with response:
        resumed = response.status == 206
        begun = start if resumed else 0
        sent = response.headers.get("Content-Range", f"bytes {begun}-")  # some servers leave it out
        if resumed and not sent.startswith(f"bytes {begun}-"):
            msg = f"sent {sent[:100]!r} instead of what follows byte {begun:,}"
            raise Replaced(msg)
        if response.length is not None and response.length != size - begun:
            msg = f"has {begun + response.length:,} bytes, expected {size:,}"
            raise Replaced(msg)
        with part.open("ab" if resumed else "wb") as file:
            _write(response, file, begun, size, name=part.stem)


def _write(response: HTTPResponse, file: IO[bytes], begun: int, size: int, *, name: str) -> None:
    """Write what arrives, up to the size of the file."""
    bar = tqdm(desc=name, total=size, initial=begun, unit="B", unit_scale=True, disable=not settings.show_progress)
    arrived, since, before = begun, time.monotonic(), begun
    with bar:
        while block := response.read1(min(BLOCK_BYTES, size - arrived + 1)):  # one byte more: does it end?
            arrived += len(block)
            if arrived > size:
                msg = f"goes on after {size:,} bytes"
                raise Replaced(msg)
            file.write(block)
            bar.update(len(block))
            seconds = time.monotonic() - since
            if seconds > TIMEOUT_SECONDS:
                if arrived - before < SLOWEST_BYTES * seconds:
                    msg = f"only {arrived - before:,} bytes in {seconds:.0f} seconds"
                    raise ConnectionError(msg)
                since, before = time.monotonic(), arrived
    if arrived < size:
        msg = f"the connection closed after {arrived:,} bytes"
        raise ConnectionError(msg)
