"""Known costly files, mutations of good ones, and the command that looks for more: each ends in a picture or a refusal,
within the time and memory that the service promises for one image."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from densenet.fuzz import command
from densenet.fuzz.costly import COSTLY, LIMIT
from densenet.fuzz.measure import cost
from densenet.fuzz.mutate import VALID, mutated, pieces, sealed, sides
from export.console import CliError
from handler.decoder import Decoder

MEMORY = 1_500_000_000
# What is promised for one image is 5 s of processor time and 1.5 GB; killing and replacing a decoder comes on top.
MAX_CPU, MAX_MEMORY = 6.0, 1_700_000_000
COUNT, BYTES = 500, 100_000  # of mutations, and of each at most
SEED = 20


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(memory=MEMORY)
    yield decoder
    decoder.close()


def check(decoder: Decoder, content: bytes, name: str) -> str:
    """Asserts the bounds, and returns what came of the file."""
    spent = cost(decoder, content)
    assert spent.fine, (name, spent)
    assert spent.cpu < MAX_CPU, (name, spent)
    assert spent.memory < MAX_MEMORY, (name, spent)
    return spent.outcome


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_fits_into_a_request_and_is_the_same_every_time(name: str) -> None:
    content = COSTLY[name]()
    assert 0 < len(content) <= LIMIT
    assert content == COSTLY[name]()


# One of each format, of those that no cheap check can know.
@pytest.mark.parametrize(
    "name", ["jpeg-scans-of-nothing", "png-profiles", "gif-comments", "webp-large-canvas", "tiff-tall"]
)
def test_a_costly_file_is_decoded_or_refused_within_its_bounds(decoder: Decoder, name: str) -> None:
    check(decoder, COSTLY[name](), name)


@pytest.mark.parametrize("name", VALID)
def test_mutations_begin_with_files_that_are_pictures(decoder: Decoder, name: str) -> None:
    assert check(decoder, VALID[name](), name) == "decoded"


@pytest.mark.parametrize("name", VALID)
def test_the_pieces_of_a_file_are_the_file(name: str) -> None:
    content = VALID[name]()
    assert len(pieces(content)) > 1
    assert sealed(pieces(content)) == content
    assert all(at < len(content) for at, _ in sides(content))


def test_a_mutation_depends_on_its_seed_and_number_alone() -> None:
    first = [mutated(SEED, i) for i in range(50)]
    assert [mutated(SEED, i) for i in reversed(range(50))] == first[::-1]
    assert first != [mutated(SEED + 1, i) for i in range(50)]


def test_mutations_keep_to_the_size_they_are_given() -> None:
    assert all(len(mutated(SEED, i, limit=5000)) <= 5000 for i in range(200))


def test_mutations_are_decoded_or_refused_within_their_bounds(decoder: Decoder) -> None:
    outcomes = [check(decoder, mutated(SEED, i, limit=BYTES), f"mutation {i}") for i in range(COUNT)]
    # Most are refused beyond their headers, and many are still pictures: the changes reach the decoders.
    assert outcomes.count("decoded") > COUNT // 10
    assert outcomes.count("broken_image") > COUNT // 4


def test_the_command_shows_what_a_file_costs(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(name="gif-comments")
    shown = capsys.readouterr().out
    assert "gif-comments" in shown
    assert "CPU s" in shown


def test_the_command_makes_a_mutation_again(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(seed=3, index=14)
    assert "--seed 3 --index 14" in capsys.readouterr().out


def test_the_command_ends_with_a_problem_and_keeps_the_file(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="1 of 1 files"):
        command.main(name="jpeg-scans-of-nothing", max_memory=1, keep=tmp_path / "finds")
    assert (tmp_path / "finds" / "jpeg-scans-of-nothing").read_bytes() == COSTLY["jpeg-scans-of-nothing"]()


def test_the_command_goes_through_the_known_files_until_its_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(seconds=0.5)
    assert next(iter(COSTLY)) in capsys.readouterr().out


def test_the_command_knows_which_files_there_are() -> None:
    with pytest.raises(CliError, match="bmp-early-end-of-line"):
        command.main(name="no-such-file")
