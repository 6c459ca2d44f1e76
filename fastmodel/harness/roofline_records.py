"""The records of the roofline: what the machine reached at most, and what each operator did. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in a large product, a large convolution and a large copy."""

    device: str
    dtype: str
    gemm_gflop_per_s: float
    conv_gflop_per_s: float
    copy_gb_per_s: float
    """Read and write counted."""
    datasheet_gflop_per_s: float | None = None
    """Dense, of the same dtype."""
    datasheet_gb_per_s: float | None = None
    datasheet_source: str | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorRow:
    """One operator, summed over its calls of a step."""

    name: str
    kind: str
    calls: float
    time_s: float
    share: float
    """Of the profiled step."""
    flops: float | None
    """From its shapes; None where no formula is known."""
    modelled_bytes: float | None
    """Its inputs and outputs, each once: a model of the memory's traffic, not a measurement."""
    gflop_per_s: float | None
    modelled_gb_per_s: float | None
    flop_per_byte: float | None
    roofline_share: float | None
    """Achieved over attainable at this intensity, after the measured ceilings."""
    missing: dict[str, str] = field(default_factory=dict)
