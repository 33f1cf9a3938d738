"""Lazy package exports: a package offers what its files list in their `__all__`, with no second
list to keep.

A new sampler, reward, look-ahead or objective is one new file. Files are read, not imported, until
a name is asked for, so that importing a package stays cheap.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ALL = re.compile(r"^__all__ = (\[.*?\])", re.MULTILINE | re.DOTALL)


def lazy(
    package: str, path: Iterable[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package, from the `__all__` of its files and
    subpackages.

    Args:
        package: its `__name__`.
        path: its `__path__`.

    Raises:
        ImportError: two files that export one name, or one that is the name of a file.
    """
    folder = Path(next(iter(path)))
    homes = dict(exports(package, folder))
    rooms = {file.parent.name for file in folder.glob("*/__init__.py")}

    def __getattr__(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        if name in rooms or (folder / f"{name}.py").is_file():
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: sorted({*homes, *rooms}), sorted(homes)


def exports(package: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Each exported name with the module that defines it."""
    seen: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        if file.name == "__init__.py":
            continue
        module = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
        for name in names(file):
            if (file.parent / f"{name}.py").is_file():
                raise ImportError(f"{module} exports {name}, as a file beside it is called")
            if name in seen:
                raise ImportError(f"{seen[name]} and {module} both export {name}; rename one")
            seen[name] = module
            yield name, module


def names(file: Path) -> list[str]:
    """The `__all__` of a source file; nothing without one."""
    found = ALL.search(file.read_text(encoding="utf-8"))
    return ast.literal_eval(found.group(1)) if found else []
