"""Bars of rare traits."""

from __future__ import annotations

from dcp_deploy.report.rare import rare_bars
from dcp_deploy.report.run_directory import Metrics, Run, RunDirectory


def bars_of(teacher, student):
    models = {"teacher": {"rare": teacher}, "student": {"rare": student}}
    return rare_bars(RunDirectory(run=Run(), metrics=Metrics.model_validate({"models": models})))


def test_a_trait_below_the_threshold_has_another_tone_and_says_why():
    bars = bars_of({"hat=top_hat": 1.0}, {"hat=top_hat": 0.5})["hat: top hat"]
    assert [(bar.model, bar.value, bar.percent, bar.word, bar.tone) for bar in bars] == [
        ("student", "0.50", 25.0, "too rare", "bad"),
        ("teacher", "1.00", 50.0, "about right", "good"),
    ]


def test_a_lost_trait_and_one_that_is_too_frequent_have_words():
    bars = bars_of({}, {"a": 0.0, "b": 9.0})
    assert (bars["a"][0].word, bars["a"][0].percent) == ("lost", 0)
    assert (bars["b"][0].word, bars["b"][0].tone, bars["b"][0].percent) == ("too frequent", "warn", 100)


def test_unknown_frequencies_have_no_bar():
    assert bars_of({"a": None}, {"a": None}) == {}
