"""`.venv/bin/python -m docs.notebook`: runs docs/tour.ipynb from top to bottom and keeps what it shows.

An error is an error.
"""

import nbformat
from nbclient import NotebookClient

from docs.examples import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def main() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,  # or what is kept depends on when the kernel flushed it
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": TOUR.parent}},
    )
    client.execute()
    notebook.metadata.pop("language_info", None)  # the Python version of whoever ran it last
    nbformat.write(notebook, TOUR)
    print(f"{sum(cell.cell_type == 'code' for cell in notebook.cells)} cells of {TOUR.name} ran")


if __name__ == "__main__":
    main()
