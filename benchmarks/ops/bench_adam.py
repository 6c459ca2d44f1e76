"""Adam's step over lists of parameters, against torch.optim's plain, foreach and fused steps."""


def test_adam(run):
    run()
