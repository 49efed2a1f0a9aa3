"""Studies at another scale, and what they quote of the papers."""

import re
from pathlib import Path

import pytest

from dinov2lab.spec.document import read_document
from dinov2lab.spec.load import SpecError, kind_of, load_recipe, load_study
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import Study

ROOT = Path(__file__).parent.parent.parent
ABLATIONS = ROOT / "ablations"
FILES = sorted(ABLATIONS.glob("*.yaml"))
SCALED = [file for file in FILES if "profiles" in read_document(file).plain()]
PROFILES = [(file.stem, name) for file in SCALED for name in read_document(file).plain()["profiles"]]
PAPER = (ROOT / "docs" / "paper.md").read_text()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text("{}\n")
    (tmp_path / "large.yaml").write_text("base: small.yaml\nmodel: {size: large}\n")
    file = tmp_path / "sizes.yaml"
    file.write_text(
        "question: q\nbase: small.yaml\nfactor: optim.lr\nbaseline: a\nseeds: [0, 1]\nmetrics: [test/knn]\n"
        "decide: {metric: test/knn}\narms: {a: {}, b: {optim.lr: 1.0e-3}}\n"
        "profiles:\n  gpu: {base: large.yaml, seeds: [0, 1, 2]}\n  cluster:\n    sedes: [4]\n"
    )
    return file


def sizes(study: Study) -> set[str]:
    return {arm.spec.model.size for arm in study.arms}


def test_a_profile_replaces_the_keys_that_it_names(written: Path) -> None:
    own, gpu = load_study(written), load_study(written, ["profile=gpu"])
    assert (own.name, sizes(own), own.seeds) == ("sizes", {"small"}, (0, 1))
    assert (gpu.name, sizes(gpu), gpu.seeds) == ("sizes-gpu", {"large"}, (0, 1, 2))
    assert [arm.spec.optim.lr for arm in gpu.arms] == [arm.spec.optim.lr for arm in own.arms]


def test_the_file_itself_is_the_profile_cpu(written: Path) -> None:
    assert load_study(written, ["profile=cpu"]) == load_study(written)


def test_other_overrides_come_on_top_of_a_profile(written: Path) -> None:
    study = load_study(written, ["optim.batch=64", "profile=gpu"])
    assert {arm.spec.optim.batch for arm in study.arms} == {64}
    assert study.name.startswith("sizes-gpu-")
    assert study.name.removeprefix("sizes-gpu-") == load_study(written, ["optim.batch=64"]).name.removeprefix("sizes-")


@pytest.mark.parametrize(
    ("profile", "words"),
    [("gpus", "--set profile=gpus: no such profile; did you mean gpu?"), ("x", "; there are cpu, gpu, cluster")],
)
def test_an_unknown_profile_is_named(written: Path, profile: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        load_study(written, [f"profile={profile}"])


def test_a_mistake_in_a_profile_is_named_with_its_line(written: Path) -> None:
    with pytest.raises(SpecError, match=r"sizes\.yaml:12: .*sedes.*did you mean.*seeds"):
        load_study(written, ["profile=cluster"])


def test_a_study_without_profiles_has_cpu_alone() -> None:
    with pytest.raises(SpecError, match="no such profile; it has cpu alone"):
        load_study(ABLATIONS / "dedup_rule.yaml", ["profile=gpu"])


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_every_profile_of_a_shipped_study_is_a_study(name: str, profile: str) -> None:
    own, other = (load_study(ABLATIONS / f"{name}.yaml", [f"profile={each}"]) for each in ("cpu", profile))
    assert (other.question, other.decide, other.published) == (own.question, own.decide, own.published)
    assert own.arms != other.arms
    assert all(metric in other.metrics for metric in (other.decide.metric, "test/linear"))


def test_no_profile_is_named_that_no_table_of_a_paper_has() -> None:
    assert {profile for _, profile in PROFILES} == {"gpu", "cluster"}
    assert all(load_study(file).published or file.stem == "data_size" for file in SCALED)


def rows() -> dict[str, str]:
    """Study -> its line of docs/paper.md."""
    return {
        found[1]: line
        for line in PAPER.splitlines()
        if (found := re.match(r"\|.*?\[`?(\w+)`?\]\(\.\./ablations/", line))
    }


def test_the_map_of_the_paper_names_every_study_that_quotes_it() -> None:
    quoting = {file.stem for file in FILES if load_study(file).published}
    assert quoting <= rows().keys()
    assert all((ROOT / "docs" / link).is_file() for link in re.findall(r"\]\((\.\./[\w./]+)\)", PAPER))


@pytest.mark.parametrize("name", [file.stem for file in FILES if load_study(file).published])
def test_the_map_quotes_the_numbers_that_the_study_quotes(name: str) -> None:
    published = load_study(ABLATIONS / f"{name}.yaml").published
    assert published
    told = rows()[name].split("|")[3]
    known = {value for row in published.numbers.values() for value in row.values()}
    apart = {round(a - b, 1) for a in known for b in known}
    numbers = {float(number) for number in re.findall(r"\d+\.\d+", told)}
    assert numbers <= known | apart
    assert bool(numbers) == bool(known)


def test_the_map_fills_in_no_result_that_no_report_has() -> None:
    """What is called run has its intervals in what it links to, and what has a report is not called not run."""
    assert len(rows()) >= 8
    for name, line in rows().items():
        result, held = (cell.strip() for cell in line.split("|")[4:6])
        reported = any((ROOT / "reports").glob(f"{name}*/report.md"))
        assert ((result, held) == ("not run", "not run")) == (not reported), name
        linked = "".join((ROOT / "docs" / link).read_text() for link in re.findall(r"\]\((\.\./[\w./]+)", result))
        intervals = re.findall(r"[+−][\d.]+ \([+−][\d.]+ to [+−][\d.]+\)", result)
        assert bool(intervals) == reported, name
        assert all(interval in linked for interval in intervals), name


def test_a_recipe_has_no_profile() -> None:
    recipe = ROOT / "experiments" / "toyweb.yaml"
    assert kind_of(recipe) == "recipe"
    assert isinstance(load_recipe(recipe), RunSpec)
    with pytest.raises(SpecError, match="profile"):
        load_recipe(recipe, ["profile=gpu"])
