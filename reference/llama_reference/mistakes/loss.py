"""Mistakes in the loss."""

import torch
import torch.nn.functional as F

from llama_reference.mistakes.mistake import mistake


def _shifted(by):
    return lambda _self, labels: F.pad(labels, (0, by), value=-100)[:, by:]


def _per_token(self, logits, labels):
    flat = F.cross_entropy(
        logits.to(self.wide).flatten(0, 1), self.targets(labels).flatten(), ignore_index=-100, reduction="none"
    )
    return flat.view(labels.shape), self.targets(labels) != -100


def _mean(average):
    """average(losses, counted, labels): another way to one number."""
    return lambda self, logits, labels: average(*_per_token(self, logits, labels), labels)


def _crossed(**options):
    def loss(self, logits, labels):
        return F.cross_entropy(
            logits.to(self.wide).flatten(0, 1), self.targets(labels).flatten(), ignore_index=-100, **options
        )

    return loss


MISTAKES = [
    mistake("labels_not_shifted", "a token is predicted from itself", "InternLM#318", targets=lambda _s, labels: labels),
    mistake("labels_shifted_twice", "the token after the next is predicted", "transformers#46897, LlamaFactory#10457",
            targets=_shifted(2)),
    mistake("labels_shifted_back", "the token before is predicted",
            targets=lambda _s, labels: F.pad(labels, (1, 0), value=-100)[:, :-1]),
    mistake("labels_wrap_around", "the last position predicts the first token of its row",
            targets=lambda _s, labels: labels.roll(-1, 1)),
    mistake("ignored_as_token_0", "ignored labels count as token 0",
            targets=lambda _s, labels: F.pad(labels, (0, 1), value=-100)[:, 1:].clamp(min=0)),
    mistake("mean_over_all", "the sum is divided by all positions, ignored ones included",
            loss=_mean(lambda losses, _n, _l: losses.sum() / losses.numel())),
    mistake("mean_of_row_means", "rows are averaged first, so that short ones weigh more", "transformers#34191, torchtune#1875",
            loss=_mean(lambda losses, n, _l: (losses.sum(1) / n.sum(1)).mean())),
    mistake("counted_before_the_shift", "the sum is divided by the number of labels, one too many a row",
            "transformers#46204", loss=_mean(lambda losses, _n, labels: losses.sum() / (labels != -100).sum())),
    mistake("sum_instead_of_mean", "the losses are summed", loss=_crossed(reduction="sum")),
    mistake("in_bits", "the loss is in bits, not in nats",
            loss=_mean(lambda losses, n, _l: losses.sum() / n.sum() / torch.tensor(2.0).log())),
    mistake("smoothed", "labels are smoothed by 0.1", loss=_crossed(label_smoothing=0.1)),
    mistake("low_precision", "the loss is computed in the dtype of the logits", "transformers#29285",
            loss=lambda s, logits, labels: F.cross_entropy(
                logits.flatten(0, 1), s.targets(labels).flatten(), ignore_index=-100).to(s.wide)),
    mistake("softmax_twice", "probabilities are given to a function that wants logits",
            loss=lambda s, logits, labels: F.cross_entropy(
                logits.to(s.wide).softmax(-1).flatten(0, 1), s.targets(labels).flatten(), ignore_index=-100)),
    mistake("first_row_only", "only the first row counts",
            loss=_mean(lambda losses, n, _l: losses[0].sum() / n[0].sum())),
]  # fmt: skip
