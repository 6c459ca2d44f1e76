"""`fastmodel optimize`: the plan of a workload's step on standard output and in a file."""

import json
from pathlib import Path

import pytest
import torch

import fastmodel as fm
from fastmodel import cli

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = f"{ROOT / 'examples' / 'own_loop.py'}:make_workload"


def run(capsys, *arguments):
    code = cli.main(["optimize", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_plan_is_shown_saved_and_applied(capsys, tmp_path):
    path = tmp_path / "plan.json"
    code, out, err = run(capsys, EXAMPLE, "--save", path, "--budget-s", 20, "--explain")
    assert code == 0 and "one plain step" in err
    assert out.startswith("plan: ") and f"plan: {path}" in out
    plan = fm.Plan.load(path)
    assert plan.selection == "measured" and plan.fingerprint is not None
    assert {lever.name for lever in plan.levers} == {"channels_last", "loss", "optimizer"}
    code, out, _ = run(capsys, EXAMPLE, "--json", "--budget-s", 20)
    assert code == 0 and json.loads(out)["selection"] == "measured"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "unknown workload 'nope'"),
        ([EXAMPLE, "--save", "no/such/folder/plan.json"], "there is no folder no/such/folder"),
        ([EXAMPLE, "--budget-s", "0"], "'--budget-s': 0.0 is not in the range"),
        ([EXAMPLE, "--budget-s", "0.0001"], "budget_s=0.0001 is too small"),
    ],
)
def test_bad_arguments(capsys, arguments, words):
    threads = torch.get_num_threads()
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and words in err.splitlines()[-1]
    assert torch.get_num_threads() == threads
