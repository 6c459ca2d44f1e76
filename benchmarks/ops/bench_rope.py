"""Rotary embedding of pairs half a head apart, against PyTorch's."""


def test_rope(run):
    run()
