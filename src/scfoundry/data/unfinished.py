"""What is on disk as a whole or not at all: files replaced together, and results that come some rows after others."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from scfoundry._settings import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["RowsOnDisk", "Unfinished", "replacing"]

RUN, PART = "run.json", ".part"


@contextmanager
def replacing(folder: Path, *, last: str = "") -> Iterator[Path]:
    """An empty folder to write to; once all is written, it takes the place of what has the same names in ``folder``.

    ``last``: the file that vouches for the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".saving-") as place:
        yield Path(place)
        for written in sorted(Path(place).iterdir(), key=lambda path: (path.name == last, path.name)):
            target = folder / written.name
            if target.is_dir():
                target.rename(written.with_name(f"old {written.name}"))
            written.replace(target)


class RowsOnDisk:
    """An array in a file, (n, d), of which rows are read and written as those of one in memory.

    No memory outlasts an access: pages of a file that stays mapped would count as memory of this process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        stored = np.load(path, mmap_mode="r")
        self.shape, self.dtype = stored.shape, stored.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.integer] | slice) -> NDArray[Any]:
        return np.array(np.load(self.path, mmap_mode="r")[rows])

    def __setitem__(self, rows: NDArray[np.integer] | slice, values: Any) -> None:
        stored = np.load(self.path, mmap_mode="r+")
        stored[rows] = values
        stored.flush()

    def blocks(self, size: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Rows and values of consecutive blocks."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows]


class Unfinished:
    """What a call has reached so far, in a folder of its own.

    ``run`` identifies the call: by plain values, among them what tells its weights and data from others.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder = folder
        self._run: dict[str, Any] = json.loads(json.dumps(run, default=str))

    @contextmanager
    def begun(self, *, caller: str) -> Iterator[None]:
        """Go on where a call ended, or begin; one process at a time, and when it is through, the folder is removed.

        ValueError: if the folder holds results of a call with other arguments, or another process is at work there.
        """
        self.folder.mkdir(exist_ok=True)
        try:
            with FileLock(self.folder / "lock", timeout=0):
                self._require_same(caller)
                yield
        except Timeout:
            msg = (
                f"{caller}: another process is writing the same results, in {self.folder}. Wait for it, or give these "
                'another name: key_added="...".'
            )
            raise ValueError(msg) from None
        self.remove()

    def _require_same(self, caller: str) -> None:
        record = self.folder / RUN
        if not record.exists():
            write_whole(record, lambda path: path.write_text(json.dumps(self._run, indent=2)))
            return
        before = json.loads(record.read_text())
        other = sorted(name for name in before | self._run if before.get(name) != self._run.get(name))
        if other:
            msg = (
                f"{caller}: {self.folder} holds results of a call that was not completed, with "
                f"{_differing(other, before)}, and this is one with {_differing(other, self._run)}. Call it again as "
                f'it was; or give it up: import shutil; shutil.rmtree("{self.folder}").'
            )
            raise ValueError(msg)
        logger.info("%s goes on with what is in %s.", caller, self.folder)

    def remove(self) -> None:
        """Give up what is there."""
        shutil.rmtree(self.folder)

    def once(self, name: str, make: Callable[[], Any], save: Callable[[Any, Path], None]) -> Path:
        """Folder of what is made a single time, and saved there."""
        folder = self.folder / name
        if not folder.exists():
            made = make()
            write_whole(folder, lambda path: save(made, path))
        return folder

    def rows(
        self,
        name: str,
        n_rows: int,
        parts: Callable[[NDArray[np.bool_]], Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]],
    ) -> RowsOnDisk:
        """An array that ``parts(wanted)`` fills: rows of at least those ``wanted``, (n_rows,), and values (n, d)."""
        path, marks = self.folder / f"{name}.npy", self.folder / f"{name}.done.npy"
        wanted = ~np.load(marks) if marks.exists() else np.ones(n_rows, dtype=bool)
        if n_done := n_rows - np.count_nonzero(wanted):
            logger.info("%s: %d of %d cells were done before.", name, n_done, n_rows)
        for rows, values in parts(wanted) if wanted.any() else ():
            if not marks.exists():  # made after the array: what is marked is there
                np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, values.shape[1]))
                write_whole(marks, lambda part: _save(part, np.zeros(n_rows, dtype=bool)))
            RowsOnDisk(path)[rows] = values
            RowsOnDisk(marks)[rows] = True
        return RowsOnDisk(path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or a folder so that it is there as a whole, or not at all."""
    part = path.with_name(path.name + PART)
    if part.is_dir():
        shutil.rmtree(part)
    write(part)
    part.replace(path)


def _save(path: Path, values: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _differing(names: list[str], run: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={run.get(name)!r}" for name in names)
