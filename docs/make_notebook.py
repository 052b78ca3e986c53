"""Make docs/quickstart.ipynb of docs/python.md: a cell a paragraph of text and a cell a block of code.

    python docs/make_notebook.py

The page is what people edit; a test holds the two together. Outputs are not stored: they would be those of
one machine.
"""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("python.md")
NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def notebook_of(page: str) -> dict[str, Any]:
    """Return the notebook (format 4.5) that a page of Markdown makes."""
    parts = _BLOCK.split(page)  # text and code in turn
    cells = []
    for number, part in enumerate(parts):
        lines = part.strip("\n").splitlines(keepends=True)
        if not lines:
            continue
        cell = {"cell_type": "markdown", "id": f"cell-{number}", "metadata": {}, "source": lines}
        if number % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append(cell)

    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Write the notebook."""
    notebook = notebook_of(PAGE.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
