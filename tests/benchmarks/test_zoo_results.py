"""The committed results of the zoo: complete, and the document says what they say."""

from pathlib import Path

import pytest
from support.zoo_models import NETWORKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def document(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "zoo"))
    import zoo_table

    return zoo_table


def test_every_network_is_measured_or_named_as_missing(document):
    measured = {one.network for one in document.results()}
    names = {one.name for one in NETWORKS}
    assert measured <= names and measured
    text = document.table(document.results())
    for name in names:
        assert (f"| {name} |" in text) == (name in measured)
        assert name in text


def test_the_document_is_written_from_them(document):
    text = document.DOCUMENT.read_text()
    assert document.with_table(text, document.results()) == text, "make docs"


def test_ratios_follow_from_the_samples(document):
    from fastmodel.timing import mean_ratio, paired_ratios

    for one in document.results():
        found = mean_ratio(paired_ratios(one.samples, "torch", "fastmodel"))
        assert found.value == pytest.approx(one.ratio.value)
        assert one.environment.commit is not None
        assert one.best_torch in one.step_ms and one.plan.fingerprint is not None
