"""An adapter as the suite asks it: what it lacks is told, and so is trouble; what it is given stays as it was."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from llama_reference.adapter_loader import lenient_warnings
from llama_reference.exchange.arrays import BadAnswer
from llama_reference.implementation import FUNCTIONS, offers
from llama_reference.standard.outcome import Outcome
from llama_reference.suite import trouble
from llama_reference.suite.trouble import NoVerdict


class NotOffered(SkipTest, NotImplementedError):  # noqa: N818  an outcome, not an error
    """The adapter lacks what was asked for. A SkipTest, which pytest and hypothesis both let through as a skip."""


class Offered:
    """An adapter whose missing functions raise NotOffered, and whose trouble raises NoVerdict."""

    def __init__(self, adapter: object) -> None:
        self._adapter = adapter
        self.bitwise: bool = getattr(adapter, "BITWISE", False)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(name)
        function = getattr(self._adapter, name, None)
        if function is None:
            raise NotOffered(f"{Outcome.NOT_OFFERED}: {name}")

        @wraps(function)
        def offered(*arguments: Any, **options: Any) -> Any:
            if missing := [option for option in options if not offers(self._adapter, name, option)]:
                raise NotOffered(f"{Outcome.NOT_OFFERED}: {name} with {missing[0]}")
            if name == "build":
                arguments = copy.deepcopy(arguments)  # its own to take apart
            with _told(name), lenient_warnings(), _untouched(function, name, arguments):
                answer = function(*arguments, **options)
            if problem := trouble.of_form(answer, name):
                raise NoVerdict(problem)
            return answer

        return offered


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever an adapter's function raises, by what it says of the adapter."""
    try:
        yield
    except NoVerdict:
        raise
    except BadAnswer as bad:
        raise NoVerdict(str(bad)) from None
    except Exception as error:
        if lacking := trouble.of_environment(error):
            raise NoVerdict(f"{name}: {lacking}: {trouble.reason(error)}") from error
        if isinstance(error, NotImplementedError):
            refusal = f" ({error})" if str(error) else ""
            raise NotOffered(f"{Outcome.NOT_OFFERED}: {name}{refusal}") from None
        if name == "build":
            raise NoVerdict(f"build raises {trouble.reason(error)}") from error
        raise


@contextmanager
def _untouched(function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Iterator[None]:
    """Raise NoVerdict where the function writes into a tensor that it was given, which becomes what it was."""
    before = {i: given.detach().clone() for i, given in enumerate(arguments) if isinstance(given, Tensor)}
    yield
    for i, kept in before.items():
        if not torch.equal(arguments[i].nan_to_num(), kept.nan_to_num()):
            arguments[i].data.copy_(kept)
            parameter = [*inspect.signature(function).parameters][i]
            raise NoVerdict(f"{name} writes into its argument {parameter}, which is the caller's")
