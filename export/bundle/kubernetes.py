"""KServe and plain Kubernetes manifests for a bundle, with a GPU and without, and an ingress to stand before them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Triton 2.74. Older ones have known holes: 2.51, which the tests run, ends when it is sent 8 MB of JSON.
TRITON_RELEASE = "26.10-py3"
TRITON_IMAGE = f"nvcr.io/nvidia/tritonserver:{TRITON_RELEASE}"
GRACE_SECONDS = 30  # requests in flight may finish before the server ends


@dataclass(frozen=True)
class Deployment:
    """What the manifests say: a name that Kubernetes allows, and whether TensorRT plans are there for the GPU."""

    name: str
    gpu: bool
    plans: bool
    most_body: int = 1 << 26
    """Bytes of the largest request; Triton's own default."""

    @property
    def arguments(self) -> list[str]:
        """Of tritonserver, beside the repository."""
        chosen = ["--model-config-name=tensorrt"] if self.gpu and self.plans else []
        return [*chosen, f"--http-max-input-size={self.most_body}", f"--exit-timeout-secs={GRACE_SECONDS}"]

    @property
    def resources(self) -> str:
        """The limits, as lines of YAML without indentation."""
        gpu = ['nvidia.com/gpu: "1"'] if self.gpu else []
        return "\n".join(['cpu: "2"', "memory: 4Gi", *gpu])


def kubernetes_name(name: str) -> str:
    """A DNS label (RFC 1123) as near to ``name`` as can be."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "generator"


def kserve_manifest(deployment: Deployment) -> str:
    """An InferenceService on KServe's Triton runtime, of our release; KServe brings health checks and scaling."""
    return f"""\
# KServe: put the bundle's folder models/ on the volume, then: kubectl apply -f {file_name("kserve", deployment)}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {deployment.name}
spec:
  predictor:
    minReplicas: 1
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      runtime: kserve-tritonserver
      runtimeVersion: {TRITON_RELEASE}
      storageUri: pvc://models/{deployment.name}/models
      args:
{_block(deployment.arguments, 8)}
      resources:
        requests:
{_indent(deployment.resources, 10)}
        limits:
{_indent(deployment.resources, 10)}
"""


def deployment_manifest(deployment: Deployment) -> str:
    """A Deployment and a Service that run Triton without KServe."""
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
      containers:
        - name: triton
          image: {TRITON_IMAGE}
          command:
{_block(command, 12)}
          ports:
            - {{name: http, containerPort: 8000}}
            - {{name: grpc, containerPort: 8001}}
            - {{name: metrics, containerPort: 8002}}
          startupProbe:
            httpGet: {{path: /v2/health/ready, port: http}}
            periodSeconds: 2
            failureThreshold: 150
          readinessProbe:
            httpGet: {{path: /v2/health/ready, port: http}}
          livenessProbe:
            httpGet: {{path: /v2/health/live, port: http}}
            failureThreshold: 6
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
          resources:
            requests:
{_indent(deployment.resources, 14)}
            limits:
{_indent(deployment.resources, 14)}
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
    """Lets others in to images and metadata alone, with a limit on what they may send: of the ingress-nginx controller.

    Triton's other addresses (shared memory, log files, traces, its model repository) are not led through.
    """
    return f"""\
# Only where strangers are to reach it. Put in your host, then: kubectl apply -f ingress.yaml
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


def file_name(kind: str, deployment: Deployment) -> str:
    """``kserve-gpu.yaml``, ``deployment-cpu.yaml``."""
    return f"{kind}-{'gpu' if deployment.gpu else 'cpu'}.yaml"


def _block(items: list[str], spaces: int) -> str:
    return "\n".join(f'{" " * spaces}- "{item}"' for item in items)


def _indent(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in text.splitlines())
