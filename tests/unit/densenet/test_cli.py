"""The command: an option that names a file or a folder is checked before anything is done."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.models import OptionInfo

from densenet import cli

# Options that name what a command writes, or a folder that its own message explains.
WRITTEN = {"--output", "--calibrate", "--embeddings", "--keep", "--model", "--photos"}
# These belong to the client, which cannot import our checks and has its own.
OF_THE_CLIENT = {"--ca", "--key-file"}


def read_options(name: str) -> Iterator[str]:
    """The options of a command that name what it reads: all of type Path, and --weights."""
    main = import_module(cli.COMMANDS[name][0]).main
    for parameter, hint in get_type_hints(main, include_extras=True).items():
        kind, *extras = get_args(hint) or (hint,)
        for option in (extra for extra in extras if isinstance(extra, OptionInfo)):
            # typer.Option("--weights") in an Annotated keeps the name as its default until the command is built.
            words = [option.default, *(option.param_decls or ()), f"--{parameter.replace('_', '-')}"]
            word = next(word for word in words if str(word).startswith("--"))
            if (Path in (kind, *get_args(kind)) or word == "--weights") and word not in WRITTEN | OF_THE_CLIENT:
                yield word


READ = [(name, option) for name in cli.COMMANDS if name != "probe" for option in read_options(name)]


def test_the_options_of_all_commands_are_found() -> None:
    assert {("serve", "--class-index"), ("export", "--weights"), ("gateway", "--keys"), ("archive", "--config")} < {
        *READ
    }


@pytest.mark.parametrize(("name", "option"), READ)
def test_what_does_not_exist_is_told_in_one_line_with_its_option(
    name: str, option: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    positional = [str(tmp_path)] if name == "evaluate" else []
    with pytest.raises(SystemExit) as ended:
        cli.main([name, *positional, option, "no/such"])
    output, errors = capfd.readouterr()
    assert (ended.value.code, output) == (1, "")
    assert errors.startswith(f"{name}: ")
    assert errors.count("\n") == 1
    assert "no/such" in errors
    assert option in errors


@pytest.mark.parametrize(("name", "option"), [("serve", "--class-index"), ("gateway", "--keys")])
def test_a_folder_is_no_file(name: str, option: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main([name, option, str(tmp_path)])
    assert capfd.readouterr().err == f"{name}: cannot read {option} {tmp_path}: Is a directory\n"
