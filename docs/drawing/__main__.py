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
kept = [path.stem for path in drawing.FIGURES.glob("*.svg")]
usual = [name for name, (_, _, slow) in drawing.ALL.items() if not slow or name not in kept]
names = list(drawing.ALL) if sys.argv[1:] == ["all"] else sys.argv[1:] or usual
drawing.FIGURES.mkdir(exist_ok=True)
for name in names:
    drawing.draw(name, drawing.FIGURES / f"{name}.svg")
print(f"{len(names)} figures in {drawing.FIGURES.name}/")
