"""The command `tumorjax` and its subcommands."""

from tumorjax.cli.main import main as main
