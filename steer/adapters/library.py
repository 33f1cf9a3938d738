"""The libraries that real models come from, imported when first asked for."""

import importlib
from typing import Any

EXTRA = 'pip install "flowmap-steer[diffusers]"'


def needed(name: str) -> Any:
    """Imports a module of an optional library.

    Raises:
        ValueError: it is not installed; names the extra.
    """
    library = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise ValueError(
            f"real models need {library}, which is not installed; install it with {EXTRA}"
        ) from error
