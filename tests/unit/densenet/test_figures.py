"""SVG files of figures: the same in every run, with text as text."""

from xml.etree import ElementTree

from matplotlib.figure import Figure

from densenet import figures


def drawn() -> Figure:
    with figures.styled(2, 1) as figure:
        figure.subplots().set(title="crane 鶴")
    return figure


def test_a_file_is_the_same_again_and_has_its_text() -> None:
    content = figures.svg(drawn())
    assert content == figures.svg(drawn())
    assert "crane 鶴" in "".join(ElementTree.fromstring(content).itertext())
    assert b"dc:date" not in content
