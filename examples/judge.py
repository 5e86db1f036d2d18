"""Compares answers with the truth that `llama-reference export --with-answers DIR` has written; NumPy only.

    python judge.py DIR [COMPONENT ...] [--bits]

--bits: answers have to be transformers' bit for bit, as a program's can be that rounds where transformers rounds.

Exit status 1 where an answer is wrong. Of what is not answered nothing is said, but in the last line.
"""

import json
import sys
from pathlib import Path

import numpy as np

EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def settled(rows, logits):
    """Of equally likely tokens either may stay: rows ordered by logit, then by probability."""
    order = np.lexsort((rows, logits), axis=-1)
    return np.take_along_axis(rows, order, -1)


def logits_of(folder, question, answer):
    """What a sampling call was given."""
    name = "answer=" + Path(answer["file"]).name
    line = next(x for x in (folder / question["request"]).read_text().splitlines() if x.endswith(" " + name))
    path = next(word for word in line.split() if word.startswith("logits=")).removeprefix("logits=")
    return np.load(folder / path)


def wrong(folder, question, answers=None, bits=False):
    """(answer, why) of every wrong one; `answers` is the folder that they lie in."""
    if "truth" not in question:
        return []
    exact, theirs = (np.load(folder / question["truth"][kind]) for kind in ("exact", "transformers"))
    found, start = [], 0
    for one in question["answers"]:
        if "rows" not in one:
            continue
        width = one["shape"][-1] if one["shape"] else 1
        right = exact[start : start + len(one["rows"]) * width].reshape(-1, width)
        path = (answers or folder / question["folder"]) / Path(one["file"]).name
        if path.is_file():
            why = problem(folder, question, one, np.load(path), right)
            if bits and not why and not one["ties"]:
                why = differs(one, np.load(path), theirs[start : start + right.size].reshape(right.shape))
            found += [(one, why)] if why else []
        start += right.size
    return found


def problem(folder, question, one, answer, right):
    """What is wrong with an answer, given the rows of the right one; empty where nothing is."""
    if list(answer.shape) != one["shape"]:
        return f"shape {list(answer.shape)}, expected {one['shape']}"
    rows = answer.reshape(-1, right.shape[1])[one["rows"]].astype(right.dtype)
    if right.dtype.kind == "i":
        return "" if np.array_equal(rows[right >= 0], right[right >= 0]) else "other tokens than transformers'"
    if one["ties"]:
        rows, right = (settled(x, logits_of(folder, question, one)[one["rows"]]) for x in (rows, right))
    largest = np.maximum(np.abs(right).max(-1, keepdims=True), 2.0**-126)
    ulps = np.abs(rows - right) / (largest * EPS[question["dtype"]])
    off = np.inf if np.isnan(ulps).any() else ulps.max()
    return "" if off <= one["allowed"] else f"off by {off:.3g} ulp, allowed {one['allowed']:.3g}"


def differs(one, answer, theirs):
    """Whether an answer is right, and has other bits than transformers'."""
    rows = answer.reshape(-1, theirs.shape[1])[one["rows"]]
    return "" if theirs.dtype.kind == "i" or np.array_equal(rows, theirs) else "other bits than transformers'"


def main():
    folder, components = Path(sys.argv[1]), [word for word in sys.argv[2:] if word != "--bits"]
    questions = json.loads((folder / "manifest.json").read_text())["questions"]
    bad = answered = 0
    for question in questions:
        if components and question["component"] not in components:
            continue
        for one, why in wrong(folder, question, bits="--bits" in sys.argv):
            print(f"{one['file']}: {one['function']}: {'; '.join(one['labels'])}: {why}")
            bad += 1
        answered += sum((folder / one["file"]).is_file() for one in question["answers"] if one["wanted"])
    print(f"{answered} answers, {bad} wrong")
    return 1 if bad or not answered else 0


if __name__ == "__main__":
    sys.exit(main())
