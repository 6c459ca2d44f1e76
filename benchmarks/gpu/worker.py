"""The process that measures: takes parts by name and leaves a file for each.

Each line of standard input is "part seconds path"; each answer on standard output is "done part". One process
serves all parts, for starting PyTorch on a GPU takes as long as many of them; the runner starts another one
where a part had to be stopped.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parents[1])]

from records import Line, Part  # noqa: E402

_MOST_TIMING_S = 1.5
"""Of one line."""


def serve() -> None:
    """Do what standard input asks for until it ends."""
    # What libraries print goes with the errors; answers have a way of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    from measure import ceilings

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    limits = ceilings()
    for request in sys.stdin:
        name, budget_s, path = request.split(maxsplit=2)
        work_part(name, float(budget_s), Path(path.strip()), limits)
        print(f"done {name}", file=answers, flush=True)


def work_part(name: str, budget_s: float, path: Path, limits) -> None:
    """Measure the lines of a part; its file is whole after each."""
    from plan import STEPS

    started_s = time.monotonic()
    title = next(step.title for step in STEPS if step.name == name)
    part = Part(name, title, environment=environment(), ceilings={})
    products = {f"{dtype} TFLOP/s": v for dtype, v in limits.product_tflop_per_s.items()}
    part.ceilings = {"copy GB/s": limits.copy_gb_per_s, **products}
    part.write(path)
    lines = list(_lines(name, limits))
    for index, (label, measure) in enumerate(lines):
        left_s = budget_s - (time.monotonic() - started_s)
        if left_s <= 0:
            part.notes.append(f"no time left for {label} and {len(lines) - index - 1} more")
            break
        try:
            line = measure(left_s / (len(lines) - index))
        except (AssertionError, LookupError, RuntimeError, ValueError, TypeError) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            line = Line(label, "", error=text)
        part.lines.append(line)
        part.wall_s = time.monotonic() - started_s
        part.write(path)
        _let_go()
    part.status = "done"
    part.wall_s = time.monotonic() - started_s
    part.write(path)


def _lines(name: str, limits) -> Iterator[tuple[str, Callable[[float], Line]]]:
    """(what, how to measure it in so many seconds) of each line of a part."""
    import measure
    import optimizer_races
    import step_races
    import works
    from function_races import race_of

    if name == "seed-step":
        yield "mnist-cnn", lambda budget_s: step_races.seed_step(limits, budget_s)
    elif name == "gpt-step":
        yield "gpt-small", lambda budget_s: step_races.gpt_step(limits, budget_s)
    elif name == "optimizers":
        for index, make in enumerate(optimizer_races.races()):
            yield (
                f"optimizer {index}",
                lambda budget_s, make=make: measure.run(make(), limits, _timing_s(budget_s)),
            )
    else:
        for work in works.FUNCTION_PARTS[name]():
            yield (
                f"{work.op} {work.case}",
                lambda budget_s, work=work: measure.run(race_of(work), limits, _timing_s(budget_s)),
            )


def _timing_s(budget_s: float) -> float:
    """What of a line's time goes to timing; the rest is for making, checking and compiling."""
    return min(_MOST_TIMING_S, budget_s / 4)


def _let_go() -> None:
    import torch

    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def environment() -> dict[str, Any]:
    """What a figure depends on beside the code, and the code's commit."""
    import platform

    import torch

    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit(),
        "driver": _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "triton": None,
    }
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        pass
    return found


def commit() -> str | None:
    """Of the checkout, with "+" where it has changes; GPU machines often have no git, then from COMMIT."""
    head = _answer("git", "-C", str(HERE), "rev-parse", "HEAD") or os.environ.get("COMMIT")
    changes = _answer("git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no")
    return f"{head}+" if head and changes else head


def _answer(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


if __name__ == "__main__":
    serve()
