"""What Adam's kernels share: the names of a state's entries."""

from __future__ import annotations

from typing import Any

from fastmodel.ops.batch import AVERAGE, MASTER


def keys(
    group: dict[str, Any], has_master: bool = False, ema_decay: float | None = None
) -> tuple[str, ...]:
    """The entries of the state that are shaped like the parameter, in the kernels' order."""
    return (
        "exp_avg",
        "exp_avg_sq",
        *(("max_exp_avg_sq",) if group["amsgrad"] else ()),
        *((MASTER,) if has_master else ()),
        *((AVERAGE,) if ema_decay is not None else ()),
    )
