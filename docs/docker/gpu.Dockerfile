# syntax=docker/dockerfile:1
# Not built here: the machines of this project have no container engine. hadolint checks this file (make lint).
# docs/install.md says how to build and run the image. It ends when its command ends, so it has no health check:
# Kubernetes runs bundles in NVIDIA's image of Triton, with the probes of the bundle's manifests.

# CUDA 13.0 with nvcc, TensorRT 10.13, Python 3.12. The next images have TensorRT 10.14, which pyproject.toml excludes.
FROM nvcr.io/nvidia/tensorrt:25.10-py3

# pycuda is compiled while it is installed, g++ also compiles our CPU operators. Ubuntu keeps one version of them in a
# release, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/dcp-deploy/bin:$PATH PIP_NO_CACHE_DIR=1

# The environment sees the packages of the image, so TensorRT is not installed twice. The sources are mounted, so the
# layers hold only what is installed. torch has a layer of its own: it is the largest and changes seldom.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python3 -m venv --system-site-packages /opt/dcp-deploy \
    && pip install -c /constraints.txt torch
RUN --mount=type=bind,target=/source,rw \
    pip install -c /source/constraints.txt '/source[gpu]'

# Another number writes to a mounted folder of another user: --build-arg UID="$(id -u)".
ARG UID=1000
RUN useradd --create-home --home-dir /data --no-log-init --non-unique --uid "$UID" dcp
USER $UID
WORKDIR /data

ENTRYPOINT ["dcp-deploy"]
CMD ["--help"]
