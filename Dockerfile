# Builds the wheel in one stage and installs it in the other: no compiler, no source, no root.
#
#   docker build -t billiards-shm .
#   docker run --rm --shm-size 256m --device /dev/video0 --group-add video billiards-shm capture 0
#
# Containers that read share the writer's memory and user: see compose.yaml.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY csrc csrc
COPY billiards_shm billiards_shm
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[headless,serve]"
COPY examples /opt/billiards-shm/examples
# A number, so that an orchestrator can see that it is not root; shared memory belongs to it.
USER 10001:10001
WORKDIR /tmp
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "/opt/billiards-shm/examples/healthy.py", "--max-age", "5"]
# SIGTERM ends it cleanly: the segment is closed and removed.
ENTRYPOINT ["billiards-shm"]
CMD ["capture", "demo"]
