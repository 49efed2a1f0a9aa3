"""Guides name files, commands, options and fields that are there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from dinov2lab.beginning.workspace import begin
from dinov2lab.cli import app, main
from dinov2lab.spec.document import parse
from dinov2lab.spec.load import load_study
from dinov2lab.spec.study import expand

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
    places = (ROOT, ROOT / "dinov2lab", ROOT / "dinov2lab" / "lab")
    assert not [name for name in named if not any((place / name).exists() for place in places)]
    assert {file.name for file in places[-1].glob("*.py")} <= named | {"__init__.py"}


def test_the_map_names_functions_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    calls = list(re.finditer(r"`(\w+)`(?: and `(\w+)`)?(?: of `\w+`)? in `([\w/]+\.py)`", text))
    assert len(calls) >= 5
    for call in calls:
        *names, file = call.groups()
        source = (ROOT / "dinov2lab" / file).read_text()
        assert all(re.search(rf"^(def|class) {name}\b", source, re.MULTILINE) for name in names if name), call[0]


def commands(guide: Path) -> list[str]:
    """Lines of a guide that call the program, without what is said about them behind a # or some spaces."""
    lines = re.findall(r"^    (dinov2lab .*)$", guide.read_text(), re.MULTILINE)
    return [re.split(r"\s{2,}|\s#", line)[0] for line in lines]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda file: file.name)
def test_its_commands_and_their_options_are_those_of_the_program(guide: Path) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    for line in commands(guide):
        _, name, *words = shlex.split(line)
        if not name.startswith("-") and name.islower():
            known[name].make_context(name, [word for word in words if word != "..."])


# Parsed above and not run here, with the reason; their own tests run them.
NOT_RUN = {
    "needs runs that have ended": ("diff", "evaluate", "export", "logs", "register", "report", "why", "--more-seeds"),
    "trains, curates or times": ("search", "curate", "--rerun", "--images"),
    "waits for a person, or looks at the whole machine": ("ui", "doctor", "sync", "--install-completion"),
    "needs a cluster": ("cancel", "slurm"),
    "reads every file that comes along, for seconds": ("list",),
}
STANDS_FOR = {"STUDY": "data_size", "RECIPE": "own_images"}


def cheap(line: str) -> list[str] | None:
    """The words of a command that answers at once: of one that trains, its plan."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(line)[1:]]
    if {word for reasons in NOT_RUN.values() for word in reasons} & set(words):
        return None
    return [*words, "--dry-run"] if words[0] == "run" and "--dry-run" not in words else words


CHEAP = sorted({tuple(words) for guide in GUIDES for line in commands(guide) if (words := cheap(line))})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of one's own, with what the guides write into it."""
    place = tmp_path_factory.mktemp("guides") / "lab"
    mine = {"experiments/mine.yaml": "base: own_images.yaml\n", "ablations/koleo.yaml": yaml_of("writing_a_study.md")}
    begin(place, mine | {"ablations/mine_copies.yaml": yaml_of("own_images.md")})
    return place


def yaml_of(guide: str) -> str:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / guide).read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_what_answers_at_once_answers(
    words: tuple[str, ...], workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    assert said.out


def test_a_command_that_is_not_there_would_be_found() -> None:
    assert sum(len(commands(guide)) for guide in GUIDES) > 60
    with pytest.raises(Exception, match="--micro-batch"):
        get_command(app).commands["run"].make_context("run", ["x", "--micro-batch", "4"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda file: file.name)
def test_its_yaml_is_yaml(guide: Path) -> None:
    for text in re.findall(r"^```yaml\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL):
        assert isinstance(parse(text, guide.name, guide.parent).value, dict)


def test_the_study_of_own_images_loads_in_a_workspace_of_ones_own(workspace: Path) -> None:
    assert [arm.name for arm in load_study(workspace / "ablations/mine_copies.yaml").arms] == ["changed", "left_alone"]


def test_the_study_of_the_guide_loads(workspace: Path) -> None:
    assert len(expand(load_study(workspace / "ablations/koleo.yaml"))) == 9
