"""Families of mistakes in the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from llama_reference.mistakes.family import TIMES, Family, ratios, whole
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.stepwise import StepwiseLlama


def _target(shift: int) -> Steps:
    def targets(_self: Any, labels: Any) -> Any:
        if shift >= 0:
            return F.pad(labels, (0, shift), value=-100)[:, shift:]
        return F.pad(labels, (-shift, 0), value=-100)[:, :shift]

    return {"targets": targets}


def _losses(add: Callable[..., Any]) -> Steps:
    """The mean of the losses plus add(log of the sum of exponentials)."""

    def loss(self: Any, logits: Any, labels: Any) -> Any:
        counted = self.targets(labels) != -100
        return StepwiseLlama.loss(self, logits, labels) + add(logits.to(self.wide).logsumexp(-1))[counted].mean()

    return {"loss": loss}


FAMILIES = (
    Family("loss", "labels_shifted_by", "the token {n} positions on is predicted", whole(-6, 6), lambda n: _target(int(n))),
    Family("loss", "smoothed_by", "labels are smoothed by {n}", ratios(1e-3, 0.9, 20), lambda n: {
        "loss": lambda s, logits, labels: F.cross_entropy(
            logits.to(s.wide).flatten(0, 1), s.targets(labels).flatten(), ignore_index=-100, label_smoothing=n)}),
    Family("loss", "loss_times", "the loss is {n} times what it should be", ratios(1 / 512, 512, 36),
           lambda n: {"loss": lambda s, logits, labels: n * StepwiseLlama.loss(s, logits, labels)}),
    Family("loss", "logits_divided", "logits are divided by {n} first, as by a temperature", TIMES,
           lambda n: {"loss": lambda s, logits, labels: StepwiseLlama.loss(s, logits / n, labels)}),
    Family("loss", "ignored_as_token", "ignored labels count as token {n}", whole(0, 100), lambda n: {
        "targets": lambda s, labels: StepwiseLlama.targets(s, labels).where(StepwiseLlama.targets(s, labels) != -100, int(n))}),
    Family("loss", "token_ignored", "token {n} is ignored too, as if it were padding", whole(0, 100), lambda n: {
        "targets": lambda s, labels: StepwiseLlama.targets(s, labels).masked_fill(StepwiseLlama.targets(s, labels) == int(n), -100)}),
    Family("loss", "z_loss", "{n} times the squared logarithm of the sum of exponentials is added", ratios(1e-6, 1, 24),
           lambda n: _losses(lambda z: n * z**2)),
)  # fmt: skip
