"""The verb that generates pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .options import Network, numbers, option, whole_numbers
from .output import Output
from .places import check_place
from .verb import verb

if TYPE_CHECKING:
    from ..evaluation.pictures import Mix

CODES = "Changing codes"
FILES = "What is written"


@verb(computes=True)
def sample(
    output: Output,
    model: Annotated[Path, typer.Argument(help="A checkpoint, an ONNX file, an engine or a bundle.")],
    network: Network = None,
    seeds: Annotated[str | None, option("Seeds, such as 3,5,8 or 0-7 [0-15].")] = None,
    psi: Annotated[str | None, option("Truncations [1]. Each gets a row.")] = None,
    classes: Annotated[
        str | None,
        option(
            "Classes of a class-conditional model, such as 3 or 0-9. Each gets a row. By default, seed modulo the "
            "number of classes.",
            "--class",
        ),
    ] = None,
    codes: Annotated[
        Path | None,
        option("File of codes to use instead of seeds, from project, NVIDIA's, PTI's or rosinality's projector."),
    ] = None,
    direction: Annotated[
        list[str] | None,
        option(
            "Edit along this direction by this many standard deviations: pc0=2.", metavar="NAME=STRENGTH", panel=CODES
        ),
    ] = None,
    directions: Annotated[
        Path | None, option("File of directions, as dcp-deploy directions writes it.", panel=CODES)
    ] = None,
    mix: Annotated[
        list[str] | None,
        option(
            "Take the code of this seed in these layers: 7@4-9. May be repeated.", metavar="SEED@LAYERS", panel=CODES
        ),
    ] = None,
    interpolate: Annotated[
        str | None,
        option(
            "Write an animation between these seeds, or rows of --codes: 1,2,3. It ends where it began.", panel=FILES
        ),
    ] = None,
    frames: Annotated[int | None, option("Frames of the animation in all [25 for each seed].", panel=FILES)] = None,
    each: Annotated[
        bool, option("Write one PNG file for each image into the folder --out.", "--each", panel=FILES)
    ] = False,
    out: Annotated[
        Path | None,
        option(
            "File to write: .png, .jpg or .webp [sample.png]; an animation: .gif, .webp or .mp4 [sample.gif]; or the "
            "folder of --each [samples].",
            "--out",
            "-o",
            panel=FILES,
        ),
    ] = None,
) -> None:
    """Generate images from seeds or saved codes: one labelled page, one file each, or an animation.

    Seeds mean the same as in NVIDIA's scripts. Noise is constant.

    --mix, --interpolate and --direction change codes in w and need a checkpoint. With --codes, a file exported with
    --inputs ws works too, except for --mix.

    Example: dcp-deploy sample student.onnx -o grid.png --seeds 0-7 --psi 0.5,0.7,1

    Example: dcp-deploy sample teacher.safetensors --interpolate 1,2,3 --frames 90 -o walk.mp4

    Example: dcp-deploy sample synthesis.onnx --codes projected_w.npz --directions age.safetensors --direction age=2
    """
    place = out or Path("samples" if each else "sample.gif" if interpolate is not None else "sample.png")
    check_place("--out", place, folder=each)
    mixes = tuple(_mix(word) for word in mix or ())
    listed = [
        None if text is None else whole_numbers(flag, text)
        for flag, text in (("--seeds", seeds), ("--class", classes), ("--interpolate", interpolate))
    ]
    psis = None if psi is None else numbers("--psi", psi)
    from ..evaluation.pictures import SampleConfig, sample_file

    config = SampleConfig(
        seeds=listed[0], psis=psis, classes=listed[1], codes=codes, mixes=mixes, edits=tuple(direction or ()),
        directions=directions, interpolate=listed[2], frames=frames, each=each, network=network,
    )  # fmt: skip
    facts = sample_file(model, place, config, reporter=output)
    settings = output.write_settings(place)
    output.result({"path": str(place), "settings": str(settings), **facts}, str(place))
    output.finished(place)


def _mix(word: str) -> Mix:
    """Parse "7@4-9"."""
    from ..evaluation.pictures import Mix

    seed, at, layers = word.partition("@")
    if not at or not seed.isdecimal():
        raise UsageError(f"--mix {word!r} is not SEED@LAYERS", "Write for example 7@4-9.")
    return Mix(int(seed), whole_numbers("--mix", layers))
