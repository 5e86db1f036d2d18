"""Write a commented adapter to start from: `llama-reference template > my_adapter.py`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Template:
    """Print an adapter to start from, every function of it explained."""

    def main(self) -> int:
        """Run the command, and return its exit status."""
        print(files("llama_reference").joinpath("templates", "adapter.py").read_text(encoding="utf-8"), end="")
        return 0
