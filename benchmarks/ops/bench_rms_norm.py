"""Root mean square normalization, against PyTorch's."""


def test_rms_norm(run):
    run()
