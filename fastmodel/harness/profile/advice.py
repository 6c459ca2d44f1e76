"""What to change, each with a gain that was measured or follows from what was.

A gain is the time of a step that a change is estimated to save. Shares come from the profiled steps and are
applied to the step without the profiler, so that the profiler's own cost is not promised away. Advice of less
than `LEAST_SHARE` of a step is not given, and none without a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fastmodel.harness.profile import advice_trials, gains
from fastmodel.harness.profile.advice_trials import WHOLE_STEP
from fastmodel.harness.profile.candidates import FUSED, Site
from fastmodel.harness.profile.facts import FASTMODEL, Facts, make, ms, share
from fastmodel.harness.profile.trace import OPTIMIZER, Event, Trace
from fastmodel.harness.profile_records import Advice, Estimate

LEAST_SHARE = 0.005


def advice(facts: Facts) -> list[Advice]:
    """All of it, the largest gain first."""
    found = [
        *_fused(facts),
        *_loss(facts),
        *_optimizer(facts),
        *_loader(facts),
        *_sync(facts),
        *_zero_grad(facts),
        *_device(facts),
        *(advice_trials.tried(facts) if facts.has_trials else ()),
    ]
    whole = list(advice_trials.whole(facts)) if facts.has_trials else []
    if any(item.gain_share < LEAST_SHARE for item in whole):
        # What was tried and won nothing is not promised piece by piece.
        found = [item for item in found if not _is_part(item, whole)]
    found += whole
    worth = [item for item in found if item.gain_share >= LEAST_SHARE]
    return sorted(worth, key=lambda item: -item.gain_s)


def together(items: Sequence[Advice], step_s: float) -> Estimate | None:
    """All that fastmodel itself would replace: what was tried together, and on each other target the best."""
    whole = [item for item in items if item.name == WHOLE_STEP]
    best: dict[str, Advice] = {}
    for item in items:
        if (
            item.name.startswith(FASTMODEL)
            and not _is_part(item, whole)
            and (item.target not in best or best[item.target].gain_s < item.gain_s)
        ):
            best[item.target] = item
    if not best:
        return None
    left_s = max(0.01 * step_s, step_s - sum(item.gain_s for item in best.values()))
    leaves_out = (
        "batches, logging and all else between the steps, which stay as they are"
        if whole
        else "Python's time between the kernels, which fewer calls shorten: it could not be tried"
    )
    return Estimate([item.name for item in best.values()], left_s, step_s / left_s, leaves_out)


def _is_part(item: Advice, whole: Sequence[Advice]) -> bool:
    """Is it a piece of what was tried as a whole?"""
    return item.name.startswith(FASTMODEL) and any(item.target in one.includes for one in whole)


def _fused(facts: Facts) -> Iterator[Advice]:
    """A piece of advice for each pattern, over all its sites."""
    if facts.trace.has_device:
        return
    by_pattern: dict[tuple[str, str], list[Site]] = {}
    for site in facts.sites:
        by_pattern.setdefault((site.module, site.pattern), []).append(site)
    for (module, pattern), own in by_pattern.items():
        op, followers = FUSED[module]
        time_us = gain_us = 0.0
        words, evidence = [], ""
        for key in dict.fromkeys((s.x_shape, s.weight_shape, s.is_channels_last) for s in own):
            x_shape, weight_shape, is_channels_last = key
            alike = [s for s in own if (s.x_shape, s.weight_shape) == (x_shape, weight_shape)]
            arm = "torch channels_last" if is_channels_last else "torch"
            gain = gains.gain(op, (x_shape, weight_shape), arm)
            if gain is None:
                continue
            took_us = _time_of(facts, alike, followers)
            time_us += took_us
            gain_us += took_us * (1 - 1 / gain.ratio)
            evidence = f"{gain.source} ({gain.machine})"
            names = ", ".join(site.name or "the model" for site in alike)
            words.append(f"{names}: {gain.words}")
        if not words:
            continue
        dtypes = {site.dtype for site in own} - {"float32"}
        if dtypes:
            words.append(f"measured in float32, the sites are {', '.join(sorted(dtypes))}")
        yield make(
            facts,
            f"{FASTMODEL}-{op}",
            f"{pattern} in one kernel",
            gain_s=facts.scaled_s(gain_us),
            target=f"{op} sites",
            action=f"model = fm.optimize(model, example_inputs), or fm.nn.{module} by hand",
            how=(
                f"{share(facts, time_us)} of the step, forward and backward, "
                f"divided by {'; '.join(words)}"
            ),
            evidence=evidence,
            where=[site.name or "the model" for site in own],
        )


def _time_of(facts: Facts, alike: Sequence[Site], followers: tuple[str, ...]) -> float:
    """Of all chains of these sites' shapes that go on as the pattern does."""
    site = alike[0]
    return sum(
        chain.time_us(followers)
        for chain in facts.chains
        if chain.shapes[:2] == (site.x_shape, site.weight_shape) and chain.has(followers)
    )


def _loss(facts: Facts) -> Iterator[Advice]:
    modules = {"cross_entropy": "CrossEntropyLoss", "mse_loss": "MSELoss"}
    if facts.trace.has_device:
        return
    for op, module in modules.items():
        own = [chain for chain in facts.chains if chain.anchor == op and chain.shapes]
        time_us = sum(chain.time_us(()) for chain in own)
        gain = gains.gain(op, own[0].shapes[:1], "torch") if own else None
        if gain is None:
            continue
        yield make(
            facts,
            f"{FASTMODEL}-{op}",
            f"The loss in one pass each way: {module}",
            gain_s=facts.scaled_s(time_us * (1 - 1 / gain.ratio)),
            target=op,
            action=f"fm.nn.{module}() in the place of PyTorch's",
            how=f"{share(facts, time_us)} of the step divided by {gain.words}",
            evidence=f"{gain.source} ({gain.machine})",
        )


def _optimizer(facts: Facts) -> Iterator[Advice]:
    """fastmodel's optimizer, and PyTorch's fused one, where neither is in use."""
    time_us = sum(e.time_us for e in _ranges(facts.trace, OPTIMIZER))
    total = sum(_sizes(o)[1] for o in facts.optimizers)
    for optimizer in facts.optimizers:
        kind = type(optimizer)
        op = {"Adam": "adam", "AdamW": "adam", "SGD": "sgd"}.get(kind.__name__)
        if op is None or not kind.__module__.startswith("torch.") or facts.trace.has_device:
            continue
        tensors, elements = _sizes(optimizer)
        own_us = time_us * elements / max(total, 1)
        arm = _arm(optimizer)
        what = f"{kind.__name__} over {tensors} tensors of {elements / tensors:,.0f} on average"
        choices: list[tuple[str, str | None, str, str]] = [
            (f"{FASTMODEL}-{op}", None, f"fm.optim.{kind.__name__}(...)", "in one sweep")
        ]
        if arm != "torch fused":
            choices.append(("fused-optimizer", "torch fused", "fused=True", "fused"))
        for name, over, action, words in choices:
            gain = gains.gain(op, [(tensors, elements)], arm, over)
            if gain is None:
                continue
            yield make(
                facts,
                name,
                f"The optimizer's step {words}: {kind.__name__}",
                gain_s=facts.scaled_s(own_us * (1 - 1 / gain.ratio)),
                target=f"optimizer {kind.__name__}",
                action=action,
                how=f"{what}: {share(facts, own_us)} of the step divided by {gain.words}",
                evidence=f"{gain.source} ({gain.machine})",
            )


def _loader(facts: Facts) -> Iterator[Advice]:
    if facts.control_s is None:
        return
    workers = sorted({loader.num_workers for loader in facts.loaders})
    yield make(
        facts,
        "data-loader",
        "The step waits for data",
        gain_s=max(0.0, facts.step_s - facts.control_s),
        target="data loader",
        action="more workers, less work a sample, or tensors that lie ready in memory"
        f" (num_workers now: {', '.join(map(str, workers)) or 'unknown'})",
        how=(
            f"a control run on one cached batch took {ms(facts.control_s)} a step, against "
            f"{ms(facts.step_s)}; in the loader's iterator {ms(facts.loader_s)} a step"
        ),
        evidence="measured in this run",
    )


def _sync(facts: Facts) -> Iterator[Advice]:
    for point in facts.sync_points:
        if point.time_s is None:
            continue
        yield make(
            facts,
            "synchronization",
            "A line waits for a tensor's value",
            gain_s=point.time_s,
            target=point.where,
            action="keep the value on the device, add it up, and read it once in a while",
            how=f"{point.operator}, {point.calls:g} a step, {ms(point.time_s)} together",
            evidence="measured in this run",
            where=[f"{point.where}: {point.code}"],
        )


def _zero_grad(facts: Facts) -> Iterator[Advice]:
    """Gradients that are zeroed and added to, where they could be dropped and set."""
    ranges = _ranges(facts.trace, "Optimizer.zero_grad")
    events = [e for e in facts.trace.events if not e.is_device and not e.is_range]
    zeroing = [
        e
        for e in events
        if e.name in ("aten::zero_", "aten::_foreach_zero_") and _within(e, ranges)
    ]
    if not zeroing:
        return
    adding = [
        e
        for e in events
        if e.name == "aten::add_" and e.parent and "AccumulateGrad" in e.parent.name
    ]
    time_us = sum(e.time_us for e in (*zeroing, *adding))
    yield make(
        facts,
        "set-to-none",
        "Gradients are filled with zeros and added to",
        gain_s=facts.scaled_s(time_us),
        target="zero_grad",
        action="optimizer.zero_grad(set_to_none=True), which is the default",
        how=f"{share(facts, time_us)} of the step: {len(zeroing)} fills and {len(adding)} additions"
        f" in {len(facts.trace.steps)} steps",
        evidence="measured in this run",
    )


def _device(facts: Facts) -> Iterator[Advice]:
    """Of a CUDA device: gaps between kernels, and copies from pageable memory."""
    if not facts.trace.has_device:
        return
    low, high = facts.trace.window
    busy_us = _covered([e for e in facts.trace.events if e.is_device], low, high)
    launches = sum(
        1
        for e in facts.trace.events
        if e.name in ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel")
    )
    idle_us = (high - low) - busy_us
    if launches and idle_us > 0.3 * (high - low):
        yield make(
            facts,
            "cuda-graph",
            "The device waits for launches",
            gain_s=facts.scaled_s(idle_us),
            target="launches",
            action="a larger batch, torch.compile(mode='reduce-overhead') or a CUDA graph of the step",
            how=f"nothing ran on the device in {share(facts, idle_us)} of the step, with"
            f" {launches / len(facts.trace.steps):.0f} launches a step: at most this much",
            evidence="measured in this run",
        )
    pageable = [e for e in facts.trace.events if e.is_device and "Pageable -> Device" in e.name]
    time_us = sum(e.time_us for e in pageable)
    if pageable:
        yield make(
            facts,
            "pinned-memory",
            "Batches are copied from pageable memory, and the step waits for them",
            gain_s=facts.scaled_s(time_us),
            target="copies to the device",
            action="DataLoader(pin_memory=True) and .to(device, non_blocking=True)",
            how=f"{len(pageable)} copies took {share(facts, time_us)} of the step; pinned, they run"
            " beside the kernels: at most this much",
            evidence="measured in this run",
        )


def _arm(optimizer: torch.optim.Optimizer) -> str:
    if optimizer.defaults.get("fused"):
        return "torch fused"
    return "torch foreach" if optimizer.defaults.get("foreach") else "torch"


def _sizes(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """How many tensors it updates, and their elements."""
    tensors = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    return len(tensors), sum(p.numel() for p in tensors)


def _ranges(trace: Trace, name: str) -> list[Event]:
    low, high = trace.window
    return [e for e in trace.events if e.name.startswith(name) and low <= e.start_us < high]


def _within(event: Event, ranges: Sequence[Event]) -> bool:
    return any(r.start_us <= event.start_us and event.end_us <= r.end_us for r in ranges)


def _covered(events: Sequence[Event], low: float, high: float) -> float:
    """Time in which at least one of the events ran."""
    total, reached = 0.0, low
    for event in sorted(events, key=lambda e: e.start_us):
        start, end = max(event.start_us, reached), min(event.end_us, high)
        if end > start:
            total += end - start
            reached = end
    return total
