"""The result records: what a bench run writes, with units in the field names. No behaviour.

`report.json` is a `Report`; `docs/report.schema.json` is generated from these classes. A value that
could not be read is None, and the record's `missing` says why, keyed by the field's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastmodel.harness.roofline_records import Ceilings, OperatorRow
from fastmodel.harness.telemetry_records import Telemetry

SCHEMA_VERSION = 2

Missing = dict[str, str]


@dataclass(frozen=True)
class Environment:
    """The machine and the software that the figures hold for."""

    hostname_hash: str
    os: str
    cpu_model: str | None
    cpu_count: int
    cpu_capability: str
    threads: int
    memory_bytes: int | None
    gpus: list[str]
    python_version: str
    torch_version: str
    fastmodel_version: str
    commit: str | None
    backends: dict[str, str]
    """Backend name to "available" or the reason why not."""
    variables: dict[str, str] = field(default_factory=dict)
    """Set ones that hold our kernels or PyTorch's to some instructions or threads."""
    missing: Missing = field(default_factory=dict)


@dataclass(frozen=True)
class WorkloadInfo:
    """What was trained."""

    name: str
    description: str
    batch_size: int
    epochs: int
    seed: int
    train_samples: int
    validation_samples: int
    test_samples: int
    parameters: int
    options: dict[str, str] = field(default_factory=dict)
    tokens_per_sample: int | None = None
    """Where the workload says so: throughput and money are then given by the token too."""
    flops_per_sample: int | None = None
    """Of a training step, as the workload counts them: what the model utilization is made of."""
    bytes_per_target: float | None = None
    """Of text, that the loss of one target is about: bits per byte are loss / ln 2 over this."""


@dataclass(frozen=True)
class Method:
    """How the paired timing was done."""

    order: str
    pairs: int
    steps_per_window: int | None
    """None until the first windows are about to be timed."""
    warmup_steps: int
    """Trained by each arm before its first window."""
    bootstrap_resamples: int
    half_width: float | None = None
    """Wanted half-width of the 95 % interval relative to the ratio; None: a fixed number of pairs."""
    stopped: str | None = None
    """Why the paired timing ended; None until it did."""


@dataclass(frozen=True)
class GateCheck:
    """One tensor of the optimized arm against float64, beside the baseline's own error."""

    name: str
    error: float | None
    """Largest absolute difference over the reference's largest value; None where not finite."""
    baseline_error: float | None
    bound: float | None
    passed: bool


@dataclass(frozen=True)
class Gate:
    """Do both arms give the same outputs and gradients from the same weights?"""

    passed: bool
    checks: list[GateCheck]


@dataclass(frozen=True)
class Window:
    """One timed window of one arm, as measured; the raw sample behind every ratio."""

    arm: str
    pair: int
    position: int
    steps: int
    samples: int
    time_s: float
    phase: str = "paired"
    """"calibration" (every baseline arm; picks the best), "paired" (the ratios), "noise" (A/A)."""
    marks: list[str] = field(default_factory=list)
    """What disturbed it, in words; the window is kept in every figure all the same."""


@dataclass(frozen=True)
class Steady:
    """Did the paired windows of one arm come to rest?"""

    verdict: str
    """"steady", "never steady" or "too few windows"."""
    first: int | None
    """The window that rest begins at; None without rest."""
    drift: float | None
    """Relative change of a window's time over the judged windows: 0.05 is 5 % slower at the end."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Speedup:
    """Paired throughput ratio of the optimized arm over the best baseline arm."""

    baseline: str
    optimized: str
    estimate: float
    ci95: tuple[float, float]
    pairs: int
    noise_floor: tuple[float, float]
    """95 % interval of an A/A run: the baseline against itself."""
    ratios: list[float]
    block_length: int = 1
    """Neighbouring ratios that the bootstrap draws together."""
    undisturbed: Interval | None = None
    """The ratio over the pairs without any mark; None where fewer than two are left, or all are."""
    disturbed_pairs: int = 0
    steadiness: dict[str, Steady] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training run."""

    epoch: int
    train_loss: float | None
    """None where the run diverged (not finite); so too the validation loss."""
    validation_loss: float | None
    validation_accuracy: float
    train_time_s: float
    evaluation_time_s: float
    elapsed_train_time_s: float
    """Training time from the start of the run to the end of this epoch, evaluation excluded."""
    learning_rate: float


@dataclass(frozen=True)
class StepPart:
    """A share of one training step: time spent in one operator class."""

    name: str
    time_s: float
    share: float


@dataclass(frozen=True)
class Arm:
    """One way of training the same model."""

    name: str
    description: str
    is_optimized: bool
    throughput_samples_per_s: Interval | None = None
    throughput_tokens_per_s: Interval | None = None
    utilization_of_measured_peak: float | None = None
    """The model's FLOP/s at the timed throughput (MFU), over the best that was measured in this run."""
    utilization_of_quoted_peak: float | None = None
    """The same over the datasheet's figure."""
    untrained_validation_loss: float | None = None
    """Before the first step."""
    validation_bits_per_byte: float | None = None
    """Of the last epoch."""
    untrained_bits_per_byte: float | None = None
    epochs: list[Epoch] = field(default_factory=list)
    test_accuracy: float | None = None
    test_loss: float | None = None
    time_to_accuracy_s: dict[str, float | None] = field(default_factory=dict)
    """"0.98" and "0.99" to training seconds at the end of the first epoch that reached it."""
    train_time_s: float | None = None
    startup_time_s: float | None = None
    """From the start of building the arm to the end of its first training step."""
    evaluation_time_s: float | None = None
    """Validation after every epoch; no part of the training time."""
    cost_usd_per_epoch: float | None = None
    cost_usd_total: float | None = None
    cost_usd_per_million_samples: float | None = None
    cost_usd_per_million_tokens: float | None = None
    cost_usd_to_accuracy: dict[str, float | None] = field(default_factory=dict)
    """Money of `time_to_accuracy_s`: training alone, start-up and evaluation stand apart."""
    cost_usd_startup: float | None = None
    cost_usd_evaluation: float | None = None
    electricity_usd: float | None = None
    emissions_g: float | None = None
    """Grams of CO2 equivalent of `energy_j`, at the grid intensity that was given."""
    peak_memory_bytes: int | None = None
    """Highest memory in use during the training run, above the level before the arm was built."""
    energy_j: float | None = None
    energy_source: str | None = None
    telemetry: Telemetry | None = None
    """The training run over time."""
    step_parts: list[StepPart] = field(default_factory=list)
    operators: list[OperatorRow] = field(default_factory=list)
    """Of the profiled step, those that took longest, against the roof that `Report.ceilings` makes."""
    missing: Missing = field(default_factory=dict)


@dataclass(frozen=True)
class CostRate:
    """Where the money figures come from."""

    rate_usd_per_h: float
    name: str
    source: str
    as_of: str | None
    kind: str = "given"
    """"on-demand", "spot", or "given" by the user."""
    confirmation: str = ""
    """How far to trust a listed price: read on the provider's page, or second hand."""


@dataclass(frozen=True)
class Electricity:
    """What turns Joules into money and carbon; either may be None."""

    price_usd_per_kwh: float | None
    intensity_g_per_kwh: float | None


@dataclass(frozen=True)
class SwapRow:
    """One place of the model that fastmodel replaced, or left with its reason."""

    site: str
    pattern: str
    replacement: str | None
    reason: str


@dataclass(frozen=True)
class LeverShare:
    """What one lever of the selection adds: the step with all levers but this one against the whole."""

    name: str
    ratio: Interval
    """Time without it over time with all: above 1 it helps."""


@dataclass(frozen=True)
class Waterfall:
    """From the plain training step to the one that the measured selection built, lever by lever."""

    plain_time_s: float
    optimized_time_s: float
    ratio: Interval
    levers: list[LeverShare]


@dataclass(frozen=True)
class Report:
    """One bench run: everything that was measured and what it was measured on."""

    schema_version: int
    complete: bool
    incomplete_reason: str | None
    started_at: str
    duration_s: float
    command: list[str]
    environment: Environment
    workload: WorkloadInfo
    method: Method
    gate: Gate | None
    speedup: Speedup | None
    arms: dict[str, Arm]
    windows: list[Window]
    cost_rate: CostRate | None
    swaps: list[SwapRow]
    electricity: Electricity | None = None
    failures: dict[str, str] = field(default_factory=dict)
    """Arm to the reason why it could not be run; the others were measured all the same."""
    waterfall: Waterfall | None = None
    """By leave-one-out, where it was asked for and anything won."""
    ceilings: Ceilings | None = None
    """What the machine reached at most, measured in this run."""
    missing: Missing = field(default_factory=dict)
