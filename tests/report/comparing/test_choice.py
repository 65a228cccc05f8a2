"""Which of several students is recommended, and why."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.report.comparing.choice import Candidate, recommend
from dcp_deploy.report.comparing.limits import Limits
from dcp_deploy.report.run_directory import Quality

LIMITS = Limits(True, True, True, Quality(fid=1.0, recall=0.8), ())


def candidate(name: str, cost: float | None, fid: float | None, passed: bool | None = None) -> Candidate:
    speedup = None if cost is None else 100 / cost
    bounds = None if speedup is None else (0.95 * speedup, 1.05 * speedup)
    return Candidate(name, cost, speedup, bounds, {"fid": fid, "recall": 0.75}, True, passed)


def test_the_fastest_of_the_runs_that_meet_their_requirements_is_recommended() -> None:
    found = [candidate("slow", 20, 1.1, True), candidate("fast", 10, 1.9, True), candidate("bad", 5, 9.0, False)]
    choice = recommend(found, LIMITS, judged=True)
    assert choice.recommended == "fast"
    assert choice.reason == (
        "fast: FID 1.90, 10.0× as fast as the teacher. Of the 2 runs that meet their requirements, it costs least."
    )


def test_without_requirements_no_figure_may_be_much_worse_than_the_teachers() -> None:
    choice = recommend([candidate("good", 20, 2.9), candidate("bad", 5, 3.1)], LIMITS, judged=False)
    assert choice.recommended == "good"
    assert choice.reason.endswith("It is the only one of 2 runs that is not much worse than its teacher in any figure.")


def test_of_runs_that_are_as_fast_within_their_intervals_the_better_one_is_recommended() -> None:
    choice = recommend([candidate("a", 10.0, 2.5), candidate("b", 10.5, 1.5)], LIMITS, judged=False)
    assert choice.recommended == "b"
    assert "as fast as a within the measured intervals, and its FID is lower" in choice.reason


def test_if_none_is_good_enough_the_best_is_named_but_not_recommended() -> None:
    choice = recommend([candidate("a", 10, 5.0), candidate("b", 20, 4.0)], LIMITS, judged=False)
    assert choice.recommended is None
    assert "every student is much worse than its teacher. The best is b with FID 4.00. Its FID is" in choice.reason
    judged = recommend([candidate("a", 10, 5.0, False)], LIMITS, judged=True)
    assert judged.reason == "No run is recommended: none meets its requirements. The best is a with FID 5.00."


def test_quality_that_was_measured_in_different_ways_gives_no_recommendation_and_no_front() -> None:
    found = [candidate("a", 10, 1.0), candidate("b", 20, 2.0)]
    choice = recommend(found, replace(LIMITS, same_quality=False), judged=False)
    assert choice.recommended is None and not choice.dominated_by


def test_runs_that_are_unfinished_or_unmeasured_are_not_recommended() -> None:
    found = [replace(candidate("a", 10, 1.0), usable=False), candidate("b", None, 1.0), candidate("c", 10, None)]
    assert recommend(found, LIMITS, judged=False).reason == (
        "No run is recommended: none is finished with FID and cost measured."
    )


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6)


@given(POINTS)
def test_a_run_is_dominated_by_exactly_those_that_are_nowhere_worse(points: list[tuple[int, int]]) -> None:
    found = [candidate(str(index), cost, fid) for index, (cost, fid) in enumerate(points)]
    dominated = recommend(found, LIMITS, judged=False).dominated_by
    for index, point in enumerate(points):
        better = {
            str(i)
            for i, other in enumerate(points)
            if other != point and max(other[0] - point[0], other[1] - point[1]) <= 0
        }
        assert (str(index) in dominated) == bool(better)
        assert not better or dominated[str(index)] in better
        assert dominated.get(str(index)) not in dominated  # the one that is named lies on the front
