"""The Chrome trace: tidied for Perfetto, and never larger than asked for.

The profiler marks the steps on the thread that trains, where a mark ends in the middle of the optimizer's
range; Perfetto drops slices that overlap in part. So the steps get a track of their own. A trace above the
limit is cut at the end of its last whole step that fits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastmodel.harness.profile.trace import STEP

LIMIT_BYTES = 20 * 10**6
_STEP_TRACK = 1_000_000_001
"""A thread number that no thread has."""


def tidy(path: Path, limit_bytes: int = LIMIT_BYTES) -> str | None:
    """Rewrite the trace in place; a remark where it had to be cut."""
    document = json.loads(path.read_text(encoding="utf-8"))
    events = [_on_its_track(event) for event in document["traceEvents"]]
    steps = sorted((e for e in events if _is_step(e)), key=lambda e: e["ts"])
    document["traceEvents"] = [*_track_names(steps), *events]
    text = _dump(document)
    whole = len(steps)
    while len(text) > limit_bytes and steps:
        # The text grows with the steps: a first guess from its size, then one by one.
        keep = min(len(steps) - 1, int(len(steps) * limit_bytes / len(text)))
        end = steps[keep]["ts"] if keep < len(steps) else float("inf")
        steps = steps[:keep]
        document["traceEvents"] = [e for e in document["traceEvents"] if e.get("ts", 0) < end]
        text = _dump(document)
    path.write_text(text, encoding="utf-8")
    if len(steps) == whole:
        return None
    return f"the trace holds the first {len(steps)} of {whole} steps, to stay below {limit_bytes} bytes"


def _is_step(event: dict[str, Any]) -> bool:
    return event.get("ph") == "X" and str(event.get("name", "")).startswith(STEP)


def _on_its_track(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"tid": _STEP_TRACK} if _is_step(event) else event


def _track_names(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pids = dict.fromkeys(event["pid"] for event in steps)
    return [
        {
            "ph": "M",
            "name": "thread_name",
            "pid": pid,
            "tid": _STEP_TRACK,
            "args": {"name": "steps"},
        }
        for pid in pids
    ]


def _dump(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
