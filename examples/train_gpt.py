"""Train a byte-level GPT on the sources of Python's standard library, with fastmodel's parts.

    python examples/train_gpt.py --steps 200
    python examples/train_gpt.py --steps 200 --llama

The same model and text under the harness, against plain PyTorch: `fastmodel bench gpt`.
"""

import argparse
import math

import torch

import fastmodel as fm
from fastmodel.harness.workloads.gpt_model import Gpt, GptConfig, TokenLoss
from fastmodel.harness.workloads.source_text import VOCABULARY, sequences, source_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--llama", action="store_true", help="RMSNorm, SwiGLU and RoPE")
    args = parser.parse_args()

    torch.manual_seed(0)
    config = GptConfig(4, 4, 128, 128, VOCABULARY, is_llama=args.llama)
    files = source_files()
    train = sequences(files["train"], config.context, 1 << 20)
    held_out = sequences(files["validation"], config.context, 1 << 15)

    model = Gpt(config)
    model = fm.optimize(model, train.inputs[: args.batch_size], select="static")
    print(fm.plan_of(model))
    loss_fn = TokenLoss()
    loss_fn.cross_entropy = fm.nn.CrossEntropyLoss()
    # The gradient's norm is clipped in the optimizer's own pass over memory.
    optimizer = fm.optim.AdamW(model.parameters(), args.lr, weight_decay=0.1, max_grad_norm=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.1)

    for step in range(args.steps):
        index = torch.randint(len(train), (args.batch_size,))
        optimizer.zero_grad()
        loss = loss_fn(model(train.inputs[index]), train.targets[index])
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step + 1 == args.steps:
            with torch.no_grad():
                bits = loss_fn(model(held_out.inputs), held_out.targets).item() / math.log(2)
            print(
                f"step {step}: training loss {loss.item():.3f}, {bits:.3f} bits per byte held out"
            )


if __name__ == "__main__":
    main()
