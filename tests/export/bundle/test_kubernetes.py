from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from dcp_deploy.export.bundle.kubernetes import (
    Deployment,
    deployment_manifest,
    file_name,
    ingress_manifest,
    kserve_manifest,
    kubernetes_name,
)

VARIANTS = [Deployment("demo", gpu, plans) for gpu in (True, False) for plans in (True, False)]
TRITON = Path(__file__).parents[3] / ".venv-triton"

# Run in the environment that has KServe's own models: checks the name of every field and the type of every value.
CHECK_KSERVE = """
import importlib, importlib.util, json, re, sys, types
for name in ("kserve", "kserve.models"):  # as plain folders: importing the package itself needs a web server and more
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package
def named(kind):
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    for home in ("kserve.models", "kubernetes.client.models"):
        try:
            return getattr(importlib.import_module(home + ("." + module if home == "kserve.models" else "")), kind)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"unknown kind {kind}")
def check(value, kind, path):
    kind = kind.replace("List[", "list[").replace("Dict[", "dict[")
    if kind.startswith("list["):
        for item in value: check(item, kind[5:-1], path + "[]")
    elif kind.startswith(("dict(", "dict[")):
        assert isinstance(value, dict), path
        for item in value.values(): check(item, kind.split(", ", 1)[1][:-1], path + ".*")
    elif kind in ("str", "int", "bool", "float"):
        assert type(value).__name__ == kind, (path, value, kind)
    elif kind in ("object", "datetime"):
        pass
    else:
        model = named(kind)
        names = {json_name: field for field, json_name in model.attribute_map.items()}
        for key, item in value.items():
            assert key in names, f"{path}.{key} is not a field of {kind}: {sorted(names)}"
            check(item, model.openapi_types[names[key]], f"{path}.{key}")
        model(**{names[key]: item for key, item in value.items()})  # raises for a required field that is missing
check(json.load(sys.stdin), "V1beta1InferenceService", "InferenceService")
print("valid")
"""


@pytest.mark.parametrize("deployment", VARIANTS, ids=str)
def test_the_plain_manifests_fit_kubernetes_schemas(deployment: Deployment) -> None:
    documents = list(yaml.safe_load_all(deployment_manifest(deployment)))
    assert [document["kind"] for document in documents] == ["Deployment", "Service"]
    for document in documents:
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_the_ingress_fits_them_too_and_serves_images_only() -> None:
    document = yaml.safe_load(ingress_manifest(Deployment("demo", False, False, most_body=5_000)))
    kubernetes_validate.validate(document, "1.30", strict=True)
    assert document["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"] == "5000"
    (rule,) = document["spec"]["rules"]
    pattern = re.compile(rule["http"]["paths"][0]["path"])
    for path in ("/v2/models/generator/infer", "/v2/models/picture", "/v2/health/ready"):
        assert pattern.match(path)
    for path in ("/v2/systemsharedmemory/region/x/register", "/v2/logging", "/v2/repository/index", "/metrics",
                 "/v2/models/generator/infer/x", "/v2/models/generator/trace/setting"):  # fmt: skip
        assert not pattern.match(path)


def test_a_wrong_field_is_detected() -> None:
    document = next(yaml.safe_load_all(deployment_manifest(VARIANTS[0])))
    document["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.30", strict=True)


@pytest.mark.parametrize("deployment", VARIANTS, ids=str)
def test_a_gpu_and_its_plans_are_requested_only_if_they_exist(deployment: Deployment) -> None:
    pod = next(yaml.safe_load_all(deployment_manifest(deployment)))["spec"]["template"]["spec"]["containers"][0]
    service = yaml.safe_load(kserve_manifest(deployment))["spec"]["predictor"]["model"]
    for limits, arguments in (
        (pod["resources"]["limits"], pod["command"]),
        (service["resources"]["limits"], service["args"]),
    ):
        assert ("nvidia.com/gpu" in limits) == deployment.gpu
        assert ("--model-config-name=tensorrt" in arguments) == (deployment.gpu and deployment.plans)
        assert f"--http-max-input-size={deployment.most_body}" in arguments
    assert service["runtimeVersion"] == pod["image"].partition(":")[2]


@pytest.mark.parametrize("deployment", VARIANTS, ids=str)
def test_the_kserve_manifest_fits_kserve_s_models(deployment: Deployment) -> None:
    python = TRITON / "bin" / "python"
    if not list(TRITON.glob("lib/python*/site-packages/kserve")):
        pytest.skip("kserve's models are not in .venv-triton")
    document = json.dumps(yaml.safe_load(kserve_manifest(deployment)))
    done = subprocess.run([python, "-c", CHECK_KSERVE], input=document, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "valid", done.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", "demo"),
        ("FFHQ 256 (pruned)", "ffhq-256-pruned"),
        ("--", "generator"),
        ("a" * 80, "a" * 40),
        ("é_1", "1"),
    ],
)
def test_any_name_becomes_a_valid_kubernetes_name(name: str, expected: str) -> None:
    assert kubernetes_name(name) == expected


def test_a_bundle_has_all_manifests(bundle: Path) -> None:
    names = {file_name(kind, Deployment("x", gpu, False)) for kind in ("kserve", "deployment") for gpu in (True, False)}
    assert {path.name for path in (bundle / "kubernetes").iterdir()} == {*names, "ingress.yaml"}
    for path in (bundle / "kubernetes").iterdir():
        assert all(document["metadata"]["name"] == "tiny" for document in yaml.safe_load_all(path.read_text()))
