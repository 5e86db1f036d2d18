"""Figures of the chapter on the model."""

from matplotlib.figure import Figure

from docs.drawing import figure
from docs.real_models import REAL, parameters


@figure(2.9)
def where_parameters_are(canvas: Figure) -> None:
    """Shares of the parameters of real models."""
    axes = canvas.subplots()
    names = list(REAL)
    left = [0.0] * len(names)
    for part in ("embedding and head", "attention", "feed-forward"):
        shares = [parameters(REAL[name])[part] / sum(parameters(REAL[name]).values()) for name in names]
        axes.barh(names, shares, left=left, label=part, alpha=0.85)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="share of all parameters (norms: less than 1 in 10,000)", xlim=(0, 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.22), ncols=3, columnspacing=1, handlelength=1)
