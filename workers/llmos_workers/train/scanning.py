"""Imports transformers with one look at its models instead of two.

To know what each of its models defines without importing it, transformers reads the source of all of them: over two
thousand files, once for `transformers` and once more for `transformers.models`. It would remember what it found the
first time, but asks for it under the name of another file of the same folder.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import import_utils


def import_models() -> None:
    """Import `transformers.models`, with what was found when `transformers` was imported."""
    folder = Path(transformers.__file__).parent / "models"
    scan = getattr(import_utils, "create_import_structure_from_path", None)
    if scan is None:
        # Another version, in an image of the user's own, may do it otherwise.
        importlib.import_module("transformers.models")
        return

    def remember(path: Any) -> Any:
        return scan(folder if Path(path) == folder / "__init__.py" else path)

    import_utils.create_import_structure_from_path = remember
    try:
        importlib.import_module("transformers.models")
    finally:
        import_utils.create_import_structure_from_path = scan
