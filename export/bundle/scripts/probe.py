"""Ask a running server for one golden image: a health check that makes one image. Needs only Python's standard library.

    python3 probe.py [HOST:PORT]

Exits with 1 and the reason unless the image is the one in the bundle, ``golden/generator``. A server whose models have
died may still say that it is ready; this notices.
"""

import http.client
import json
import struct
import sys
from pathlib import Path

SECONDS = 10  # for the answer
MOST_STEPS = 4  # mean difference, of 255, from the image of the trained network


def values(content: bytes, length: int) -> list[float]:
    """Return the values of an answer in steps of 255, in its own order; ``length`` is that of its JSON."""
    output = json.loads(content[:length])["outputs"][0]
    raw = content[length:]
    if output["datatype"] == "UINT8":
        return list(raw)
    return [value * 127.5 + 127.5 for value in struct.unpack(f"<{len(raw) // 4}f", raw)]


def main() -> None:
    """Draw and compare."""
    file = Path(__file__).resolve().parents[1] / "golden" / "generator" / "probe.json"
    golden = json.loads(file.read_text(encoding="utf-8"))
    connection = http.client.HTTPConnection(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000", timeout=SECONDS)
    try:
        connection.request("POST", "/v2/models/generator/infer", json.dumps(golden["request"]))
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            sys.exit(f"status {answer.status}: {content[:200]!r}")
        found = values(content, int(answer.headers["Inference-Header-Content-Length"]))
        pairs = [(found[place], value) for place, value in zip(golden["places"], golden["values"], strict=True)]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        sys.exit(f"no image: {error}")
    difference = sum(abs(one - other) for one, other in pairs) / len(pairs)
    if not difference <= MOST_STEPS:  # true for NaN too
        sys.exit(f"a wrong image: it differs by {difference:.1f} of 255 steps on average")


if __name__ == "__main__":
    main()
