""".venv/bin/python -m docs.drawing [NAME ...]: draws the figures named.

Without a name, all that are quick and any that is missing; with the name `all`, also those that train or judge.
"""

import importlib
import pkgutil
import sys

import docs.drawing as drawing

for module in pkgutil.iter_modules(drawing.__path__, "docs.drawing."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
present = [name for name, (_, _, slow) in drawing.ALL.items() if slow and (drawing.FIGURES / f"{name}.svg").exists()]
names = sys.argv[1:] or [name for name in drawing.ALL if name not in present]
names = list(drawing.ALL) if names == ["all"] else names
drawing.FIGURES.mkdir(exist_ok=True)
for name in names:
    drawing.draw(name, drawing.FIGURES / f"{name}.svg")
print(f"{len(names)} figures in {drawing.FIGURES.name}/")
