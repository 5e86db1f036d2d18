"""The suite where it is installed: pytest --pyargs llama_reference.suite --implementation ADAPTER.py."""

from llama_reference.suite.fixtures import *  # noqa: F403
