"""The revisited Oxford and Paris protocol against naive code, and by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov2lab.data.revisited import Truth
from dinov2lab.evaluation.revisited import revisited_maps


def naive(similarity: list[float], relevant: set[int], junk: set[int]) -> float:
    """One image after the other down the ranking; the area is added up step by step."""
    ranking = sorted(range(len(similarity)), key=lambda row: (-similarity[row], row))
    found, seen, area, recall, precision = 0, 0, 0.0, 0.0, 1.0
    for row in ranking:
        if row in junk:
            continue
        seen += 1
        found += row in relevant
        new_recall, new_precision = found / len(relevant), found / seen
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def split(places: list[int], cuts: list[int]) -> Truth:
    a, b, c = sorted(cuts)
    return Truth(tuple(places[:a]), tuple(places[a:b]), tuple(places[b:c]))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(3, 14), st.integers(1, 5))
def test_it_is_what_one_counts(data: st.DataObject, images: int, queries: int) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    gallery, asked = (torch.randn(count, 6, generator=generator) for count in (images, queries))
    cuts = st.lists(st.integers(0, images), min_size=3, max_size=3)
    truths = [split(data.draw(st.permutations(range(images))), data.draw(cuts)) for _ in range(queries)]
    wanted: dict[str, list[float]] = {}
    for query, truth in zip(asked, truths, strict=True):
        similarity = torch.cosine_similarity(gallery.double(), query.double()[None], dim=1).tolist()
        for setup, relevant, junk in (
            ("easy", truth.easy, truth.junk + truth.hard),
            ("medium", truth.easy + truth.hard, truth.junk),
            ("hard", truth.hard, truth.junk + truth.easy),
        ):
            if relevant:
                wanted.setdefault(setup, []).append(naive(similarity, set(relevant), set(junk)))
    found = revisited_maps(gallery, asked, truths)
    assert found == pytest.approx({setup: sum(values) / len(values) for setup, values in wanted.items()})


def test_by_hand() -> None:
    """Ranked: junk, hard, something else, easy."""
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    found = revisited_maps(gallery, torch.tensor([[1.0, 0.0]]), [Truth((3,), (1,), (0,))])
    assert found["hard"] == 1.0
    assert found["easy"] == pytest.approx((0 + 1 / 2) / 2)  # the hard one is taken out
    assert found["medium"] == pytest.approx((1 + 1) / 2 / 2 + (1 / 2 + 2 / 3) / 2 / 2)


def test_a_setup_in_which_nothing_is_relevant_is_left_out() -> None:
    assert revisited_maps(torch.eye(3), torch.eye(3)[:1], [Truth((0,), (), ())]).keys() == {"easy", "medium"}
