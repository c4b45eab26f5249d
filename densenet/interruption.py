"""How a command ends that was interrupted."""

from export.console import CliError


class Interrupted(CliError):
    """An interruption by Ctrl-C, printed in one line; the exit status is the shell's for SIGINT."""

    status = 130
