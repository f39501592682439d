"""List every message that a user can meet, as it stands in the code: errors, warnings and what the log says.

$ python scripts/list_messages.py [--kind error|warning|info] [WORD]

One line each: place, kind, text; what stands in braces is filled in when it is shown.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[1] / "src" / "scfoundry"
LEVELS = {"warning": "warning", "warn": "warning", "info": "info", "error": "error"}


class Message(NamedTuple):
    """What is shown, and where it stands."""

    place: str
    kind: str
    text: str


def text_of(node: ast.expr) -> str | None:
    """Text of a constant, an f-string, or several of them; `None` if it is something else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else str(ast.literal_eval(part))
            for part in node.values
        )
    if isinstance(node, ast.BinOp):
        parts = text_of(node.left), text_of(node.right)
        return None if None in parts else "".join(map(str, parts))
    return None


def messages_of(path: Path) -> Iterator[Message]:
    """Messages of a file: what is assigned to ``msg``, and what goes to the log or `warnings.warn`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        kind, said = "", None
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["msg"]:
            kind, said = "error", node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner = ast.unparse(node.func.value)
            kind = LEVELS.get(node.func.attr, "") if owner in ("logger", "warnings") else ""
            said = node.args[0]
        text = text_of(said) if kind and said is not None else None
        if text:
            yield Message(f"{path.relative_to(SOURCE)}:{node.lineno}", kind, " ".join(text.split()))


def all_messages() -> list[Message]:
    """Messages of the package, by file and line."""
    return [message for path in sorted(SOURCE.rglob("*.py")) for message in messages_of(path)]


def main() -> int:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--kind", choices=sorted(set(LEVELS.values())))
    arguments = parser.parse_args()
    shown = [
        message
        for message in all_messages()
        if arguments.word in message.text and arguments.kind in (None, message.kind)
    ]
    for place, kind, text in shown:
        print(f"{place}\t{kind}\t{text}")
    print(f"{len(shown)} messages", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
