"""The table of README.md names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_test_of_the_table_exists_and_has_tests() -> None:
    named = set(re.findall(r"`(tests/\S+\.py)`", (ROOT / "tests/conformance/README.md").read_text()))
    assert len(named) >= 8
    for each in sorted(named):
        assert re.search(r"^def test_", (ROOT / each).read_text(), re.MULTILINE), each
    here = {f"tests/conformance/{file.name}" for file in Path(__file__).parent.glob("test_*.py")}
    assert here - named == {"tests/conformance/test_what_is_proved.py"}
