"""The steps in the code have the operations and memory orders that the header specifies."""

from orders import flaws
from repository import CSRC


def test_every_step_does_in_the_code_what_it_does_in_the_header() -> None:
    assert flaws(CSRC) == []
