"""The key file, while TorchServe writes it."""

import json
from pathlib import Path
from threading import Timer

import pytest

from densenet.service import tokens

KEYS = json.dumps({"inference": {"key": "a"}, "management": {"key": "b"}, "API": {"key": "c"}})


@pytest.mark.parametrize("half", ["", KEYS[:10], KEYS[:-1]])
def test_half_a_file_is_read_again(tmp_path: Path, half: str) -> None:
    path = tmp_path / tokens.KEY_FILE
    path.write_text(half)
    completing = Timer(0.05, path.write_text, [KEYS])
    completing.start()
    assert tokens.current(tmp_path, "inference") == "a"
    completing.join()


@pytest.mark.parametrize("content", [None, "", "[]", KEYS[:10]])
def test_what_stays_no_key_file_holds_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / tokens.KEY_FILE).write_text(content)
    assert tokens.read(tmp_path / tokens.KEY_FILE) == {}
