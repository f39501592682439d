"""Execute the notebooks of this folder anew and write what they show into them: ``python tutorials/execute.py``.

Needs the ``doc`` group. What the notebooks write lands in a temporary folder; progress bars are left out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
PROGRESS_BAR = re.compile(r"[^\n]*\r[^\n]*\n?")
# What only a kernel without widgets, or a library that calls another in its old way, would add.
QUIET = "ignore:IProgress not found,ignore::FutureWarning,ignore::DeprecationWarning"


def execute(path: Path) -> None:
    """Execute one notebook in place."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, kernel_name="python3", record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute(env=os.environ | {"PYTHONWARNINGS": QUIET})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = PROGRESS_BAR.sub("", output.text)
            cell.outputs = [output for output in cell.outputs if output.get("text", "shown").strip()]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.ipynb")):
        execute(path)
        print(path.relative_to(HERE.parent))
