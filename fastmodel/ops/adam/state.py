"""What Adam's kernels share: the names of a state's entries."""

from __future__ import annotations

from typing import Any


def keys(group: dict[str, Any]) -> tuple[str, ...]:
    """The moments, in the kernels' order."""
    return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
