"""Gated linear unit with SiLU, against PyTorch's."""


def test_swiglu(run):
    run()
