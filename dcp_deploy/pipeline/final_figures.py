"""What the loggers of a build get in the end: the student's quality, size and speed."""

from __future__ import annotations

from pathlib import Path

from ..files import read_json
from ..gates import SPEED
from ..progress import Reporter
from ..report.headline import fastest_student
from ..report.judgement import unstable_because
from ..report.run_directory import read_run_directory
from .distilling import RUN_IDS, checkpoints_of, loggers_of, open_loggers
from .inputs import BuildInputs
from .record import RunRecord
from .stages import LOGS


def log_final_figures(inputs: BuildInputs, record: RunRecord, reporter: Reporter) -> None:
    """Log the figures of a finished build; a logger that is new to it gets the history of its training first."""
    from ..compression.distillation.records import log_entry

    directory = record.directory
    history_file = directory / "history.json"
    if not loggers_of(inputs.config) or not history_file.is_file():
        return
    history = read_json(history_file)
    checkpoints = checkpoints_of(directory, record.stages["distill"].key)
    loggers = open_loggers(inputs.config, directory / LOGS, reporter, record=checkpoints / RUN_IDS)
    step = inputs.recipe.steps
    loggers.begin(step, inputs.recipe.to_dict())
    for entry in history:
        log_entry(loggers, inputs.recipe, entry)
    loggers.summarise(step, final_figures(directory))
    loggers.close(finished=True)


def final_figures(directory: Path) -> dict[str, float]:
    """Return the measured figures of a run directory by names such as "student/fid" and "speedup".

    A speed-up that is not stable has the name "speedup_unstable".
    """
    run = read_run_directory(directory)
    figures: dict[str, float | None] = {}
    for model in ("teacher", "student"):
        network = run.run.networks.get(model)
        figures |= {f"{model}/{name}": value for name, value in run.figures(model).items()}
        if network is not None:
            figures |= {f"{model}/{name}": getattr(network, name) for name in ("parameters", "macs", "bytes")}
    best = fastest_student(run)
    if best is not None and best.speedup is not None:
        figures[f"{SPEED}_unstable" if unstable_because(run) else SPEED] = best.speedup.value
    return {name: float(value) for name, value in figures.items() if value is not None}
