"""The command `densenet`: every tool of the project is a subcommand, whose module is imported only when it runs."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from densenet.service import probe
from export import console

# Subcommand → the module that has its main(), and its line in the overview. The lines are written here, since importing
# every module to print a list would take seconds.
COMMANDS = {
    "serve": ("densenet.service.serve", "Set everything up and serve."),
    "stop": ("densenet.service.stop", "Stop what serve started."),
    "workers": ("densenet.service.workers", "Show or scale the workers of the running service."),
    "probe": ("densenet.service.probe", "Check whether the running service is ready or live."),
    "rollout": ("densenet.service.rollout", "Replace the running version by a new one."),
    "gateway": ("densenet.gateway.command", "Run nginx in front of TorchServe."),
    "export": ("export.__main__", "Export weights to TorchScript and check them against the eager network."),
    "archive": ("export.archive", "Pack an export into model_store/densenet.mar."),
    "evaluate": ("densenet.evaluation.command", "Measure the service's accuracy on labelled images."),
    "benchmark": ("densenet.benchmark.command", "Compare the service's speed with other servers."),
    "chaos": ("densenet.chaos.command", "Inject faults one by one and report what clients see."),
    "fuzz": ("densenet.fuzz.command", "Search for image files that are expensive to decode."),
    "predict": ("densenet.service.predict", "Classify files through the running service."),
}


class _LazyGroup(TyperGroup):
    """A group whose subcommands are those of COMMANDS."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        if cmd_name == "probe":  # parses its arguments itself: it also runs every few seconds without typer
            settings = {"ignore_unknown_options": True, "allow_extra_args": True}
            app.command(cmd_name, context_settings=settings, add_help_option=False)(_probe)
        else:
            app.command(cmd_name)(import_module(COMMANDS[cmd_name][0]).main)
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _probe(ctx: typer.Context) -> None:
    probe.main(ctx.args)


app = typer.Typer(cls=_LazyGroup, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def densenet() -> None:
    """Serve DenseNet-121 with TorchServe: start, scale, roll out, monitor and measure it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; print an error that the user can fix as one line that starts with the subcommand's name."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console.run_app(app, prog_name="densenet", name=arguments[0] if arguments else "densenet", arguments=arguments)
