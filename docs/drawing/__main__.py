""".venv/bin/python -m docs.drawing [NAME ...]: draws all figures, or those named."""

import importlib
import pkgutil
import sys

import docs.drawing as drawing

for module in pkgutil.iter_modules(drawing.__path__, "docs.drawing."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
names = sys.argv[1:] or list(drawing.ALL)
drawing.FIGURES.mkdir(exist_ok=True)
for name in names:
    drawing.draw(name, drawing.FIGURES / f"{name}.svg")
print(f"{len(names)} figures in {drawing.FIGURES.name}/")
