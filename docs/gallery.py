"""Sphinx's directive `mistakes`: the known mistakes of a component, each with a picture of what it does."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import matplotlib.image
from docutils import nodes
from docutils.parsers.rst import Directive

from docs.drawing import views
from llama_reference import mistakes


class Mistakes(Directive):
    """`{mistakes} NAME`: every known mistake of that NAME."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        known = mistakes.of(self.arguments[0])
        entries = "".join(map(_entry, known))
        return [nodes.raw("", f'<div class="gallery">{entries}</div>', format="html")]


def _entry(mistake: mistakes.Mistake) -> str:
    drawn, name = views.picture(mistake), escape(mistake.name)
    picture, where = "", "no answer differs in its numbers"
    if drawn is not None:
        source = f"data:image/png;base64,{base64.b64encode(_png(drawn.image)).decode()}"
        picture = f'<img alt="right, {name}, and the difference" src="{source}">'
        where = f"shown: {drawn.where}"
    told = [mistake.why, where, *([] if mistake.seen == "own" else [f"seen: {mistake.seen}"])]
    lines = "".join(f"<small>{escape(text)}</small>" for text in told)
    return f"<figure>{picture}<figcaption><code>{name.replace('_', '_<wbr>')}</code>{lines}</figcaption></figure>"


def _png(picture: views.Array) -> bytes:
    file = io.BytesIO()
    matplotlib.image.imsave(file, picture, format="png")
    return file.getvalue()


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("mistakes", Mistakes)
    return {"parallel_read_safe": True}
