"""Rotary embedding of neighbours, against PyTorch's."""


def test_rope_interleaved(run):
    run()
