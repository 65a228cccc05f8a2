"""How far the images of two artefacts may be apart, by the precision in which one of them computes.

The limits of half precision were measured: every convolution's weight, input and output rounded to that type, all else
float32, on two networks, with both up-sampling methods, at psi 0.5, 0.7 and 1. Figures of the worst image, in [-1, 1];
"layer" is the root mean square error of a layer's features over their root mean square, for the worst layer.

    network                        type      max      p99.9    mean     PSNR     SSIM     layer
    demo teacher, 64 px, 16 seeds  float16   5.1e-3   2.4e-3   2.1e-4   73 dB    0.99999  6e-4
    random, 256 px, width / 4      float16   1.3e-2   7.0e-3   4.9e-4   62 dB    0.9999   1.1e-3
    demo teacher, 64 px, 16 seeds  bfloat16  4.8e-2   2.1e-2   1.8e-3   55 dB    0.9994   5e-3
    random, 256 px, width / 4      bfloat16  9.9e-2   5.1e-2   3.5e-3   46 dB    0.996    1.0e-2
    demo teacher, 64 px, 16 seeds  int8      2.8e-1   1.4e-1   2.0e-2   36 dB    0.94     5e-2
    random, 256 px, width / 4      int8      1.6      8.6e-1   3.8e-2   22 dB    0.87     1.3e-1

The limits of float16 and bfloat16 are about three times the larger figures (10 dB), which allows for deeper and wider
networks and for backends that round more often. One value in a thousand is far off with any rounding, so the limit of
the maximum is loose and only catches local damage. Errors of int8 are not always small: its limits define what counts
as the same image (at 30 dB compressed photographs begin to look damaged). Layers that break them have to stay in float,
so the random network above cannot be all int8.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from ...errors import UsageError, choose

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Tolerance:
    """Limits on the distance of images clamped to [-1, 1]; an 8-bit step is 1 / 127.5. None means no limit.

    ``max_abs``, ``p999_abs`` and ``mean_abs`` limit maximum, 99.9 % quantile and mean of the differences over all
    images. ``max_steps`` and ``differing`` limit the largest difference and the share of different values of the 8-bit
    images. ``psnr_db`` and ``ssim`` are the least that each image must reach. ``layer`` is the largest relative error
    of a layer in the search for the first bad one; it does not affect the images' checks.

    The defaults are for two float32 artefacts. Two orders of summation differ by about 1e-5 at 64 px and 4e-5 at 256 px
    for images of magnitude 4 to 6 (readable against fused generator, random weights). 2e-4 leaves a factor of five for
    deeper networks and is a fortieth of an 8-bit step. Truncation to 8 bits turns a difference d into a whole step for
    a share of 127.5 d of the values, so an average of 4e-5 explains 0.5 % of them, and never more than one step.
    """

    max_abs: float | None = 2e-4
    max_steps: int | None = 1
    differing: float | None = 5e-3
    p999_abs: float | None = None
    mean_abs: float | None = None
    psnr_db: float | None = None
    ssim: float | None = None
    layer: float = 1e-4

    def __post_init__(self) -> None:
        limits = {name: value for name, value in asdict(self).items() if name != "layer"}
        if all(value is None for value in limits.values()):
            raise UsageError("a tolerance without any limit passes everything", f"Set one of: {', '.join(limits)}.")


@dataclass(frozen=True)
class Check:
    """One check: ``value`` must be at most or at least (``bound``) ``limit``.

    A value of None is not finite: NaN, or the PSNR of identical images. Of a check that has to hold everywhere
    ("images of b change with the latent"), ``value`` counts where it does not.
    """

    name: str
    value: float | None
    limit: float
    passed: bool
    detail: str
    bound: Literal["at most", "at least"] = "at most"

    @classmethod
    def at_most(cls, name: str, value: float, limit: float, detail: str) -> Check:
        """Compare; NaN does not pass."""
        return cls(name, value if math.isfinite(value) else None, limit, value <= limit, detail)

    @classmethod
    def none(cls, name: str, violations: int, held: str, broken: str) -> Check:
        """Check what has to hold everywhere. ``held`` and ``broken`` are the details of the two results."""
        return cls.at_most(name, violations, 0, broken if violations else held)

    @classmethod
    def at_least(cls, name: str, value: float, limit: float, detail: str) -> Check:
        """Compare; NaN does not pass."""
        return cls(name, value if math.isfinite(value) else None, limit, value >= limit, detail, "at least")


_TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(),
    "fp16": Tolerance(0.1, None, None, p999_abs=0.02, mean_abs=2e-3, psnr_db=50.0, ssim=0.999, layer=5e-3),
    "bf16": Tolerance(0.5, None, None, p999_abs=0.15, mean_abs=1e-2, psnr_db=36.0, ssim=0.98, layer=4e-2),
    "int8": Tolerance(None, None, None, p999_abs=0.3, mean_abs=4e-2, psnr_db=30.0, ssim=0.9, layer=0.3),
}


def tolerance_for(precision: str) -> Tolerance:
    """Return the limits for ``precision``: "fp32", "fp16", "bf16" or "int8". Raise UsageError for another."""
    if precision not in _TOLERANCES:
        raise UsageError(f"precision is {precision!r}", choose(precision, PRECISIONS))
    return _TOLERANCES[precision]
