"""The command `densenet`: every tool of the project as a subcommand, imported only when it is called."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from densenet.service import probe
from export import console

# Subcommand → the module whose main() it is, and what the overview says. Named here, since importing all of them to
# show a list would take seconds.
COMMANDS = {
    "serve": ("densenet.service.serve", "Set everything up and serve."),
    "stop": ("densenet.service.stop", "End what serve started."),
    "workers": ("densenet.service.workers", "Show or scale the workers of the running service."),
    "probe": ("densenet.service.probe", "Tell whether the running service is ready, or alive."),
    "rollout": ("densenet.service.rollout", "Replace the running version by a new one."),
    "gateway": ("densenet.gateway.command", "Put nginx before TorchServe."),
    "export": ("export.__main__", "Turn weights into TorchScript, checked against the eager network."),
    "archive": ("export.archive", "Pack an export into model_store/densenet.mar."),
    "evaluate": ("densenet.evaluation.command", "Measure how good the service is on labelled images."),
    "benchmark": ("densenet.benchmark.command", "Measure the service beside others of its kind."),
    "chaos": ("densenet.chaos.command", "Let one thing after another fail and report what clients see."),
    "fuzz": ("densenet.fuzz.command", "Look for image files that cost much to decode."),
    "predict": ("densenet_client.predict", "Classify files through the running service."),
}


class _LazyGroup(TyperGroup):
    """Subcommands by COMMANDS."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        if cmd_name == "probe":  # without typer, for whoever runs it every few seconds; it reads its own arguments
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
    """Serve DenseNet-121 with TorchServe: start, scale, roll out, watch, measure."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The program. Errors that a user can fix are one line, under the subcommand's name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console.run_app(app, prog_name="densenet", name=words[0] if words else "densenet", arguments=words)
