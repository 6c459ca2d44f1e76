"""The table of docs/optimize.md, written from the committed results of the zoo: part of `make docs`."""

from __future__ import annotations

from pathlib import Path

from measure_zoo import ADAPTER, FASTMODEL, TORCH, Result
from support.zoo_models import NETWORKS

from fastmodel.timing import Estimate, geometric_mean

ROOT = Path(__file__).resolve().parents[2]
MACHINE = "epyc-2core"
RESULTS = ROOT / "benchmarks" / "results" / MACHINE / "zoo"
DOCUMENT = ROOT / "docs" / "optimize.md"
_BEGIN, _END = "<!-- zoo: make docs -->", "<!-- zoo end -->"


def results(directory: Path = RESULTS) -> list[Result]:
    """What was measured, in the zoo's order."""
    order = [network.name for network in NETWORKS]
    found = [ADAPTER.validate_json(path.read_bytes()) for path in directory.glob("*.json")]
    return sorted(found, key=lambda result: order.index(result.network))


def table(found: list[Result]) -> str:
    """One row a network, and what all of them come to."""
    machine = found[0].environment
    lines = [
        f"{machine.cpu_model}, {machine.threads} threads, {machine.cpu_capability}, PyTorch "
        f"{machine.torch_version}, float32; one step of forward, loss, backward and optimizer.",
        "",
        "| network | inputs | plain, ms | fastmodel, ms | ratio [95 %] | to PyTorch's best arm | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        kept = [f"{len(one.plan.swaps)} places ({one.plan.capture})"] * bool(one.plan.swaps)
        lines.append(
            f"| {one.network} | {one.inputs} | {one.step_ms[TORCH]:.2f} | "
            f"{one.step_ms[FASTMODEL]:.2f} | {_text(one.ratio)} | {_text(one.ratio_to_best)} "
            f"({one.best_torch.removeprefix('torch-')}) | "
            f"{', '.join([*kept, *one.plan.pulled]) or 'nothing: returned as it was'} |"
        )
    ratios = [one.ratio.value for one in found]
    lowest = min(found, key=lambda one: one.ratio.value)
    lines += [
        "",
        f"Geometric mean over the {len(found)} networks: {geometric_mean(ratios):.2f}; lowest "
        f"{lowest.ratio.value:.2f} ({lowest.network}). To PyTorch's best arm: "
        f"{geometric_mean([one.ratio_to_best.value for one in found]):.2f}.",
    ]
    missing = [one.name for one in NETWORKS if one.name not in {r.network for r in found}]
    if missing:
        lines += ["", f"Not measured yet on this machine: {', '.join(missing)}."]
    return "\n".join(lines)


def with_table(text: str, found: list[Result]) -> str:
    """The document with the table put between its marks."""
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return f"{head}{_BEGIN}\n{table(found)}\n{_END}{tail}"


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), results()))
