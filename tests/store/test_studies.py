"""A study in its workspace: seeds that were added, looks that are paid for, a rule that was changed afterwards."""

import pytest
from fabricated import study as fabricated_study

from dinov2lab.report.rules import replaced
from dinov2lab.spec.search import Budget, SearchSpec
from dinov2lab.spec.study import Decide, Published, Study, Tune, expand
from dinov2lab.store import studies
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunResult

SEARCH = """{"name": "s", "base": {}, "space": {"optim.lr": {"log": [0.1, 1]}}, "metrics": {"val/knn": "maximize"},
 "budget": {"trials": 3}}"""


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "lab")


def finish(study: Study, workspace: Workspace) -> None:
    for cell in expand(study):
        outcome = RunResult(run=cell.run, status="finished", code="c0de", finished_at=0.0)
        workspace.run(cell.run).write_outcome(outcome)


def test_seeds_that_were_added_stay_added_for_every_later_command(workspace):
    study = fabricated_study()
    longer = study.with_more_seeds(2)
    assert longer.seeds == (*study.seeds, max(study.seeds) + 1, max(study.seeds) + 2)
    assert longer.looked == (len(study.seeds),)
    assert studies.as_it_stands(study, workspace) == study
    studies.record(longer, workspace)
    assert studies.as_it_stands(study, workspace) == longer


def test_another_study_of_that_name_has_no_share_in_the_added_seeds(workspace):
    study = fabricated_study()
    studies.record(study.with_more_seeds(1), workspace)
    other = study.model_copy(update={"question": "Another one?"})
    assert studies.as_it_stands(other, workspace) == other


def test_what_a_study_quotes_may_change_and_costs_it_no_seed(workspace):
    quoted = Published(source="a paper, Table 1", claim="it helps", numbers={"on": {"kNN": 82.0}})
    study = fabricated_study()
    for before, after in ((None, quoted), (quoted, quoted.model_copy(update={"claim": "it does"})), (quoted, None)):
        studies.record(study.model_copy(update={"published": before}).with_more_seeds(1), workspace)
        stands = studies.as_it_stands(study.model_copy(update={"published": after}), workspace)
        assert (stands.seeds, stands.looked) == ((*study.seeds, max(study.seeds) + 1), (len(study.seeds),))
        assert stands.published == after


def test_every_look_has_its_share_of_alpha_and_there_are_no_more_than_were_written(workspace):
    study = fabricated_study()
    assert study.decide.looks == 2
    assert study.alpha == study.decide.alpha / 2
    longer = study.with_more_seeds(1)
    assert longer.alpha == study.alpha
    with pytest.raises(ValueError, match="as often as it may"):
        longer.with_more_seeds(1)
    single = study.model_copy(update={"decide": Decide(metric=study.decide.metric, looks=1)})
    with pytest.raises(ValueError, match="looks 1: curation has looked"):
        single.with_more_seeds(1)


def test_a_rule_that_changes_before_anything_finished_is_nobodys_business(workspace):
    study = fabricated_study()
    studies.record(study, workspace)
    changed = study.model_copy(update={"decide": study.decide.model_copy(update={"alpha": 0.2})})
    studies.record(changed, workspace)
    assert studies.changes(changed, workspace) == ()


def test_a_rule_that_changes_after_runs_had_finished_is_told_for_good(workspace):
    study = fabricated_study()
    studies.record(study, workspace)
    finish(study, workspace)
    changed = study.model_copy(update={"decide": study.decide.model_copy(update={"alpha": 0.2})})
    (before,) = studies.changes(changed, workspace)
    assert before.decide == study.decide
    assert before.finished == len(expand(study))
    studies.record(changed, workspace)
    studies.record(changed, workspace)
    assert [each.decide for each in studies.changes(changed, workspace)] == [study.decide]
    assert studies.changes(study, workspace)[-1].decide == changed.decide  # changed back, after a look at the other


def test_a_study_of_another_version_is_named_and_breaks_nothing(workspace):
    study = fabricated_study()
    studies.record(study, workspace)
    workspace.study(study.name).write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="written by another version"):
        studies.stored(study.name, workspace)
    assert studies.as_it_stands(study, workspace) == study
    assert studies.changes(study, workspace) == ()


def test_another_budget_to_tune_with_is_told_once_there_were_results(workspace):
    search = SearchSpec.model_validate_json(SEARCH)
    before = Tune(per_arm=search, budget=Budget(trials=3))
    study = fabricated_study().model_copy(update={"tune": before})
    studies.record(study, workspace)
    finish(study, workspace)
    after = study.model_copy(update={"tune": before.model_copy(update={"budget": Budget(trials=9)})})
    for _ in range(2):
        (change,) = studies.changes(after, workspace)
        assert change.budget == before.budget
        assert "and its arms were tuned with 3 trials" in replaced(change)
        studies.record(after, workspace)


def test_to_tune_for_each_seed_after_all_is_told_too(workspace):
    search = SearchSpec.model_validate_json(SEARCH)
    once = Tune(per_arm=search, budget=Budget(trials=3))
    study = fabricated_study().model_copy(update={"tune": once})
    studies.record(study, workspace)
    finish(study, workspace)
    after = study.model_copy(update={"tune": once.model_copy(update={"per": "seed"})})
    (change,) = studies.changes(after, workspace)
    assert change.per == "arm"
    studies.record(after, workspace)
    assert replaced(studies.changes(study, workspace)[-1]).endswith("tuned with 3 trials for each seed")
