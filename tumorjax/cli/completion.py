"""The subcommand `completion`: the script with which a shell completes the words of the command."""

import argparse
from pathlib import Path

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "completion",
        help="print a script with which a shell completes this command",
        description="Print a script with which a shell completes subcommands, options, their choices and file names.",
        epilog="once and for all, in bash:\n"
        "  tumorjax completion bash > ~/.local/share/bash-completion/completions/tumorjax\n"
        "in zsh, where ~/.zfunc is in fpath:\n"
        "  tumorjax completion zsh > ~/.zfunc/_tumorjax",
    )
    sub.add_argument("shell", choices=SHELLS, help="shell for which the script is")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script of a shell for the whole command."""
    import shtab

    _complete_paths(parser)
    return shtab.complete(parser, shell=shell)


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Mark, in place, the options of a parser and of its subcommands that name files or folders."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _complete_paths(sub)
        elif action.type is Path or (isinstance(action.metavar, tuple) and action.metavar[0] == "FILE"):
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # pyright: ignore
