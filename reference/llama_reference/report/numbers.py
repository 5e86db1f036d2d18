"""Numbers for narrow columns."""

from __future__ import annotations


def short(ulps: float) -> str:
    """At most four characters, for narrow columns."""
    return f"{ulps:.2g}" if ulps < 100 else f"{ulps:.0f}" if ulps < 1000 else f"{ulps:.0e}".replace("e+0", "e")
