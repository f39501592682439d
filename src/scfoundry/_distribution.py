"""The distribution that this package comes in, and another of nearly its name that must not lie in the same folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["refuse_mixed_files"]

# Name to install by; the import package is ``scfoundry``.
DISTRIBUTION = "scfoundry-models"


def refuse_mixed_files(folder: str | Path) -> None:
    """Refuse a folder of packages in which PyPI's ``scfoundry``, another project, lies among our files.

    Both install a package ``scfoundry``, so that the later one replaced files of the first. Only names of files are
    looked at, as this runs whenever the package is imported.

    Raises
    ------
    ImportError
        If the other project installed files into the package.
    """
    for name in os.listdir(folder):  # noqa: PTH208, pathlib takes twice as long
        if name.startswith("scfoundry-") and name.endswith(".dist-info"):
            installed = Path(folder, name, "RECORD")
            if installed.is_file() and "\nscfoundry/" in f"\n{installed.read_text('utf-8')}":
                version = name.removeprefix("scfoundry-").removesuffix(".dist-info")
                msg = (
                    f"Files of PyPI's scfoundry {version}, an unrelated project, lie among those of {DISTRIBUTION} in "
                    f"{folder}: both install a package scfoundry. Remove both and install one: pip uninstall -y "
                    f"scfoundry {DISTRIBUTION}; pip install {DISTRIBUTION}"
                )
                raise ImportError(msg)
