"""What the skill tells an agent to run does run, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import scfoundry as sf

SKILL = Path(__file__).parents[1] / "skills" / "scfoundry" / "SKILL.md"


def test_its_snippets_run_in_order(capsys) -> None:
    space: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", SKILL.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, SKILL.name, "exec"), space)  # noqa: S102
    adata = space["adata"]
    assert {"zero_shot", "leiden"} <= set(adata.obs)
    assert "X_cellplm" in adata.obsm
    assert "700 cells" in capsys.readouterr().out


def test_every_function_it_names_exists() -> None:
    named = set(re.findall(r"\bsf\.(pp|tl|pl|metrics)\.(\w+)", SKILL.read_text()))
    assert len(named) > 10
    missing = [f"sf.{space}.{name}" for space, name in named if not hasattr(getattr(sf, space), name)]
    assert not missing
