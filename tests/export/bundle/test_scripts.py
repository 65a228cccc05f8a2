"""The programs inside a bundle that check it and probe a server, as a container runs them: without our packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image

from dcp_deploy.export.bundle.kubernetes import Deployment, deployment_manifest, kserve_manifest
from dcp_deploy.export.bundle.probing import write_probe
from dcp_deploy.export.integrity import check_bundle
from dcp_deploy.export.serving.ports import free_ports
from dcp_deploy.export.serving.server import Server

BARE = [sys.executable, "-I", "-S"]


def verified(bundle: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BARE, bundle / "clients" / "verify.py", bundle, *words], capture_output=True, text=True, timeout=60
    )


def test_a_whole_bundle_is_accepted_by_its_sha256_or_without(bundle: Path) -> None:
    identity = check_bundle(bundle)["sha256"]
    assert verified(bundle).returncode == 0 and verified(bundle, identity).returncode == 0
    done = verified(bundle, "0" * 64)
    assert done.returncode == 1 and "not the expected one" in done.stderr


@pytest.mark.parametrize("change", ["altered", "missing", "added", "a link", "a folder that is a link"])
def test_a_changed_bundle_is_refused_by_name(own_bundle: Path, change: str) -> None:
    file = own_bundle / "models" / "generator" / "1" / "model.py"
    if change == "altered":
        file.write_bytes(file.read_bytes().replace(b"initialize", b"initialise"))
    elif change == "missing":
        file.unlink()
    elif change == "added":
        file.with_name("model.pyc").touch()
    elif change == "a link":
        file.rename(own_bundle.parent / "model.py")
        file.symlink_to(own_bundle.parent / "model.py")
    else:
        file.parent.rename(own_bundle.parent / "1")
        file.parent.symlink_to(own_bundle.parent / "1")
    done = verified(own_bundle)
    assert done.returncode == 1 and "models/generator/1" in done.stderr


@pytest.mark.parametrize("kind", ["plain", "kserve"])
def test_the_init_container_runs_the_same_program(bundle: Path, own_bundle: Path, kind: str) -> None:
    deployment = Deployment("tiny", False, False)
    if kind == "plain":
        pod = next(yaml.safe_load_all(deployment_manifest(deployment)))["spec"]["template"]["spec"]
        served = pod["containers"][0]
    else:
        pod = yaml.safe_load(kserve_manifest(deployment))["spec"]["predictor"]
        served = pod["model"]
    (verify,) = pod["initContainers"]
    assert verify["command"][:2] == ["python3", "-c"] and verify["command"][3:] == [
        "/bundle/tiny", "$(MANIFEST_SHA256)"
    ]  # fmt: skip
    (own_bundle / "added").touch()
    for folder, code in ((bundle, 0), (own_bundle, 1)):
        done = subprocess.run([*BARE, "-c", verify["command"][2], folder, ""], capture_output=True, timeout=60)
        assert done.returncode == code
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert served[probe]["exec"]["command"][1] == "/bundle/tiny/clients/probe.py"


def probed(bundle: Path, address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BARE, bundle / "clients" / "probe.py", address], capture_output=True, text=True, timeout=60)


def test_a_server_that_draws_the_golden_image_passes(server: Server, bundle: Path) -> None:
    done = probed(bundle, urlsplit(server.http).netloc)
    assert done.returncode == 0, done.stderr


def test_a_wrong_image_or_none_fails(server: Server, own_bundle: Path) -> None:
    done = probed(own_bundle, f"127.0.0.1:{free_ports()[0]}")
    assert done.returncode == 1 and "no image" in done.stderr
    file = own_bundle / "golden" / "generator" / "probe.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "values": [255 - value for value in document["values"]]}))
    done = probed(own_bundle, urlsplit(server.http).netloc)
    assert done.returncode == 1 and "a wrong image" in done.stderr
    file.write_text(json.dumps({**document, "request": {}}))
    assert "status 400" in probed(own_bundle, urlsplit(server.http).netloc).stderr


def test_the_probe_of_a_float_image_has_the_values_in_its_order(own_bundle: Path) -> None:
    golden = own_bundle / "golden" / "generator"
    write_probe(golden, [3, 32, 32])
    document = json.loads((golden / "probe.json").read_text())
    image = np.asarray(Image.open(golden / "seed0_psi0.7.png")).transpose(2, 0, 1).ravel()
    assert document["values"] == image[document["places"]].tolist()
