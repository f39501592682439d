"""Fetch a file once: resumed where it broke off, and refused unless its checksum is right."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from scfoundry._settings import settings

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from pathlib import Path

__all__ = ["download"]

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30


def download(url: str, target: Path, sha256: str) -> Path:
    """Download a file to ``target`` unless it exists; an unfinished one stays as ``<name>.part`` and is resumed.

    ConnectionError: if the server cannot be reached or the connection breaks; the part that arrived is kept.
    ValueError: if the complete file has another checksum; it is deleted.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(url, part)
    except (URLError, OSError) as error:
        arrived = part.stat().st_size if part.exists() else 0
        msg = (
            f"Downloading {url} failed after {arrived:,} bytes: {error}. Run the same call again to resume, or place "
            f"the file at {target} by hand."
        )
        raise ConnectionError(msg) from error
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        msg = f"{url} has sha256 {found}, expected {sha256}: the file is damaged or was replaced. Nothing was kept."
        raise ValueError(msg)
    return part.rename(target)


def _fetch(url: str, part: Path) -> None:
    """Append the rest of a file to its part."""
    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        response: HTTPResponse = urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send: the part is complete
            return
        raise
    with response:
        resumed = response.status == 206
        rest = int(response.headers.get("Content-Length") or 0)
        begun = start if resumed else 0
        bar = tqdm(
            desc=part.stem,
            total=begun + rest or None,
            initial=begun,
            unit="B",
            unit_scale=True,
            disable=not settings.show_progress,
        )
        received = 0
        with part.open("ab" if resumed else "wb") as file, bar:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                received += len(block)
                bar.update(len(block))
    if rest and received < rest:
        msg = f"connection closed after {received:,} of {rest:,} bytes"
        raise ConnectionError(msg)
