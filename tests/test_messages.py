"""What a user is told reads as: what was found, what was expected, what mends it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="an sdist has no scripts")

# What can be done: a verb to follow, a question that points at the cause, or code.
REMEDY = re.compile(
    r"""\b(add|ask|check|choose|close|compare|compute|convert|copy|default|divide|do|download|draw|drop|embed|end|fill|
    find|fit|free|give|group|install|is\ it|keep|learn|leave|list|load|look|lower|make|move|name|needed|open|pass|place|
    print|published|put|read|register|remove|rename|restart|retry|run|save|say|see|select|set|shorten|sort|start|subset|take|to|
    train|translate|try|turn|use|usual|wait|write)\b|=|\w\(|\[""",
    re.IGNORECASE | re.VERBOSE,
)
# Full stops, code, and the end of a command.
END = re.compile(r"""[.?)\]}"'0-9]$|: cp -rL """)


@pytest.fixture(scope="module")
def messages():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from list_messages import all_messages
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return all_messages()


def errors(messages):
    """Whole sentences; one that begins in lower case is the reason that another message gives."""
    return [message for message in messages if message.kind == "error" and not re.match(r"[a-z]+ ", message.text)]


def test_there_are_messages_of_every_kind(messages):
    assert len(errors(messages)) > 400
    assert {message.kind for message in messages} == {"error", "warning", "info"}


def test_errors_end_as_sentences_do_or_in_code(messages):
    assert [message for message in errors(messages) if not END.search(message.text)] == []


def test_errors_say_after_what_was_found_what_can_be_done(messages):
    told = [re.split(r"[.;:,?]\s", message.text, maxsplit=1) for message in errors(messages)]
    silent = [message for message, parts in zip(errors(messages), told, strict=True) if not REMEDY.search(parts[-1])]
    assert silent == []
    # One part alone would say what was found, and no more.
    assert [message for message, parts in zip(errors(messages), told, strict=True) if len(parts) == 1] == []


def test_names_are_quoted_by_one_function_that_knows_numpy():
    """The text of a name out of an array is ``np.str_('B cell')``, which says nothing to a user."""
    source = ROOT / "src" / "scfoundry"
    lines = {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    assert {name for name, text in lines.items() if "join(map(repr" in text} == {"_arguments.py"}
