"""What ``ephemeral-creds completion`` does; the only importer of shtab."""

from __future__ import annotations

from argparse import REMAINDER
from pathlib import Path

from ephemeral_creds.cli._arguments import build_parser
from ephemeral_creds.cli._messages import print_error, print_result
from ephemeral_creds.cli._statuses import ExitStatus
from ephemeral_creds.providers.url import url_schemes

__all__ = ["run_completion"]

_INSTALL = "pip install 'ephemeral-creds[completion]'"
_SCHEMES = " ".join(f"{scheme}://" for scheme in url_schemes())

# Functions of each shell: for a URL, for the path that may stand in its place if the URL is in the
# environment, and for the program of `exec` and its arguments, which come after a --.
_BASH = f"""\
_ephemeral_creds_url() {{
  compgen -W "{_SCHEMES}" -- "$1"
}}
_ephemeral_creds_url_or_path() {{
  _ephemeral_creds_url "$1"
  compgen -f -- "$1"
}}
_ephemeral_creds_url_or_program() {{
  if [[ " ${{COMP_WORDS[*]:0:COMP_CWORD}} " == *" -- "* ]]; then
    compgen -c -f -- "$1" | sort -u
  else
    _ephemeral_creds_url "$1"
  fi
}}
"""
_ZSH = f"""\
_ephemeral_creds_url() {{
  compadd -S '' -- {_SCHEMES}
}}
_ephemeral_creds_url_or_path() {{
  _ephemeral_creds_url
  _files
}}
_ephemeral_creds_url_or_program() {{
  if (( ${{words[(I)--]}} )); then
    _command_names -e
    _files
  else
    _ephemeral_creds_url
  fi
}}
"""
_FISH = f"""\
function _ephemeral_creds_url
  printf '%s\\n' {_SCHEMES}
end
function _ephemeral_creds_url_or_path
  _ephemeral_creds_url
  __fish_complete_path (commandline -ct)
end
function _ephemeral_creds_url_or_program
  if contains -- -- (commandline -opc)
    __fish_complete_command
    __fish_complete_path (commandline -ct)
  else
    _ephemeral_creds_url
  end
end
"""
_FUNCTIONS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_MORE = {
    # bash takes the colon of a URL for the end of a word: nothing fits then, but a file may.
    "bash": """
_ephemeral_creds() {
  _shtab_ephemeral_creds
  [[ ${COMPREPLY[*]} != *:// ]] || compopt -o nospace
}
complete -o bashdefault -o default -F _ephemeral_creds ephemeral-creds""",
    "zsh": "",
    "fish": "",
}


def run_completion(shell: str) -> int:
    """Print the script for a shell, and return the exit status."""
    try:
        import shtab  # pyright: ignore[reportMissingImports]  of an extra
    except ImportError:
        print_error("completion", f"shtab is not installed: {_INSTALL}")
        return ExitStatus.UNAVAILABLE
    parser = build_parser()
    for name, command in parser.commands.items():
        # What stands beside the name of a command.
        command.description = command.manual.summary
        for action in command._actions:  # noqa: SLF001 - what shtab itself reads
            if action.type is Path:
                vars(action)["complete"] = shtab.FILE
            elif action.dest == "url":
                instead = {"agent": "_or_path", "exec": "_or_program"}.get(name, "")
                vars(action)["complete"] = _function(f"_ephemeral_creds_url{instead}")
    # argparse never sees it: `split_command` takes it away.
    program = parser.commands["exec"].add_argument("program", nargs=REMAINDER, help="the program")
    vars(program)["complete"] = _function("_ephemeral_creds_url_or_program")
    print_result(shtab.complete(parser, shell=shell, preamble=_FUNCTIONS[shell]) + _MORE[shell])
    return ExitStatus.DONE


def _function(name: str) -> dict[str, str]:
    """Return what shtab takes for a function of ours."""
    return {"bash": name, "zsh": name, "fish": f"({name})"}
