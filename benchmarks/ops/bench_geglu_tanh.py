"""Gated linear unit with GELU's tanh approximation, against PyTorch's."""


def test_geglu_tanh(run):
    run()
