"""How long the suite looks for what nobody thought of: briefly with every change, long by ``make fuzz``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("FUZZ_EXAMPLES")

settings.register_profile(
    "fuzz",
    max_examples=int(LONG or 12),
    deadline=None,
    # The same cases in every short run: what one change passes, the next does not fail by chance.
    derandomize=LONG is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.load_profile("fuzz")
