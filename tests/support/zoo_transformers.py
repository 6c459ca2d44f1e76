"""Models of `transformers`, made from small configurations: nothing is downloaded."""

from __future__ import annotations

import torch
from torch import nn

from support.zoo_models import Batch, Network, Predictions


class Logits(nn.Module):
    """Cross-entropy of the logits in a model's output."""

    def __init__(self) -> None:
        super().__init__()
        self.predictions = Predictions()

    def forward(self, output, targets):
        return self.predictions(output["logits"], targets)


def _gpt2(scale: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, **rates)
    )


def _bert(scale: str) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=32,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=3,
            **rates,
        )
    )


def _vit(scale: str) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=8,
            patch_size=4,
            num_labels=3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _resnet(scale: str) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    )


def _words(scale: str) -> Batch:
    text = torch.randint(0, 32, (2, 9))
    return Batch({"input_ids": text[:, :-1].contiguous()}, text[:, 1:].contiguous())


def _sentences(scale: str) -> Batch:
    text = torch.randint(0, 32, (4, 8))
    mask = torch.ones_like(text)
    return Batch({"input_ids": text, "attention_mask": mask}, torch.randint(0, 3, (4,)))


def _pictures(size: int):
    def batch(scale: str) -> Batch:
        return Batch({"pixel_values": torch.randn(4, 3, size, size)}, torch.randint(0, 3, (4,)))

    return batch


NETWORKS = (
    Network("transformers-gpt2", _gpt2, _words, Logits, "AdamW"),
    Network("transformers-bert", _bert, _sentences, Logits, "AdamW"),
    Network("transformers-vit", _vit, _pictures(8), Logits, "AdamW"),
    Network("transformers-resnet", _resnet, _pictures(32), Logits),
)
