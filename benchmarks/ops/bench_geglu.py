"""Gated linear unit with the exact GELU, against PyTorch's."""


def test_geglu(run):
    run()
