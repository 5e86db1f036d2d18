"""Families of mistakes in the key/value cache."""

from __future__ import annotations

from typing import Any

from llama_reference.mistakes.family import Family, whole
from llama_reference.mistakes.kv_cache import cropped, fitting, roomy, written
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.stepwise import Cache


def _advancing(n: int) -> Steps:
    def advance(_self: Any, cache: Cache, T: int) -> None:
        cache.filled += max(T + n, 0)

    return {"advance": advance, "visible": fitting, "new_cache": roomy}


FAMILIES = (
    Family("kv_cache", "crop_off_by", "a crop leaves {n} positions more than asked for", whole(-4, 4),
           lambda n: cropped(lambda filled, wanted: min(wanted + int(n), filled))),
    Family("kv_cache", "reset_keeps", "an emptied cache keeps its first {n} positions", whole(1, 8),
           lambda n: cropped(lambda _filled, wanted: max(wanted, int(n)))),
    Family("kv_cache", "writes_off_by", "a call writes {n} positions from where it should", whole(-4, -1), lambda n: {
        "write": written(lambda at, _store, _new: max(at + int(n), 0))}),
    Family("kv_cache", "advances_off_by", "the length moves by T + {n} a call", whole(-3, 3), lambda n: _advancing(int(n))),
)  # fmt: skip
