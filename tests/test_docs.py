"""Guides name files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda file: file.name)
def test_its_links_lead_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", guide.read_text())
    assert not [link for link in links if "://" not in link and not (guide.parent / link).exists()]


def test_the_map_names_modules_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"[\w/]+\.(?:py|json)\b", text)) - {"result.json", "verdict.json"}
    assert len(named) > 20
    assert not [name for name in named if not any((place / name).exists() for place in (ROOT, ROOT / "dinov2lab"))]


def test_the_map_names_functions_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    calls = list(re.finditer(r"`(\w+)`(?: and `(\w+)`)?(?: of `\w+`)? in `([\w/]+\.py)`", text))
    assert len(calls) >= 5
    for call in calls:
        *names, file = call.groups()
        source = (ROOT / "dinov2lab" / file).read_text()
        assert all(re.search(rf"^(def|class) {name}\b", source, re.MULTILINE) for name in names if name), call[0]
