"""constraints.txt, the versions that were tested, and pyproject.toml agree."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
TESTED = ("cpu", "export", "postgres", "test", "dev")  # the extras of the environment that tests run in


def test_every_direct_dependency_has_a_tested_version_inside_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    tested = dict(line.split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for name in TESTED for text in project["optional-dependencies"][name])]
    wanted = [Requirement(text) for text in texts]
    direct = {canonicalize_name(each.name): each for each in wanted if each.name != "dinov2lab"}
    assert len(direct) > 20
    assert not [name for name, each in direct.items() if name not in tested or tested[name] not in each.specifier]
