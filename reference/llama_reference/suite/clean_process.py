"""Processes that start clean, with the suite imported: forked from one that has imported it and done nothing else."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

IMPORTED = ["llama_reference.suite.session"]


def context() -> ForkServerContext:
    """What makes such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def prepare() -> None:
    """Start importing in the background, so that the first such process has less to wait for."""
    context()
    forkserver.ensure_running()
