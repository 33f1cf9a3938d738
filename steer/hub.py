"""Maps on the hub of Hugging Face: pushed with a model card, and pulled by name.

A repository holds map.safetensors, or adapters.safetensors and beside it base.safetensors unless
the base is a shipped map, and README.md. `steer.load("hub:owner/name")`, and `model=hub:owner/name`
of the commands, load what `push_to_hub` pushed.
"""

import json
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from steer import checkpoint
from steer.flow_map import FlowMap

PREFIX = "hub:"
CARD = "README.md"
ADAPTERS = "adapters.safetensors"
BASE = "base.safetensors"
MAP = "map.safetensors"


def push_to_hub(
    source: str | Path, repository: str, private: bool = False, licence: str | None = None
) -> str:
    """Push a map, or adapters with their base, and a model card.

    The account is the one that `hf auth login` left.

    Args:
        source: the map or adapters, by name, folder or path as in `steer.load`.
        repository: owner/name; made if need be.
        private: whether a new repository is private.
        licence: for the card, by the hub's short names, as in apache-2.0.

    Returns:
        The address of the commit.

    Raises:
        ValueError: no such map, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi  # slow to import

    check_name(repository)
    with tempfile.TemporaryDirectory() as scratch:
        folder = package(source, Path(scratch) / "map", repository, licence)
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            return str(
                api.upload_folder(
                    repo_id=repository, folder_path=folder, delete_patterns=["*.safetensors"]
                )
            )
        except Exception as error:  # the hub raises errors of many kinds
            raise ValueError(
                f"{repository} cannot be pushed to ({said(error)}): run `hf auth login`, or push "
                "the folder that steer.hub.package writes"
            ) from error


def from_pretrained(repository: str | Path, revision: str | None = None) -> FlowMap:
    """Load a map of a repository, or of a local folder of the same files; frozen, on the CPU.

    Args:
        repository: owner/name, with or without "hub:", or a folder.
        revision: a branch, tag or commit; the main branch if None.

    Raises:
        ValueError: it cannot be fetched, or holds no flow map; classes beyond this project's own
            are refused, as in `steer.load`.
    """
    folder = Path(repository)
    if not folder.is_dir():
        folder = fetch(str(repository), revision)
    return checkpoint.load(folder)


def fetch(repository: str, revision: str | None = None) -> Path:
    """Fetch a repository into the hub's own cache and return its folder.

    Raises:
        ValueError: it is not there and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    name = repository.removeprefix(PREFIX)
    check_name(name)
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=["*.safetensors", CARD])
    except Exception as error:  # the hub raises errors of many kinds
        raise ValueError(
            f"{name} is not here and cannot be fetched ({said(error)}): run `hf download {name}` "
            "where the network is, or give a folder"
        ) from error
    return Path(found)


def package(
    source: str | Path, folder: str | Path, repository: str = "", licence: str | None = None
) -> Path:
    """Write the files of a repository into a folder, which `from_pretrained` loads as it is.

    Args:
        source: as in `push_to_hub`.
        folder: made if need be.
        repository: owner/name, for the card.
        licence: as in `push_to_hub`.

    Raises:
        ValueError: no such map, or adapters whose base is missing.
    """
    file = checkpoint.find(source)
    header = checkpoint.read_header(file)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MAP, ADAPTERS, BASE):  # of another map that was here
        (folder / name).unlink(missing_ok=True)
    if "lora" not in header:
        shutil.copyfile(file, folder / MAP)
    elif not str(header["base"]).endswith(".safetensors"):  # a shipped one
        shutil.copyfile(file, folder / ADAPTERS)
    else:
        base = file.parent / header["base"]
        if not base.is_file():
            raise ValueError(f"{file} holds adapters of the map {base}, which is missing")
        shutil.copyfile(base, folder / BASE)
        checkpoint.write(load_file(file), folder / ADAPTERS, {**header, "base": BASE})
    text = card(header, repository or folder.name, licence)
    (folder / CARD).write_text(text, encoding="utf-8")
    checkpoint.load(folder)
    return folder


def card(header: dict[str, Any], name: str, licence: str | None = None) -> str:
    """Write the model card of a checkpoint: what its header says, and how to load it."""
    kind = "Low-rank adapters of a flow map" if "lora" in header else "A flow map"
    front = ["library_name: steer", "tags: [flow-map, steer]"]
    front += [f"license: {licence}"] if licence else []
    notes = {k: v for k, v in header.items() if k not in ("build", "format", "version")}
    facts = [f"| {k} | {cell(v)} |" for k, v in notes.items()]
    lines = [
        "---",
        *front,
        "---",
        "",
        f"# {name}",
        "",
        f"{kind} X_{{s,t}}, from noise at time 0 to data at time 1.",
        "",
        "```python",
        "import steer",
        "",
        f'flow_map = steer.load("{PREFIX}{name}")',
        "```",
        "",
        "| from its header | |",
        "|---|---|",
        *facts,
        "",
        "Built by",
        "",
        "```json",
        json.dumps(header["build"], indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value in one cell of a table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")


def check_name(repository: str) -> None:
    """Raise ValueError unless it is owner/name."""
    parts = repository.split("/")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"expected a repository as owner/name, got {repository!r}")


def said(error: Exception) -> str:
    """Describe an error of the hub in one line."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 160)}"
