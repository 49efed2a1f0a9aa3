"""The same results as tables for pandas and LaTeX and figures for a paper, beside one another, and while runs go on."""

import re
import threading
import zlib

import pandas as pd
import pytest
from reported import write_run

from dinov2lab import commands, publisher
from dinov2lab.report.compare import write_comparison
from dinov2lab.report.figures import ForestRow, forest
from dinov2lab.report.pdf import as_pdf
from dinov2lab.report.render import write_report
from dinov2lab.report.statistics import Interval


@pytest.fixture
def out(tmp_path):
    return tmp_path / "reports" / "x"


def content(pdf):
    """What is drawn on the page, once every object is found where the table says."""
    start = int(re.search(rb"startxref\n(\d+)", pdf)[1])
    places = [int(each) for each in re.findall(rb"(\d{10}) 00000 n", pdf[start:])]
    assert len(places) == 6
    for number, place in enumerate(places, 1):
        assert pdf[place:].startswith(f"{number} 0 obj\n".encode())
    length = int(re.search(rb"/Length (\d+)", pdf)[1])
    stream = pdf[pdf.index(b"stream\n") + 7 :][:length]
    return zlib.decompress(stream).decode("cp1252")


def test_the_parquet_file_holds_the_table(fabricate, out):
    made = fabricate((0, 1))
    write_report(made.study, made.workspace, out)
    table = pd.read_parquet(out / "results.parquet")
    plain = table.astype(dict.fromkeys(("study", "arm", "run", "metric"), str))
    pd.testing.assert_frame_equal(plain, pd.read_csv(out / "results.csv"), check_exact=True)


def test_each_figure_is_there_as_svg_and_pdf(fabricate, out):
    made = fabricate((0, 1))
    write_report(made.study, made.workspace, out)
    drawn = sorted(file.stem for file in (out / "figures").glob("*.svg"))
    assert len(drawn) > 8
    assert drawn == sorted(file.stem for file in (out / "figures").glob("*.pdf"))
    page = content((out / "figures" / "difference.pdf").read_bytes())
    assert "(uncurated = 0)" in page
    assert "(retrieved)" in page


def test_a_pdf_has_the_text_colours_and_shapes_of_its_figure():
    svg = forest(
        [ForestRow(1, "a (b)", "−1.0 (−2.0 to +0.5)", -1.0, Interval(-2.0, 0.5), (-1.5, -0.5))], "base", "points", 1
    )
    page = content(as_pdf(svg))
    assert r"(a \(b\))" in page
    assert r"(–1.0 \(–2.0 to +0.5\))" in page
    assert page.count(" c ") == 2 * 3, "two rings, of four arcs each, the last of which ends its line"
    assert "0.835 0.369 0.000 rg" in page, "the second arm's colour fills its diamond"
    assert page.count("q\n") == page.count("Q")


def test_a_shape_that_is_not_known_is_no_pdf():
    with pytest.raises(ValueError, match="no PDF is drawn of: ellipse"):
        as_pdf('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><ellipse rx="1"/></svg>')


def test_the_latex_table_has_the_arms_and_no_sign_of_its_own(fabricate, out):
    made = fabricate()
    study = made.study.model_copy(update={"question": "Does 50 % of_it\nhelp?"})
    write_report(study, made.workspace, out)
    text = (out / "results.tex").read_text()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert "% curation_vs_uncurated: Does 50 % of_it help?" in text
    assert len([line for line in body if line.endswith(r"\\")]) == 1 + 3 + 2
    assert len({line.count(" & ") for line in body if " & " in line}) == 1
    (row,) = [line for line in body if line.startswith("retrieved")]
    assert re.search(r"\$\\pm\$", row)
    assert not re.search(r"(?<!\\)[%_#]", "\n".join(body).replace(r"\\", ""))
    assert all(ord(letter) < 128 for letter in "".join(body))


def test_a_latex_table_of_nothing_yet(fabricate, out):
    made = fabricate(run=False)
    write_report(made.study, made.workspace, out)
    assert "\nuncurated & baseline &" in (out / "results.tex").read_text()


def test_watching_ends_when_the_last_run_has(fabricate, out):
    made = fabricate((0,), run=False)
    *most, last = made.cells
    for cell in most:
        write_run(made.workspace, cell)
    looks = publisher.watched(made.study, made.workspace, out, pool=False, seconds=1)
    assert next(looks) == len(most)
    assert '<meta http-equiv="refresh" content="1">' in (out / "index.html").read_text()
    threading.Timer(1.2, write_run, (made.workspace, last)).start()
    assert list(looks)[-1] == len(made.cells)
    assert 'http-equiv="refresh"' not in (out / "index.html").read_text()


def test_studies_are_compared_seed_by_seed_and_nothing_is_claimed(fabricate, tmp_path):
    made = fabricate((0, 1, 2))
    decide = made.study.decide.model_copy(update={"rule": "blocked"})
    arms = made.study.arms[:2]
    other = made.study.model_copy(update={"name": "two", "arms": arms, "seeds": (1, 2), "decide": decide})
    page = write_comparison([made.study, other], made.workspace, tmp_path / "c")
    text, plain = page.read_text(), (tmp_path / "c" / "report.md").read_text()
    rows = pd.read_json(tmp_path / "c" / "comparison.json")
    assert set(rows.arm) == {"uncurated", "deduplicated"}
    assert set(rows.difference) == {0.0}, "they are the same runs"
    assert set(rows.same) == set(rows.seeds) == {2}
    assert "nothing here is a claim" in text
    assert "| decide.rule | paired_t | blocked |" in plain
    assert "| seeds | 0, 1, 2 | 1, 2 |" in plain
    assert "| curation_vs_uncurated | retrieved |" in plain
    assert "| two | retrieved |" not in plain


def test_studies_of_different_code_are_shown_with_a_warning(fabricate, tmp_path):
    made = fabricate((0, 1))
    write_run(made.workspace, made.cell("retrieved", 1), code="0therc0de000")
    other = made.study.model_copy(update={"name": "two", "seeds": (0,)})
    page = write_comparison([made.study, other], made.workspace, tmp_path / "c")
    assert "Not comparable as they are" in page.read_text()


@pytest.mark.parametrize("options", [{"pool": True, "watch": False}, {"pool": False, "watch": True}])
def test_what_does_not_go_with_several_studies_is_said(fabricate, tmp_path, options):
    made = fabricate((0,), run=False)
    with pytest.raises(ValueError, match="are for the report of one study"):
        commands.report([made.study, made.study], made.workspace, tmp_path, **options, as_json=False)
    with pytest.raises(ValueError, match="each named once"):
        commands.report([made.study, made.study], made.workspace, tmp_path, pool=False, watch=False, as_json=False)
