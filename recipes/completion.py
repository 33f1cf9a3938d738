"""steer completion SHELL: a script by which a shell completes commands, configs and keys.

    eval "$(steer completion bash)"          # in ~/.bashrc; likewise for zsh, in ~/.zshrc
    steer completion fish | source           # in ~/.config/fish/config.fish

The script holds the words themselves, so that completing starts no Python; it is to be made anew
when configs are added. Files are completed beside them.
"""

import re
from pathlib import Path

from recipes.cli import KINDS, RUNS, SHELLS

CONFIGS = Path(__file__).parent / "configs"
KEY = re.compile(r"^(\w+):", re.MULTILINE)

BASH = """\
_steer() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  case "$COMP_CWORD:${{COMP_WORDS[1]}}" in
    1:*) words="{commands}" ;;
    2:list) words="{kinds}" ;;
    2:completion) words="{shells}" ;;
    2:*) words="{configs}" ;;
{keys}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
  [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace
}}
complete -F _steer steer
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
FISH = """\
complete -c steer -n "__fish_use_subcommand" -f -a "{commands}"
complete -c steer -n "__fish_seen_subcommand_from list" -f -a "{kinds}"
complete -c steer -n "__fish_seen_subcommand_from completion" -f -a "{shells}"
complete -c steer -n "__fish_seen_subcommand_from {takers}" -a "{configs}"
{keys}
"""


def script(shell: str) -> str:
    """The script of a shell.

    Args:
        shell: one of SHELLS.
    """
    configs = (path.relative_to(CONFIGS) for path in sorted(CONFIGS.glob("*/*.yaml")))
    words = {
        "commands": " ".join([*RUNS, "list", "copy", "completion"]),
        "kinds": " ".join(KINDS),
        "shells": " ".join(SHELLS),
        "configs": " ".join(path.with_suffix("").as_posix() for path in configs),
        "takers": " ".join([*RUNS, "copy"]),
    }
    keys = {name: " ".join(f"{key}=" for key in keys_of(name)) for name in RUNS}
    if shell == "fish":
        lines = [
            f'complete -c steer -n "__fish_seen_subcommand_from {name}" -f -a "{known}"'
            for name, known in keys.items()
        ]
        return FISH.format(**words, keys="\n".join(lines)).rstrip()
    lines = [f'    *:{name}) words="{known}" ;;' for name, known in keys.items()]
    return ((ZSH if shell == "zsh" else "") + BASH.format(**words, keys="\n".join(lines))).rstrip()


def keys_of(command: str) -> list[str]:
    """The top-level keys of a command."""
    return KEY.findall((CONFIGS / f"{command}.yaml").read_text())
