"""What a language model's run comes to: tokens a second, utilization, bits per byte. Reads no clock."""

from __future__ import annotations

import dataclasses
import math

from fastmodel.harness.records import Arm, Interval, Missing, WorkloadInfo
from fastmodel.harness.roofline_records import Ceilings

_QUOTED, _NO_QUOTE = "datasheet_gflop_per_s", "no datasheet is known for the device"
_NO_TOKENS = "the workload has no tokens"
_NO_FLOPS = "the workload does not say how many FLOPs a sample takes"
_NO_BYTES = "the workload's targets are not text"


def with_tokens(arm: Arm, workload: WorkloadInfo, ceilings: Ceilings | None, no_roof: str) -> Arm:
    """`arm` with the figures of a language model; what cannot be said is None with a reason.

    Args:
        arm: timed and trained, or not.
        workload: says how many tokens and FLOPs a sample has, and how many bytes a target is.
        ceilings: the peaks that were measured, and the datasheet's.
        no_roof: why there are none.
    """
    missing = dict(arm.missing)
    rate = arm.throughput_samples_per_s
    untimed = missing.get("throughput_samples_per_s", "the arm was not timed")
    tokens_per_s = None
    if rate is None or workload.tokens_per_sample is None:
        missing["throughput_tokens_per_s"] = untimed if rate is None else _NO_TOKENS
    else:
        tokens_per_s = _scaled(rate, workload.tokens_per_sample)
    flop_per_s = None
    if rate is not None and workload.flops_per_sample is not None:
        flop_per_s = rate.estimate * workload.flops_per_sample
    no_flops = untimed if rate is None else _NO_FLOPS
    measured, quoted = _peaks(ceilings)
    no_quote = no_roof if ceilings is None else ceilings.missing.get(_QUOTED, _NO_QUOTE)
    return dataclasses.replace(
        arm,
        throughput_tokens_per_s=tokens_per_s,
        utilization_of_measured_peak=_share(
            "utilization_of_measured_peak", flop_per_s, measured, no_flops, no_roof, missing
        ),
        utilization_of_quoted_peak=_share(
            "utilization_of_quoted_peak", flop_per_s, quoted, no_flops, no_quote, missing
        ),
        validation_bits_per_byte=_bits(
            "validation_bits_per_byte",
            arm.epochs[-1].validation_loss if arm.epochs else None,
            workload,
            missing,
        ),
        untrained_bits_per_byte=_bits(
            "untrained_bits_per_byte", arm.untrained_validation_loss, workload, missing
        ),
        missing=missing,
    )


def _peaks(ceilings: Ceilings | None) -> tuple[float | None, float | None]:
    """FLOP/s that were measured at best, and those that the datasheet promises."""
    if ceilings is None:
        return None, None
    quoted = ceilings.datasheet_gflop_per_s
    best = max(ceilings.gemm_gflop_per_s, ceilings.conv_gflop_per_s)
    return best * 1e9, None if quoted is None else quoted * 1e9


def _scaled(interval: Interval, factor: float) -> Interval:
    low, high = interval.ci95
    return Interval(interval.estimate * factor, (low * factor, high * factor))


def _share(
    name: str,
    flop_per_s: float | None,
    peak: float | None,
    no_flops: str,
    no_peak: str,
    missing: Missing,
) -> float | None:
    if flop_per_s is None or peak is None:
        missing[name] = no_flops if flop_per_s is None else no_peak
        return None
    return flop_per_s / peak


def _bits(name: str, loss: float | None, workload: WorkloadInfo, missing: Missing) -> float | None:
    """Bits per byte of text of a loss in nats per target."""
    if loss is None or workload.bytes_per_target is None:
        untrained = missing.get(
            "train_time_s", "the loss is not finite, or the arm was not trained"
        )
        missing[name] = _NO_BYTES if workload.bytes_per_target is None else untrained
        return None
    return loss / math.log(2) / workload.bytes_per_target
