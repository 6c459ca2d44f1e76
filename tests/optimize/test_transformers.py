"""transformers' own models, from a configuration with random weights, against float64."""

from __future__ import annotations

import copy

import pytest
import torch

import fastmodel as fm

transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH = 97, 12
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32}


def gpt2():
    sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **no_dropout))


def llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, **HEADS, num_key_value_heads=1)
    )


def bert():
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **HEADS, **no_dropout))


# What each has of ours on a CPU, by replacement: how often.
EXPECTED = {
    "gpt2": (gpt2, {"LayerNorm": 5, "add_layer_norm": 3}),
    "llama": (llama, {"swiglu": 2, "rms_norm": 5, "rope": 2}),
    "bert": (bert, {"LinearGELU": 3, "add_layer_norm": 5, "LayerNorm": 6}),
}
models = pytest.mark.parametrize(("make", "expected"), EXPECTED.values(), ids=EXPECTED)


def tokens(batch: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))


def run(model, ids) -> dict[str, torch.Tensor]:
    """Logits and gradients, by name."""
    model.zero_grad()
    logits = model(input_ids=ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    return {
        "logits": logits.detach(),
        **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    }


@models
def test_outputs_and_gradients_against_float64(make, expected):
    torch.manual_seed(0)
    model, ids = make(), tokens()
    optimized = fm.optimize(model, {"input_ids": ids}, select="static")
    found: dict[str, int] = {}
    for place in fm.plan_of(optimized).swaps:
        found[place.replacement] = found.get(place.replacement, 0) + 1
    assert found == expected, fm.plan_of(optimized)
    assert list(optimized.state_dict()) == list(model.state_dict())
    for training in (True, False):
        for one in (model, optimized):
            one.train(training)
        exact = run(copy.deepcopy(model).double(), ids)
        plain, ours = run(model, ids), run(optimized, ids)
        assert exact.keys() == plain.keys() == ours.keys()
        leaves = sum(not any(m.children()) for m in model.modules())
        for name, want in exact.items():
            scale = want.abs().max().item() or 1.0
            bound = 4 * (plain[name].double() - want).abs().max() + 4 * 2.0**-23 * leaves * scale
            assert (ours[name].double() - want).abs().max() <= bound, name


@models
def test_another_batch_and_length(make, expected):
    model = make().eval()
    optimized = fm.optimize(model, {"input_ids": tokens()}, select="static")
    ids = tokens(3, 7)
    expected_logits = model(input_ids=ids).logits
    torch.testing.assert_close(
        optimized(input_ids=ids).logits, expected_logits, rtol=1e-4, atol=1e-5
    )
