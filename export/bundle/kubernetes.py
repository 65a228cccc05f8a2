"""KServe and plain Kubernetes manifests for a bundle, with and without a GPU, and an ingress in front of them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

# Triton 2.74. Older ones have known security holes: 2.51, which the tests run, crashes on 8 MB of JSON.
TRITON_RELEASE = "26.10-py3"
TRITON_IMAGE = f"nvcr.io/nvidia/tritonserver:{TRITON_RELEASE}"
GRACE_SECONDS = 30  # requests in flight may finish before the server ends


@dataclass(frozen=True)
class Deployment:
    """The facts of the manifests. ``plans``: whether the bundle has TensorRT plans for the GPU."""

    name: str
    """A name that Kubernetes accepts, see :func:`kubernetes_name`."""
    gpu: bool
    plans: bool
    most_body: int = 1 << 26
    """Bytes of the largest request; the default is Triton's own."""

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of tritonserver except the repository."""
        variant = ["--model-config-name=tensorrt"] if self.gpu and self.plans else []
        return [*variant, f"--http-max-input-size={self.most_body}", f"--exit-timeout-secs={GRACE_SECONDS}"]


def kubernetes_name(name: str) -> str:
    """Turn ``name`` into a DNS label (RFC 1123)."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "generator"


def kserve_manifest(deployment: Deployment) -> str:
    """Return an InferenceService on KServe's Triton runtime, of our release. KServe adds health checks and scaling."""
    return f"""\
# KServe: put the bundle on the volume as {deployment.name}/, then: kubectl apply -f {file_name("kserve", deployment)}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {deployment.name}
spec:
  predictor:
    minReplicas: 1
    initContainers:
{_verifying(deployment, 6)}
    volumes:
      - name: bundle
        persistentVolumeClaim: {{claimName: models, readOnly: true}}
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      runtime: kserve-tritonserver
      runtimeVersion: {TRITON_RELEASE}
      storageUri: pvc://models/{deployment.name}/models
      args:
{_items(deployment.arguments, 8)}
      volumeMounts:
        - {{name: bundle, mountPath: /bundle, readOnly: true}}
{_probes(deployment, 8080, 6)}
      resources:
{_resources(deployment, 8)}
"""


def deployment_manifest(deployment: Deployment) -> str:
    """Return a Deployment and a Service that run Triton without KServe."""
    command = ["tritonserver", f"--model-repository=/bundle/{deployment.name}/models", *deployment.arguments]
    return f"""\
# Plain Kubernetes: put the bundle on the volume as {deployment.name}/,
# then: kubectl apply -f {file_name("deployment", deployment)}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {deployment.name}
  labels: {{app: {deployment.name}}}
spec:
  replicas: 1
  selector:
    matchLabels: {{app: {deployment.name}}}
  template:
    metadata:
      labels: {{app: {deployment.name}}}
    spec:
      terminationGracePeriodSeconds: {GRACE_SECONDS + 15}
      automountServiceAccountToken: false
      securityContext: {{runAsNonRoot: true, runAsUser: 1000}}
      initContainers:
{_verifying(deployment, 8)}
      containers:
        - name: triton
          image: {TRITON_IMAGE}
          command:
{_items(command, 12)}
          ports:
            - {{name: http, containerPort: 8000}}
            - {{name: grpc, containerPort: 8001}}
            - {{name: metrics, containerPort: 8002}}
{_probes(deployment, 8000, 10)}
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
          resources:
{_resources(deployment, 12)}
          volumeMounts:
            - {{name: bundle, mountPath: /bundle, readOnly: true}}
            - {{name: shm, mountPath: /dev/shm}}
      volumes:
        - name: bundle
          persistentVolumeClaim: {{claimName: models, readOnly: true}}
        - name: shm
          emptyDir: {{medium: Memory, sizeLimit: 1Gi}}
---
apiVersion: v1
kind: Service
metadata:
  name: {deployment.name}
spec:
  selector: {{app: {deployment.name}}}
  ports:
    - {{name: http, port: 8000, targetPort: http}}
    - {{name: grpc, port: 8001, targetPort: grpc}}
    - {{name: metrics, port: 8002, targetPort: metrics}}
"""


def ingress_manifest(deployment: Deployment) -> str:
    """Return an ingress for the ingress-nginx controller that serves only images and metadata and limits requests.

    It blocks Triton's other paths: shared memory, log files, traces, its model repository.
    """
    return f"""\
# Only needed for access from outside the cluster. Set your host below, then: kubectl apply -f ingress.yaml
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {deployment.name}
  annotations:
    nginx.ingress.kubernetes.io/proxy-body-size: "{deployment.most_body}"
    nginx.ingress.kubernetes.io/proxy-body-timeout: "30"
    nginx.ingress.kubernetes.io/limit-connections: "32"
    nginx.ingress.kubernetes.io/use-regex: "true"
spec:
  ingressClassName: nginx
  rules:
    - host: generator.example.com
      http:
        paths:
          - path: /v2/(health/(live|ready)|models/[A-Za-z0-9_]+(/infer|/config|/ready)?)$
            pathType: ImplementationSpecific
            backend:
              service:
                name: {deployment.name}
                port: {{name: http}}
"""


def manifests(name: str, *, plans: bool, most_body: int) -> dict[str, str]:
    """Return every manifest of a bundle by its file name: both kinds with and without a GPU, and the ingress."""
    texts = {}
    for gpu in (True, False):
        deployment = Deployment(kubernetes_name(name), gpu, plans, most_body)
        texts[file_name("kserve", deployment)] = kserve_manifest(deployment)
        texts[file_name("deployment", deployment)] = deployment_manifest(deployment)
    return {**texts, "ingress.yaml": ingress_manifest(deployment)}


def file_name(kind: str, deployment: Deployment) -> str:
    """Return ``kserve-gpu.yaml``, ``deployment-cpu.yaml``, and so on."""
    return f"{kind}-{'gpu' if deployment.gpu else 'cpu'}.yaml"


def _verifying(deployment: Deployment, spaces: int) -> str:
    """Return the container that checks the bundle before Triton reads it, by a program that is not from the volume."""
    program = Path(__file__).with_name("scripts").joinpath("verify.py").read_text(encoding="utf-8")
    container = f"""\
- name: verify
  image: {TRITON_IMAGE}
  # What "dcp-deploy bundle verify" printed for this bundle. If empty, files are only compared with their manifest.
  env: [{{name: MANIFEST_SHA256, value: ""}}]
  command:
    - python3
    - -c
    - |
{textwrap.indent(program, " " * 6)}
    - /bundle/{deployment.name}
    - $(MANIFEST_SHA256)
  securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
  volumeMounts:
    - {{name: bundle, mountPath: /bundle, readOnly: true}}"""
    return textwrap.indent(container, " " * spaces)


def _probes(deployment: Deployment, port: int, spaces: int) -> str:
    """Return probes that draw a golden image: Triton says that it is ready even if its models have died."""
    draw = f'exec: {{command: [python3, "/bundle/{deployment.name}/clients/probe.py", "127.0.0.1:{port}"]}}'
    probes = f"""\
startupProbe:
  {draw}
  periodSeconds: 2
  timeoutSeconds: 12
  failureThreshold: 150
readinessProbe:
  {draw}
  timeoutSeconds: 12
livenessProbe:
  {draw}
  periodSeconds: 20
  timeoutSeconds: 12
  failureThreshold: 3"""
    return textwrap.indent(probes, " " * spaces)


def _items(items: list[str], spaces: int) -> str:
    return textwrap.indent("\n".join(f'- "{item}"' for item in items), " " * spaces)


def _resources(deployment: Deployment, spaces: int) -> str:
    gpu = '\n  nvidia.com/gpu: "1"' if deployment.gpu else ""
    sizes = f'  cpu: "2"\n  memory: 4Gi{gpu}'
    return textwrap.indent(f"requests:\n{sizes}\nlimits:\n{sizes}", " " * spaces)
