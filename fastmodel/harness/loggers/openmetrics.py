"""metrics.txt in OpenMetrics' text format: for a node exporter's textfile collector, or a CI's store.

Source: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

from pathlib import Path

from fastmodel.harness.loggers.figures import Figure, figures
from fastmodel.harness.records import Report
from fastmodel.harness.store import write_atomically

_UNITS = {"_s": "_seconds", "_j": "_joules", "_g": "_grams"}


def write(report: Report, directory: Path) -> Path:
    """Every figure is a gauge `fastmodel_<name>` with the labels workload and arm."""
    path = directory / "metrics.txt"
    write_atomically(path, render(report))
    return path


def render(report: Report) -> str:
    """The exposition; gauges in the order of the report, ended by EOF."""
    families: dict[str, list[Figure]] = {}
    for one in figures(report):
        families.setdefault(one.name, []).append(one)
    lines = []
    for name, members in families.items():
        metric = f"fastmodel_{_name(name)}"
        lines += [f"# TYPE {metric} gauge", f"# HELP {metric} {_escape(members[0].help)}"]
        for one in members:
            labels = {"workload": report.workload.name} | ({"arm": one.arm} if one.arm else {})
            text = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
            lines.append(f"{metric}{{{text}}} {one.value!r}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _name(name: str) -> str:
    """Base units in full, as the format wants them."""
    if name == "throughput_samples_per_s":
        return "throughput_samples_per_second"
    for short, long in _UNITS.items():
        if name.endswith(short):
            return name.removesuffix(short) + long
    return name


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
