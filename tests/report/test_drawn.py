"""A report that says what is on disk is left alone; one that does not is drawn again."""

import os

import pytest
from reported import draw, write_failure, write_run, write_started

from dinov2lab.publisher import write
from dinov2lab.store import studies


@pytest.fixture
def out(tmp_path):
    return tmp_path / "reports" / "x"


def written(out):
    return {file.name: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def drawn_again(made, out, **options):
    before = written(out)
    write(made.study, made.workspace, out, **options)
    after = written(out)
    assert (before == after) or all(before[name] != after[name] for name in ("index.html", "verdict.json"))
    return before != after


def test_what_has_not_changed_is_not_drawn_again(fabricate, out):
    made = fabricate((0,))
    write(made.study, made.workspace, out)
    assert not drawn_again(made, out)
    assert not drawn_again(made, out)


def test_a_result_a_failure_more_rows_or_another_rule_are_drawn(fabricate, out):
    made = fabricate((0,), run=False)
    write(made.study, made.workspace, out)
    first, second, _ = made.cells
    write_started(made.workspace, first, draw(first, labels=True)[0][:10])
    assert drawn_again(made, out)
    write_started(made.workspace, first, draw(first, labels=True)[0][:11])
    assert drawn_again(made, out)
    write_run(made.workspace, first)
    assert drawn_again(made, out)
    write_failure(made.workspace, second, "boom")
    assert drawn_again(made, out)
    studies.record(made.study, made.workspace)
    assert drawn_again(made, out)
    assert drawn_again(made, out, pool=True)
    assert not drawn_again(made, out, pool=True)


def test_pictures_that_come_to_a_manifest_later_are_drawn(fabricate, out):
    made = fabricate((0,))
    write(made.study, made.workspace, out)
    folder = next(folder for folder in (made.workspace.cache / "manifests").iterdir())
    (folder / "groups.json").write_text("{}")
    assert drawn_again(made, out)


@pytest.mark.parametrize("harm", [lambda page: page.unlink(), lambda page: page.write_text("edited")])
def test_a_report_that_lost_or_changed_a_file_is_drawn(fabricate, out, harm):
    made = fabricate((0,))
    write(made.study, made.workspace, out)
    page = (out / "index.html").read_text()
    harm(out / "index.html")
    write(made.study, made.workspace, out)
    assert (out / "index.html").read_text() == page


def test_each_place_of_a_report_is_remembered_by_itself(fabricate, out):
    made = fabricate((0,))
    write(made.study, made.workspace, out)
    write(made.study, made.workspace, out.parent / "y")
    assert not drawn_again(made, out)
    assert not drawn_again(made, out.parent / "y")


def test_memory_that_cannot_be_read_is_no_memory(fabricate, out):
    made = fabricate((0,))
    write(made.study, made.workspace, out)
    memory = made.workspace.study(made.study.name).with_suffix(".drawn")
    memory.write_text("{")
    assert drawn_again(made, out)
    os.utime(made.workspace.run(made.cells[0].run).result)
    assert drawn_again(made, out)
