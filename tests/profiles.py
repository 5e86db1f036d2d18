"""What `make test` leaves to `make test-thorough`: --hypothesis-profile=thorough."""

from collections.abc import Callable, Iterable
from typing import Any

import hypothesis


def is_thorough() -> bool:
    return hypothesis.settings().max_examples > hypothesis.settings.get_profile("suite").max_examples


def among(every: Iterable[Any], quick: Iterable[str], named: Callable[[Any], str] = str) -> list[Any]:
    """Parameters for a test: all of them in the thorough profile, in the usual one those whose name is in `quick`."""
    return [value for value in every if is_thorough() or named(value) in quick]
