"""What can become of a question: one vocabulary for the judge, the results and the pages."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The value is what a reader sees."""

    # of an answer
    BITWISE = "bitwise"
    WITHIN = "within"
    WRONG = "WRONG"
    VOID = "void"  # the reference itself is not finite
    # of a property or a test
    HOLDS = "holds"
    BROKEN = "broken"
    KNOWN_FAILURE = "known failure"
    # of a question that came to no verdict
    NOT_OFFERED = "not offered"
    RAISED = "raised"
    TROUBLE = "trouble"  # of the adapter or its environment, told as what it is
    NOT_JUDGED = "not judged"
    # of a row of greedy tokens
    IDENTICAL = "identical"
    TIE_BREAK = "tie-break"
    DIVERGED = "diverged"
