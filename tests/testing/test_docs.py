"""The programs in docs/testing.md do what the page says."""

import inspect
import re
from pathlib import Path

import pytest

from tests.conftest import HARD

PAGE = Path(__file__).parents[2] / "docs/testing.md"
PROGRAMS = re.findall(
    r"(?<!-->\n)^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M
)


@pytest.mark.parametrize("source", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_page(source):
    if HARD and "short_io" in source:
        pytest.skip("the hard build has short reads of its own")
    names = {}
    exec(compile(source, str(PAGE), "exec"), names)
    tests = [
        function
        for name, function in names.items()
        if name.startswith("test_") and not inspect.signature(function).parameters
    ]
    assert tests
    for function in tests:
        function()
