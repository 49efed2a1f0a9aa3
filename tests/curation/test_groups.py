"""The page on a manifest: groups of copies against naive ones, chains flagged, one file that needs no other."""

import re
from collections import deque

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MemorySource, encoded, picture

from dinov2lab.curation.gallery import Drawer, write_examples
from dinov2lab.curation.groups import components, write_groups
from dinov2lab.report.curation_page import write_page
from dinov2lab.spec.curation import CurationSpec, Duplicates, Leaks, Retrieve
from dinov2lab.spec.embedders import Thumbnails


def naive(count: int, edges: dict[tuple[int, int], float]) -> dict[frozenset[int], tuple[float, int]]:
    """Members -> (weakest pair, longest of the shortest paths)."""
    near = {row: {b if a == row else a for a, b in edges if row in (a, b)} for row in range(count)}
    found = {}
    for row in range(count):
        reach, queue = {row: 0}, deque([row])
        while queue:
            here = queue.popleft()
            for other in near[here] - reach.keys():
                reach[other] = reach[here] + 1
                queue.append(other)
        members = frozenset(reach)
        weakest = min((score for pair, score in edges.items() if set(pair) <= members), default=np.inf)
        found[members] = weakest, max(found.get(members, (0, 0))[1], max(reach.values()))
    return {members: each for members, each in found.items() if len(members) > 1}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 16), st.integers(1, 16), st.integers(0, 999))
def test_groups_are_the_connected_ones(count, number, seed):
    rng = np.random.default_rng(seed)
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, count, (number, 2)).tolist() if pair[0] != pair[1]}
    edges = {pair: float(rng.choice([0.8, 0.9])) for pair in sorted(pairs)}
    if not edges:
        return
    a, b = np.array(sorted(pairs)).T
    found = [group for group in components(count, a, b, np.array(list(edges.values()))) if group["size"] > 1]
    truth = naive(count, edges)
    assert {frozenset(group["members"]) for group in found} == set(truth)
    for group in found:
        weakest, diameter = truth[frozenset(group["members"])]
        assert group["weakest"] == weakest
        assert group["diameter"] <= diameter
        if sum(set(pair) <= set(group["members"]) for pair in edges) == group["size"] - 1:  # a tree
            assert group["diameter"] == diameter


def test_the_page_shows_groups_leaks_queries_and_reasons_and_needs_no_other_file(lab, pool, tmp_path):
    lab.sources["memory:queries"] = MemorySource("memory:queries", {"q": encoded(picture(8))})
    retrieve = Retrieve(stage="retrieve", queries="memory:queries", embedder=Thumbnails(), images=5)
    duplicates = Duplicates(stage="duplicates", threshold=0.9)
    folder = lab.curate(pool, CurationSpec(leaks=Leaks(against=("memory:test",)), stages=(duplicates, retrieve)))
    write_examples(folder, pool, 4, open=lab.sources.__getitem__)
    write_groups(folder, Drawer(folder, pool, lab.sources.__getitem__))
    write_page(folder, tmp_path / "index.html", "What was kept of <memory:pool>")
    page = (tmp_path / "index.html").read_text()
    assert "&lt;memory:pool&gt;" in page
    for words in ("Copies of evaluation images", "The largest groups of near copies", "Queries and what they took",
                  "not_retrieved", "truncated", "memory:test t100", "3 images, weakest pair 1.0000, diameter 1"):  # fmt: skip
        assert words in page
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert "http" not in page.replace("http-equiv", "")


def test_a_page_is_written_of_what_is_there(lab, pool, tmp_path):
    folder = lab.curate(pool, None)
    write_page(folder, tmp_path / "index.html", "bare")
    assert "From the source to what is left" in (tmp_path / "index.html").read_text()
