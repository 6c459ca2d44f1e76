"""Reports built in code for the tests: one realistic run, and how a run can differ."""

from __future__ import annotations

import random
from dataclasses import replace

from fastmodel.harness.cost import with_cost
from fastmodel.harness.records import (
    SCHEMA_VERSION,
    Arm,
    CostRate,
    Environment,
    Epoch,
    Gate,
    GateCheck,
    Interval,
    Method,
    Report,
    Speedup,
    Steady,
    StepPart,
    SwapRow,
    Window,
    WorkloadInfo,
)
from fastmodel.harness.roofline_records import Ceilings, OperatorRow

HOSTILE = "</script><script>alert('x')</script>|**$x_2$**\x08`模`&amp;\n\"quoted\""
"""Breaks HTML, an embedded script, Markdown tables, mathtext and XML where it is not escaped."""

NO_POWER_COUNTER = "no power counter: /sys/class/powercap is not readable"

TIMED_ONLY = "this arm was timed, not trained"
_TRAINED_ONLY = ["test_accuracy", "test_loss", "train_time_s", "epochs", "time_to_accuracy_s"]
_TRAINED_ONLY += ["cost_usd_per_epoch", "cost_usd_total"]

NO_FORMULA = "no formula is known for this operator"

_CEILINGS = Ceilings("cpu", "float32", 277.0, 262.0, 26.0)

_BATCH = 64
_STEPS = 60

_BASELINE_PARTS = {
    "max-pool forward": 4.70e-3,
    "conv backward": 3.94e-3,
    "conv forward": 2.17e-3,
    "optimizer": 1.02e-3,
    "pool backward": 0.83e-3,
    "relu": 0.71e-3,
    "linear": 0.66e-3,
    "loss": 0.12e-3,
    "data": 0.31e-3,
    "other": 0.35e-3,
}
_OPTIMIZED_PARTS = {
    "conv + relu + max-pool backward": 1.19e-3,
    "conv + relu + max-pool forward": 1.04e-3,
    "linear": 0.64e-3,
    "optimizer": 0.52e-3,
    "data": 0.31e-3,
    "other": 0.33e-3,
    "loss": 0.06e-3,
}


def _operator(name: str, kind: str, time_s: float, step_s: float, flops: float, size: float):
    """An operator's row; without FLOPs it is held against the copy alone."""
    moved = size / time_s / 1e9
    if not flops:
        row = OperatorRow(
            name, kind, 1.0, time_s, time_s / step_s, None, size, None, moved, None, 0.0
        )
        return replace(row, roofline_share=moved / 26.0, missing={"flops": NO_FORMULA})
    rate, intensity = flops / time_s / 1e9, flops / size
    share = rate / min(277.0, 26.0 * intensity)
    return OperatorRow(
        name, kind, 1.0, time_s, time_s / step_s, flops, size, rate, moved, intensity, share
    )


_BASELINE_OPERATORS = [
    _operator("aten::max_pool2d_with_indices", "pool forward", 4.7e-3, 14.8e-3, 0, 9.9e6),
    _operator("aten::convolution_backward", "conv backward", 3.94e-3, 14.8e-3, 9.6e8, 1.63e7),
    _operator("aten::convolution", "conv forward", 2.17e-3, 14.8e-3, 4.8e8, 9.7e6),
    _operator("aten::addmm", "linear forward", 0.22e-3, 14.8e-3, 2.6e7, 1.26e6),
]
_OPTIMIZED_OPERATORS = [
    _operator(
        "fastmodel::conv_relu_maxpool_backward", "conv+ReLU+pool", 1.19e-3, 4.1e-3, 9.6e8, 4.4e6
    ),
    _operator("fastmodel::conv_relu_maxpool", "conv+ReLU+pool", 1.04e-3, 4.1e-3, 4.8e8, 3.9e6),
    _operator("fastmodel::linear_relu", "linear+ReLU forward", 0.13e-3, 4.1e-3, 2.6e7, 1.26e6),
]


def _epochs(count: int, epoch_time_s: float, shift: float = 0.0) -> list[Epoch]:
    return [
        Epoch(
            epoch=n,
            train_loss=0.2412 / n**1.1 + shift / 10,
            validation_loss=0.0711 / n**0.5 + shift / 10,
            validation_accuracy=0.9912 - 0.0121 / n**1.5 - shift,
            train_time_s=epoch_time_s,
            evaluation_time_s=0.41,
            elapsed_train_time_s=n * epoch_time_s,
            learning_rate=0.001,
        )
        for n in range(1, count + 1)
    ]


def _parts(parts: dict[str, float]) -> list[StepPart]:
    total = sum(parts.values())
    return [StepPart(name=name, time_s=t, share=t / total) for name, t in parts.items()]


def _arm(name: str, description: str, rate: float, **fields: object) -> Arm:
    values = {
        "is_optimized": name == "fastmodel",
        "throughput_samples_per_s": Interval(rate, (rate * 0.978, rate * 1.019)),
        "missing": {**dict.fromkeys(_TRAINED_ONLY, TIMED_ONLY), "energy_j": NO_POWER_COUNTER},
    }
    return Arm(name=name, description=description, **{**values, **fields})  # type: ignore[arg-type]


def _windows(pairs: int) -> list[Window]:
    draw = random.Random(7)
    order = [("eager-fused", "fastmodel"), ("fastmodel", "eager-fused")]
    rates = {"eager-fused": 4327.0, "fastmodel": 13904.0}
    return [
        Window(
            arm=arm,
            pair=pair,
            position=position,
            steps=_STEPS,
            samples=_STEPS * _BATCH,
            time_s=_STEPS * _BATCH / rates[arm] * draw.lognormvariate(0, 0.015),
            phase="paired",
        )
        for pair in range(pairs)
        for position, arm in enumerate(order[pair % 2])
    ]


def _gate_checks() -> list[GateCheck]:
    names = ["output", "loss"] + [
        f"{layer}.{kind}.grad" for layer in ("0", "3", "7", "10") for kind in ("weight", "bias")
    ]
    return [
        GateCheck(n, 2.1e-7 + i * 3e-8, 2.4e-7 + i * 2e-8, 1e-5, True) for i, n in enumerate(names)
    ]


def full(epochs: int = 2, pairs: int = 8) -> Report:
    """A complete run that fastmodel wins, with one value that could not be read (energy)."""
    windows = _windows(pairs)
    time_s = {(w.arm, w.pair): w.time_s for w in windows}
    ratios = [time_s["eager-fused", p] / time_s["fastmodel", p] for p in range(pairs)]
    optimized = _arm(
        "fastmodel",
        "fm.optimize(model), fm.optim.Adam",
        13904.0,
        epochs=_epochs(epochs, 3.91),
        test_accuracy=0.9892,
        test_loss=0.0331,
        time_to_accuracy_s={"0.98": 3.91, "0.99": 39.1 if epochs > 9 else None},
        train_time_s=3.91 * epochs,
        peak_memory_bytes=612_368_384,
        step_parts=_parts(_OPTIMIZED_PARTS),
        operators=_OPTIMIZED_OPERATORS,
    )
    baseline = _arm(
        "eager-fused",
        "eager, torch.optim.Adam(fused=True)",
        4327.0,
        epochs=_epochs(epochs, 12.54, 0.0006),
        test_accuracy=0.9884,
        test_loss=0.0352,
        time_to_accuracy_s={"0.98": 12.54, "0.99": None},
        train_time_s=12.54 * epochs,
        peak_memory_bytes=655_261_696,
        step_parts=_parts(_BASELINE_PARTS),
        operators=_BASELINE_OPERATORS,
    )
    # One arm's energy was read, so that both cases are shown.
    others = [
        _arm(
            "eager",
            "eager, torch.optim.Adam()",
            3655.0,
            peak_memory_bytes=655_900_672,
            energy_j=152.04,
            energy_source="RAPL package-0",
        ),
        _arm(
            "channels-last",
            "eager in channels_last, fused Adam",
            4108.0,
            peak_memory_bytes=661_143_552,
        ),
    ]
    trained = {"energy_j": NO_POWER_COUNTER}
    arms = [replace(optimized, missing=trained), replace(baseline, missing=trained), *others]
    rate = CostRate(
        0.68, "cloud 16 vCPU", "https://example.com/prices", "2026-01", "on-demand", "second hand"
    )
    work = WorkloadInfo(
        name="mnist-cnn",
        description="conv 32, conv 64, linear 128, linear 10 on MNIST",
        batch_size=_BATCH,
        epochs=epochs,
        seed=0,
        train_samples=54_000,
        validation_samples=6_000,
        test_samples=10_000,
        parameters=225_034,
        options={"optimizer": "Adam", "learning_rate": "0.001"},
    )
    arms = [
        with_cost(
            replace(arm, startup_time_s=0.12, evaluation_time_s=0.41 * len(arm.epochs)),
            rate,
            None,
            work,
        )
        for arm in arms
    ]
    windows[3] = replace(windows[3], marks=["descheduled: the hypervisor took 12% of the CPUs"])
    return Report(
        schema_version=SCHEMA_VERSION,
        complete=True,
        incomplete_reason=None,
        started_at="2026-01-15T09:30:00+00:00",
        duration_s=143.7,
        command=["fastmodel", "bench", "mnist-cnn", "--epochs", str(epochs)],
        environment=Environment(
            hostname_hash="5f2ab1c09d3e",
            os="Linux 6.8.0 x86_64",
            cpu_model="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            cpu_count=2,
            cpu_capability="avx512",
            threads=2,
            memory_bytes=8_326_742_016,
            gpus=[],
            python_version="3.11.2",
            torch_version="2.13.0+cpu",
            fastmodel_version="0.1.0",
            commit="392b4aa",
            backends={
                "cpu": "available",
                "library": "available",
                "cuda": "no NVIDIA device on this machine",
                "triton": "the triton package is not installed; pip install fastmodel[triton]",
            },
        ),
        workload=work,
        method=Method("ABBA", pairs, _STEPS, 20, 10_000, None, f"all {pairs} pairs are timed"),
        gate=Gate(True, _gate_checks()),
        speedup=Speedup(
            baseline="eager-fused",
            optimized="fastmodel",
            estimate=3.2134,
            ci95=(3.1511, 3.2788),
            pairs=pairs,
            noise_floor=(0.9871, 1.0142),
            ratios=ratios,
            block_length=2,
            undisturbed=Interval(3.2201, (3.1522, 3.2911)),
            disturbed_pairs=1,
            steadiness={
                "eager-fused": Steady("never steady", None, 0.0713),
                "fastmodel": Steady("steady", 2, -0.0041),
            },
        ),
        arms={arm.name: arm for arm in arms},
        windows=windows,
        cost_rate=rate,
        swaps=[
            SwapRow("0..2", "Conv2d, ReLU, MaxPool2d", "ConvReLUMaxPool2d", "pattern matched"),
            SwapRow("3..5", "Conv2d, ReLU, MaxPool2d", "ConvReLUMaxPool2d", "pattern matched"),
            SwapRow("7..8", "Linear, ReLU", "LinearReLU", "pattern matched"),
            SwapRow("10", "Linear", None, "no ReLU follows"),
        ],
        ceilings=_CEILINGS,
    )


def with_ratio(
    estimate: float, ci95: tuple[float, float], noise: tuple[float, float] = (0.99, 1.01)
) -> Report:
    """The full run with another outcome of the paired timing; the ratios scatter within it."""
    report = full()
    assert report.speedup is not None
    step = (ci95[1] - ci95[0]) / (report.speedup.pairs - 1)
    ratios = [ci95[0] + step * n for n in range(report.speedup.pairs)]
    speedup = replace(
        report.speedup, estimate=estimate, ci95=ci95, noise_floor=noise, ratios=ratios
    )
    rate = 4327.0 * estimate
    fast = replace(
        report.arms["fastmodel"],
        throughput_samples_per_s=Interval(rate, (rate * 0.98, rate * 1.02)),
    )
    return replace(report, speedup=speedup, arms={**report.arms, "fastmodel": fast})


def loss() -> Report:
    """fastmodel is slower, and its test accuracy is lower too."""
    report = with_ratio(0.8712, (0.8533, 0.8904))
    fast = replace(report.arms["fastmodel"], test_accuracy=0.9713)
    return replace(report, arms={**report.arms, "fastmodel": fast})


def tie() -> Report:
    """The interval contains 1."""
    return with_ratio(1.0093, (0.9711, 1.0488))


def within_noise() -> Report:
    """The interval excludes 1, but overlaps the A/A interval."""
    return with_ratio(1.0214, (1.0041, 1.0388), noise=(0.9702, 1.0313))


def incomplete_after_gate() -> Report:
    """Interrupted when only the correctness gate had run."""
    report = full()
    reason = "interrupted before this was measured"
    names = ["throughput_samples_per_s", "test_accuracy", "test_loss", "train_time_s", "epochs"]
    names += ["cost_usd_per_epoch", "cost_usd_total", "peak_memory_bytes", "energy_j"]
    names += ["time_to_accuracy_s", "step_parts", "operators"]
    arms = {
        name: Arm(name, arm.description, arm.is_optimized, missing=dict.fromkeys(names, reason))
        for name, arm in report.arms.items()
    }
    return replace(
        report,
        complete=False,
        incomplete_reason="interrupted by Ctrl-C during the paired timing",
        speedup=None,
        arms=arms,
        windows=[],
        method=replace(report.method, steps_per_window=None),
        ceilings=None,
        missing={"speedup": reason, "ceilings": reason},
    )


def interrupted() -> Report:
    """Interrupted before anything was measured; the reasons are those that the bench gives."""
    report = incomplete_after_gate()
    reason = "interrupted by Ctrl-C during the correctness gate"
    arms = {
        name: replace(arm, missing={"train_time_s": "the run ended before this arm was trained"})
        for name, arm in report.arms.items()
    }
    return replace(
        report,
        gate=None,
        incomplete_reason=reason,
        arms=arms,
        swaps=[],
        missing={"speedup": reason, "gate": reason},
    )


def gate_failed() -> Report:
    """One gradient is out of bound and one is not finite, so nothing was timed."""
    report = incomplete_after_gate()
    checks = _gate_checks()
    checks[3] = replace(checks[3], error=0.37, passed=False)
    checks[4] = replace(checks[4], error=None, passed=False)
    return replace(
        report, gate=Gate(False, checks), incomplete_reason="the correctness gate failed"
    )


def missing_values() -> Report:
    """Everything that may be None is None; some without a reason."""
    report = full()
    fields = ["test_accuracy", "test_loss", "train_time_s", "cost_usd_per_epoch"]
    fields += ["cost_usd_total", "peak_memory_bytes"]
    reasons = {name: f"reason for {name}" for name in fields[:-1]}
    cleared: dict[str, None] = dict.fromkeys(fields)
    fast = replace(report.arms["fastmodel"], **cleared, missing=reasons)  # type: ignore[arg-type]
    environment = replace(
        report.environment,
        cpu_model=None,
        memory_bytes=None,
        commit=None,
        missing={"cpu_model": "/proc/cpuinfo is not readable"},
    )
    return replace(
        report,
        environment=environment,
        gate=None,
        cost_rate=None,
        swaps=[],
        arms={**report.arms, "fastmodel": fast},
        missing={"gate": "skipped on request", "cost_rate": "no rate was given"},
    )


def hostile() -> Report:
    """Every string that a user or a machine can choose is an attack."""
    report = full()
    arms = {}
    for index, arm in enumerate(report.arms.values()):
        name = f"{HOSTILE}{index}"
        parts = [replace(part, name=f"{part.name}{HOSTILE}") for part in arm.step_parts]
        operators = [
            replace(row, name=f"{row.name}{HOSTILE}", missing=dict.fromkeys(row.missing, HOSTILE))
            for row in arm.operators
        ]
        arms[name] = replace(
            arm,
            name=name,
            description=HOSTILE,
            step_parts=parts,
            operators=operators,
            missing=dict.fromkeys(arm.missing, HOSTILE),
        )
    fast, baseline = list(arms)[:2]
    assert report.gate is not None and report.speedup is not None and report.cost_rate is not None
    return replace(
        report,
        incomplete_reason=HOSTILE,
        complete=False,
        command=["fastmodel", "bench", HOSTILE],
        environment=replace(
            report.environment,
            os=HOSTILE,
            cpu_model=HOSTILE,
            commit=HOSTILE,
            gpus=[HOSTILE],
            backends={HOSTILE: HOSTILE},
        ),
        workload=replace(
            report.workload, name=HOSTILE, description=HOSTILE, options={HOSTILE: HOSTILE}
        ),
        method=replace(report.method, order=HOSTILE),
        gate=Gate(True, [replace(check, name=HOSTILE) for check in report.gate.checks]),
        speedup=replace(report.speedup, baseline=baseline, optimized=fast),
        arms=arms,
        windows=[replace(w, arm=HOSTILE, marks=[HOSTILE]) for w in report.windows],
        failures={HOSTILE: HOSTILE},
        cost_rate=CostRate(0.095, HOSTILE, "javascript:alert(1)", HOSTILE, HOSTILE, HOSTILE),
        swaps=[SwapRow(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        missing={HOSTILE: HOSTILE},
    )


def single_arm() -> Report:
    """One arm alone: nothing to compare with."""
    report = full()
    return replace(
        report,
        speedup=None,
        arms={"eager-fused": report.arms["eager-fused"]},
        swaps=[],
        missing={"speedup": "only one arm was run"},
    )


def no_epochs() -> Report:
    """Timed only, nothing trained (`--epochs 0`)."""
    report = full(epochs=0)
    reason = "no epoch was asked for"
    names = ["epochs", "test_accuracy", "test_loss", "train_time_s", "cost_usd_per_epoch"]
    names += ["cost_usd_total", "time_to_accuracy_s", "energy_j", "peak_memory_bytes"]
    arms = {
        name: replace(
            arm,
            test_accuracy=None,
            test_loss=None,
            train_time_s=None,
            cost_usd_per_epoch=None,
            cost_usd_total=None,
            time_to_accuracy_s={},
            missing=dict.fromkeys(names, reason),
        )
        for name, arm in report.arms.items()
    }
    return replace(report, arms=arms)


def diverged() -> Report:
    """A training run whose loss became infinite, so that the record leaves it out."""
    report = full(epochs=4)
    arm = report.arms["fastmodel"]
    broken = [
        replace(e, train_loss=None, validation_loss=None, validation_accuracy=0.098)
        for e in arm.epochs[1:]
    ]
    fast = replace(arm, epochs=[*arm.epochs[:1], *broken], test_accuracy=0.098)
    return replace(report, arms={**report.arms, "fastmodel": fast})


def long_run() -> Report:
    """Ten epochs, with many pairs."""
    return full(epochs=10, pairs=40)


VARIANTS = {
    build.__name__: build
    for build in (
        full,
        loss,
        tie,
        within_noise,
        incomplete_after_gate,
        interrupted,
        gate_failed,
        missing_values,
        hostile,
        single_arm,
        no_epochs,
        diverged,
        long_run,
    )
}
