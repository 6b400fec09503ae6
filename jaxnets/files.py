"""JSON files that are read with one sentence for an error, and written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from jaxnets.errors import UserError

__all__ = ["read_json", "write_json"]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: if the file is missing, or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    fresh = path.with_name(path.name + ".tmp")
    try:
        fresh.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(fresh, path)
    finally:  # a full disk must not leave a folder that is no run's
        fresh.unlink(missing_ok=True)
