"""Which of several students is recommended, and why."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.report.comparing.choice import Candidate, recommend

TEACHER = {"fid": 1.0, "recall": 0.8}


def candidate(name: str, cost: float | None, fid: float | None, passed: bool | None = None) -> Candidate:
    speedup = None if cost is None else 100 / cost
    bounds = None if speedup is None else (0.95 * speedup, 1.05 * speedup)
    return Candidate(name, cost, speedup, bounds, {"fid": fid, "recall": 0.75}, TEACHER, True, passed)


def test_the_fastest_of_the_runs_that_meet_their_requirements_is_recommended() -> None:
    found = [candidate("slow", 20, 1.1, True), candidate("fast", 10, 1.9, True), candidate("bad", 5, 9.0, False)]
    choice = recommend(found)
    assert choice.recommended == "fast"
    assert choice.reason == (
        "fast: FID 1.90, 10.0× as fast as the teacher. Of the 2 runs that meet their requirements, it costs least."
    )


def test_without_requirements_no_figure_may_be_much_worse_than_the_teachers() -> None:
    choice = recommend([candidate("good", 20, 2.9), candidate("bad", 5, 3.1)])
    assert choice.recommended == "good"
    assert choice.reason.endswith(
        "It is the only one of 2 runs that is not much worse than its teacher in any measured figure."
    )


def test_of_runs_that_are_as_fast_within_their_intervals_the_better_one_is_recommended() -> None:
    choice = recommend([candidate("a", 10.0, 2.5), candidate("b", 10.5, 1.5)])
    assert choice.recommended == "b"
    assert "as fast as a within the measured intervals, and its FID is lower" in choice.reason


def test_if_none_is_good_enough_the_best_is_named_but_not_recommended() -> None:
    choice = recommend([candidate("a", 10, 5.0), candidate("b", 20, 4.0)])
    assert choice.recommended is None
    assert "every student is much worse than its teacher. The best is b with FID 4.00. Its FID is" in choice.reason
    judged = recommend([candidate("a", 10, 5.0, False)])
    assert judged.reason == "No run is recommended: none meets its requirements. The best is a with FID 5.00."


def test_quality_that_was_measured_in_different_ways_gives_no_recommendation_and_no_front() -> None:
    found = [candidate("a", 10, 1.0), candidate("b", 20, 2.0)]
    choice = recommend(found, same_quality=False)
    assert choice.recommended is None and not choice.dominated_by


def test_runs_that_are_unfinished_or_unmeasured_are_not_recommended() -> None:
    found = [replace(candidate("a", 10, 1.0), usable=False), candidate("b", None, 1.0), candidate("c", 10, None)]
    assert recommend(found).reason == "No run is recommended: no finished run has both FID and cost."


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6)


@given(POINTS)
def test_a_run_is_dominated_by_exactly_those_that_are_nowhere_worse(points: list[tuple[int, int]]) -> None:
    found = [candidate(str(index), cost, fid) for index, (cost, fid) in enumerate(points)]
    dominated = recommend(found).dominated_by
    for index, point in enumerate(points):
        better = {
            str(i)
            for i, other in enumerate(points)
            if other != point and max(other[0] - point[0], other[1] - point[1]) <= 0
        }
        assert (str(index) in dominated) == bool(better)
        assert not better or dominated[str(index)] in better
        assert dominated.get(str(index)) not in dominated  # the one that is named lies on the front


@given(POINTS, st.lists(st.booleans(), min_size=6, max_size=6), st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_the_recommended_run_is_never_worse_and_slower_than_another_that_is_good_enough(
    points: list[tuple[int, int]], passed: list[bool], widths: list[int]
) -> None:
    found = [
        replace(candidate(str(index), cost, fid, passed[index]), speedup_bounds=(10 / cost, 10 / cost + widths[index]))
        for index, (cost, fid) in enumerate(points)
    ]
    choice = recommend(found)
    fitting = {one.name: (one.cost or 0, one.fid or 0) for one in found if one.passed}
    assert (choice.recommended is None) == (not fitting)
    if choice.recommended is not None:
        mine = fitting[choice.recommended]
        assert not any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in fitting.values())


def test_a_better_run_that_misses_its_requirements_is_explained() -> None:
    choice = recommend([candidate("a", 20, 1.5, True), candidate("b", 10, 1.2, False)])
    assert choice.recommended == "a" and choice.front == ("b",)
    assert choice.reason.endswith("b costs no more and has no higher FID, but it is not good enough otherwise.")


def test_the_reason_gives_the_macs_of_the_recommended_run() -> None:
    found = [replace(candidate(name, cost, fid), speedup=None, speedup_bounds=None)
             for name, cost, fid in (("a", 2e6, 1.5), ("b", 1e6, 9.0))]  # fmt: skip
    assert recommend(found).reason.startswith("a: FID 1.50, 2.00 M MACs per image. It is the only one of 2 runs")


def test_without_the_teachers_figures_and_requirements_nothing_is_recommended() -> None:
    found = [replace(candidate("a", 10, 1.0), teacher_quality={}), replace(candidate("b", 20, 2.0), teacher_quality={})]
    assert recommend(found).reason == (
        "No run is recommended: the teacher's FID was not measured, so --require must say what is good enough."
    )
    assert recommend([replace(one, passed=True) for one in found]).recommended == "a"


def test_each_run_is_judged_by_its_own_teacher() -> None:
    found = [candidate("a", 10, 6.0), replace(candidate("b", 20, 7.0), teacher_quality={"fid": 3.0})]
    assert recommend(found).recommended == "b"


def test_runs_with_and_without_requirements_are_judged_each_in_its_way() -> None:
    choice = recommend([candidate("a", 20, 2.0), candidate("b", 10, 2.5, False)])
    assert choice.recommended == "a"
    assert choice.reason.endswith("of 2 runs that is not much worse than its teacher in any measured figure.")
    both = recommend([candidate("a", 20, 2.0), candidate("b", 10, 2.5, True)])
    assert "the 2 runs that meet their requirements or are not much worse than their teacher" in both.reason


def test_the_reason_says_that_runs_are_equal() -> None:
    assert recommend([candidate("a", 10, 2.0), candidate("b", 10, 2.0)]).reason.endswith(
        "it costs least, like b with the same FID."
    )


def test_the_reason_says_that_a_student_is_slower_than_its_teacher() -> None:
    assert "0.50× as fast as the teacher, which is slower." in recommend([candidate("a", 200, 2.0)]).reason


def test_the_reason_says_that_the_other_runs_were_not_measured() -> None:
    choice = recommend([candidate("a", 10, 2.0), candidate("b", None, None)])
    assert "the only one of 2 runs that is measured and is not much worse" in choice.reason


def test_missing_figures_are_named() -> None:
    assert recommend([candidate("a", 10, None), candidate("b", 20, None)]).reason == (
        "No run is recommended: FID was not measured."
    )
    assert "no build is finished" in recommend([replace(candidate("a", 10, 1.0), usable=False)]).reason
    assert "neither latency nor MACs were measured" in recommend([candidate("a", None, 1.0)]).reason
