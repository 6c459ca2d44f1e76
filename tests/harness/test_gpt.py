"""The workload gpt: its models, its figures, and small ones of it through every arm."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastmodel as fm
from fastmodel.errors import InputError
from fastmodel.harness import gate, tokens, training
from fastmodel.harness.bench import Bench, Settings
from fastmodel.harness.measure import Timing
from fastmodel.harness.profile import ceilings
from fastmodel.harness.records import Arm, CostRate, Interval
from fastmodel.harness.roofline_records import Ceilings
from fastmodel.harness.store import Store
from fastmodel.harness.tables import bench_table
from fastmodel.harness.workloads import Options, default_arms, registry
from fastmodel.harness.workloads.gpt import GptNano, GptWorkload
from fastmodel.harness.workloads.gpt_model import (
    Gpt,
    GptConfig,
    TokenLoss,
    rotary_tables,
    rotate_half,
)
from fastmodel.progress import PlainProgress

from .conftest import ROOF
from .sample_report import full

CONFIG = GptConfig(layers=2, heads=2, width=32, context=16, vocabulary=256)
FLAVOURS = {"gpt": CONFIG, "llama": dataclasses.replace(CONFIG, is_llama=True)}
flavours = pytest.mark.parametrize("config", FLAVOURS.values(), ids=FLAVOURS)


class Tiny(GptWorkload):
    """Learns in a second."""

    name, description = "tiny", "a small gpt"
    config, lr, train_bytes, held_out_bytes = CONFIG, 1e-2, 4096, 1600


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of little text, in every part of which there is some."""
    folder = tmp_path_factory.mktemp("text")
    source = Path(argparse.__file__).read_bytes()
    for number in range(80):
        (folder / f"m{number}.py").write_bytes(source[1000 * number : 1000 * (number + 1)])
    return folder


@pytest.fixture
def options(text):
    return Options(batch_size=16, epochs=2, data=text)


@pytest.fixture(params=FLAVOURS)
def tiny(request, options):
    return type("Tiny", (Tiny,), {"config": FLAVOURS[request.param]})(options)


def model_of(config: GptConfig) -> Gpt:
    torch.manual_seed(0)
    return Gpt(config).double()


def some_tokens(n: int, t: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, t), generator=torch.Generator().manual_seed(seed))


@flavours
def test_no_token_sees_a_later_one(config):
    model = model_of(config)
    tokens_in = some_tokens(2, 16)
    logits = model(tokens_in)
    changed = tokens_in.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 256
    other = model(changed)
    assert logits.shape == (2, 16, 256)
    torch.testing.assert_close(other[:, :9], logits[:, :9], rtol=0, atol=1e-12)
    assert all((other[:, t] - logits[:, t]).abs().max() > 1e-6 for t in range(9, 16))


@flavours
def test_positions_matter(config):
    """Of two equal tokens before the last, in either order: attention alone would not tell."""
    model = model_of(config)
    a, b = torch.tensor([[5, 6, 7]]), torch.tensor([[6, 5, 7]])
    assert (model(a)[:, -1] - model(b)[:, -1]).abs().max() > 1e-6


@flavours
def test_shorter_sequences_are_a_prefix(config):
    model, tokens_in = model_of(config), some_tokens(2, 16)
    torch.testing.assert_close(model(tokens_in[:, :5]), model(tokens_in)[:, :5])


def test_rotary_positions_turn_pairs_by_the_distance():
    """The product of a turned query and key depends on how far apart they are, and on nothing else."""
    cos, sin = rotary_tables(32, 8)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, generator=generator)

    def product(i: int, j: int) -> torch.Tensor:
        turned = [x * cos[t] + rotate_half(x) * sin[t] for x, t in ((q, i), (k, j))]
        return torch.dot(*turned)

    torch.testing.assert_close(product(3, 1), product(30, 28), rtol=1e-5, atol=1e-5)
    assert abs(product(3, 1) - product(3, 2)) > 1e-2
    torch.testing.assert_close(product(0, 0), torch.dot(q, k))
    # The first pair turns by one radian a position, the last by 10,000^(-3/4) of one.
    assert cos[1, 0] == pytest.approx(math.cos(1.0)) and sin[2, 3] == pytest.approx(2e-3, rel=1e-5)
    assert torch.equal(cos[:, :4], cos[:, 4:])


def test_the_start_is_gpt_2s():
    model = Gpt(dataclasses.replace(CONFIG, width=64))
    assert model.head.weight is model.tokens.weight
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.1)
    down = torch.stack([block.mlp.down.weight for block in model.blocks])
    assert down.std().item() == pytest.approx(0.01, rel=0.1)  # 0.02 / sqrt(2 * 2 layers)
    assert all(
        m.bias.abs().max() == 0 for m in model.modules() if getattr(m, "bias", None) is not None
    )
    llama = Gpt(FLAVOURS["llama"])
    assert llama.head.weight is not llama.tokens.weight
    assert {type(m) for m in llama.modules() if "Norm" in type(m).__name__} == {nn.RMSNorm}
    assert all(m.bias is None for m in llama.modules() if isinstance(m, nn.Linear))


@flavours
def test_flops_are_those_that_pytorch_counts(config):
    model = Gpt(config)
    with FlopCounterMode(display=False) as counter:
        model(some_tokens(1, config.context))
    # PyTorch counts no attention on a CPU. Two products, of which a causal one needs half each.
    attention = config.layers * 2 * config.width * config.context**2
    assert 3 * (counter.get_total_flops() + attention) == model.flops_per_sequence()


def test_the_loss_is_the_mean_over_tokens():
    logits, targets = torch.randn(3, 5, 256), some_tokens(3, 5)
    expected = F.cross_entropy(logits.transpose(1, 2), targets)
    torch.testing.assert_close(TokenLoss()(logits, targets), expected)


def test_the_fastmodel_arm_has_its_own_loss_inside(tiny, options):
    loops = {arm.name: arm.build(tiny, options) for arm in default_arms(tiny)}
    assert list(loops) == ["eager", "eager-fused", "fastmodel"]
    assert type(loops["fastmodel"].loss.cross_entropy) is fm.nn.CrossEntropyLoss
    assert type(loops["eager"].loss.cross_entropy) is nn.CrossEntropyLoss
    assert loops["fastmodel"].optimizer.max_grad_norm == 1.0
    keys = [list(loop.model.state_dict()) for loop in loops.values()]
    assert keys[0] == keys[1] == keys[2]


def test_the_gate_passes_both_flavours_and_sees_a_fault(tiny, options, monkeypatch):
    arms = {arm.name: arm for arm in default_arms(tiny)}
    found = gate.check(tiny, options, arms["eager"], arms["fastmodel"])
    assert found.passed, gate.failures(found)

    def build(workload, options):
        loop = arms["fastmodel"].build(workload, options)
        loop.model.register_forward_hook(lambda model, inputs, outputs: outputs * 1.001)
        return loop

    wrong = dataclasses.replace(arms["fastmodel"], build=build)
    assert not gate.check(tiny, options, arms["eager"], wrong).passed


def test_the_arms_learn_alike(tiny, options):
    runs = {}
    for arm in default_arms(tiny):
        first, *epochs = (
            item
            for item in training.training_run(arm, tiny, options)
            if isinstance(item, (training.Untrained, training.Epoch))
        )
        assert first.validation_loss == pytest.approx(math.log(256), abs=0.2)
        assert epochs[-1].validation_loss < epochs[0].validation_loss < first.validation_loss - 0.5
        runs[arm.name] = [epoch.validation_loss for epoch in epochs]
    # 32 float32 steps of AdamW, which divides rounding by small gradients' size.
    assert runs["fastmodel"] == pytest.approx(runs["eager"], rel=1e-2)


def test_a_recomputing_arm_holds_less_and_learns_alike(tiny, options, monkeypatch):
    batch = tiny.train.head(16)
    spared = []
    honest = fm.recompute_activations

    @contextlib.contextmanager
    def watched():
        with honest() as region:
            yield region
        spared.append(region.spared_bytes)

    monkeypatch.setattr(fm, "recompute_activations", watched)
    losses = {}
    for recomputes in (False, True):
        arms = default_arms(tiny, recomputes=recomputes)
        assert ("recompute_activations" in arms[-1].description) == recomputes
        asked = dataclasses.replace(options, recomputes=recomputes)
        loops = [arm.build(tiny, asked) for arm in arms]
        assert [loop.recomputes for loop in loops] == [False, False, recomputes]
        losses[recomputes] = [loops[-1].step(batch.inputs, batch.targets) for _ in range(5)]
    assert len(spared) == 5 and min(spared) > 0
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-4, atol=1e-4)


def test_evaluation_counts_tokens(tiny, options):
    loop = default_arms(tiny)[0].build(tiny, options)
    loss, accuracy = training.evaluate(loop, tiny.validation)
    loop.model.eval()
    logits = loop.model(tiny.validation.inputs).flatten(0, 1)
    targets = tiny.validation.targets.flatten()
    assert loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == targets).double().mean().item())


def test_evaluation_holds_few_tokens_at_once(tiny, options, monkeypatch):
    loop = default_arms(tiny)[0].build(tiny, options)
    whole = training.evaluate(loop, tiny.validation)
    monkeypatch.setattr(training, "_EVALUATION_TARGETS", 100)
    sizes = []
    loop.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    assert training.evaluate(loop, tiny.validation) == pytest.approx(whole, rel=1e-5)
    assert max(sizes) == 100 // 16


def test_the_workload_says_what_it_is():
    options = Options(batch_size=16, epochs=2)
    workload = registry.make("gpt", options)
    assert (len(workload.train), workload.train.inputs.shape[1]) == (4096, 128)
    assert workload.tokens_per_sample == 128 and workload.bytes_per_target == 1
    assert workload.recipe.total_steps == 512 and workload.recipe.warmup_steps == 51
    assert workload.recipe.max_grad_norm == 1.0
    assert sum(p.numel() for p in workload.model().parameters()) == 842_496
    assert registry.batch_size("gpt") == 16 and registry.batch_size("mnist-cnn") == 64
    assert registry.batch_size("own.py:make") == 64
    with pytest.raises(InputError, match="schedule of its own"):
        registry.make("gpt", dataclasses.replace(options, schedule="step"))
    assert GptNano(dataclasses.replace(options, lr=0.5)).optimizer().options["lr"] == 0.5


@pytest.mark.parametrize(
    ("name", "parameters"), [("gpt-small", 86_039_040), ("gpt-small-llama", 85_347_072)]
)
def test_the_small_ones_are_gpt_2_smalls_size(name, parameters):
    """GPT-2 small has 124 million, 38.6 of them in the embedding of 50,257 tokens."""
    with torch.device("meta"):
        model = Gpt(registry.WORKLOADS[name].config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def timed(**fields) -> Arm:
    return Arm(
        "eager", "", False, throughput_samples_per_s=Interval(100.0, (90.0, 110.0)), **fields
    )


LM = {"tokens_per_sample": 128, "flops_per_sample": 10**9, "bytes_per_target": 1.0}


def with_tokens(arm: Arm, roof: Ceilings | None, no_roof: str = "", **job) -> Arm:
    return tokens.with_tokens(arm, dataclasses.replace(full().workload, **job), roof, no_roof)


def test_figures_of_a_language_model():
    epochs = [training.Epoch(1, 2.0, loss, 0.5, 1.0, 1.0, 1.0, 1e-3) for loss in (3.0, 2.0)]
    roof = Ceilings("x", "float32", 200.0, 250.0, 10.0, datasheet_gflop_per_s=1000.0)
    arm = with_tokens(timed(epochs=epochs, untrained_validation_loss=math.log(256)), roof, **LM)
    assert arm.throughput_tokens_per_s == Interval(12_800.0, (11_520.0, 14_080.0))
    assert arm.utilization_of_measured_peak == pytest.approx(100 / 250)
    assert arm.utilization_of_quoted_peak == pytest.approx(100 / 1000)
    assert arm.validation_bits_per_byte == pytest.approx(2.0 / math.log(2))
    assert arm.untrained_bits_per_byte == pytest.approx(8.0)
    half = with_tokens(timed(epochs=epochs), roof, **(LM | {"bytes_per_target": 4.0}))
    assert half.validation_bits_per_byte == pytest.approx(0.5 / math.log(2))


def test_what_cannot_be_said_is_null_with_its_reason():
    arm = with_tokens(timed(), None, "no ceilings", **LM)
    assert arm.utilization_of_measured_peak is None and arm.utilization_of_quoted_peak is None
    assert arm.missing["utilization_of_measured_peak"] == "no ceilings"
    arm = with_tokens(timed(), ROOF, **LM)
    assert arm.missing["utilization_of_quoted_peak"] == "no datasheet is known for the device"
    assert "was not trained" in arm.missing["validation_bits_per_byte"]
    plain = with_tokens(timed(), ROOF)
    assert plain.missing["throughput_tokens_per_s"] == "the workload has no tokens"
    assert "how many FLOPs" in plain.missing["utilization_of_measured_peak"]
    assert "not text" in plain.missing["untrained_bits_per_byte"]
    untimed = with_tokens(
        Arm("eager", "", False, missing={"throughput_samples_per_s": "x"}), ROOF, **LM
    )
    assert untimed.missing["throughput_tokens_per_s"] == "x"
    assert untimed.missing["utilization_of_measured_peak"] == "x"


def test_a_report_of_it(options, tmp_path, monkeypatch):
    tiny = Tiny(options)
    monkeypatch.setattr(ceilings, "measure", lambda device, dtype: ROOF)
    timing = Timing(
        pairs=2, calibration_rounds=2, window_time_s=0.01, warmup_steps=2, warmup_time_s=0.02
    )
    settings = Settings(timing, rate=CostRate(1.0, "test", "here", None))
    with Store(tmp_path) as store, PlainProgress(io.StringIO()) as progress:
        report = Bench(tiny, options, settings, store, progress).run()
    assert report.complete and report.workload.tokens_per_sample == 16
    assert "clipped to 1" in report.workload.options["step"]
    arm = report.arms["fastmodel"]
    assert arm.throughput_tokens_per_s.estimate == pytest.approx(
        16 * arm.throughput_samples_per_s.estimate
    )
    assert 0 < arm.utilization_of_measured_peak < 1
    assert arm.validation_bits_per_byte < arm.untrained_bits_per_byte
    assert arm.untrained_bits_per_byte == pytest.approx(8.0, abs=0.3)
    assert arm.cost_usd_per_million_tokens > 0 and arm.peak_memory_bytes is not None
    page = (tmp_path / "report.md").read_text()
    assert "Validation bits per byte" in page and "Throughput, tokens/s" in page
    assert "bits per byte" in bench_table(report).caption
