from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SHIPPED = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="session")
def parity_folder() -> Callable[[str], Path]:
    """Folder with the fixtures of a model; SCFOUNDRY_PARITY names another root of the same layout."""
    root = Path(os.environ.get("SCFOUNDRY_PARITY") or SHIPPED)
    return lambda model: root / model
