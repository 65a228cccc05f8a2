"""Get a picture from a served generator by its seed: python picture.py SEED [HOST:PORT] [OUT.png]

Needs only Python's standard library. OUT may end in .png, .jpeg or .webp.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from pathlib import Path


def picture(address: str, seed: int, format: str = "png", **options: object) -> bytes:
    """Return the encoded picture. ``options``: psi; class and edits ({"smile": 1.5}) if the model has them."""
    types = {"seed": "INT64", "format": "BYTES", "psi": "FP32", "class": "INT64", "edits": "BYTES"}
    values = {"seed": seed, "format": f"{format};base64", **options}
    if "edits" in values:
        values["edits"] = json.dumps(values["edits"])
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": types[name], "data": [value]} for name, value in values.items()
    ]
    request = urllib.request.Request(
        f"http://{address}/v2/models/picture/infer", json.dumps({"inputs": inputs}).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return base64.b64decode(json.load(answer)["outputs"][0]["data"][0])


if __name__ == "__main__":
    number, host, out = [*sys.argv[1:], *["0", "127.0.0.1:8000", "picture.png"][len(sys.argv) - 1 :]]
    Path(out).write_bytes(picture(host, int(number), Path(out).suffix.removeprefix("."), psi=0.7))
    print(out)
