# syntax=docker/dockerfile:1
# Not built here: the machines of this project have no container engine. hadolint checks this file (make lint).
# docs/install.md says how to build and run the image. It ends when its command ends, so it has no health check:
# Kubernetes runs bundles in NVIDIA's image of Triton, with the probes of the bundle's manifests.

# The Python that the tests run with.
FROM python:3.11.14-slim-bookworm

# g++ compiles our CPU operators on their first use. Debian keeps one version of it in a release, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/dcp-deploy/bin:$PATH PIP_NO_CACHE_DIR=1
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# The sources are mounted, so the layers hold only what is installed. torch has a layer of its own: it is the largest and
# changes seldom.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python -m venv /opt/dcp-deploy \
    && pip install -c /constraints.txt --no-deps --index-url "$TORCH_INDEX" torch
RUN --mount=type=bind,target=/source,rw \
    pip install -c /source/constraints.txt '/source[cpu,openvino]'

# Another number writes to a mounted folder of another user: --build-arg UID="$(id -u)".
ARG UID=1000
RUN useradd --create-home --home-dir /data --no-log-init --non-unique --uid "$UID" dcp
USER $UID
WORKDIR /data

ENTRYPOINT ["dcp-deploy"]
CMD ["--help"]
