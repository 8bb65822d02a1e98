# Four images from one file:
#   docker build --target api         -t timesformer-rollout-api .           no torch, timm or av
#   docker build --target worker      -t timesformer-rollout-worker .        torch's wheels bring CUDA
#   docker build --target worker-cpu  -t timesformer-rollout-worker-cpu .    torch for the CPU only
#   docker build --target worker-fake -t timesformer-rollout-worker-fake .   the fake engine, no torch
# They write to /data and /tmp alone, so the root file system can be read-only.
#
# Build arguments; docs/operations.md says how BASE_IMAGE is pinned by its digest:
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG VERSION=0.1.0
ARG REVISION=
ARG SOURCE=

FROM $BASE_IMAGE AS base
ENV PATH=/opt/rollout/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    ROLLOUT_DATA_DIR=/data
RUN groupadd --gid 10001 rollout \
 && useradd --uid 10001 --gid rollout --no-create-home --home-dir /tmp \
            --shell /usr/sbin/nologin rollout \
 && install --directory --owner rollout --group rollout /data
WORKDIR /tmp


# The dependencies alone, so that a change of the code makes no new layer of them. Empty packages
# stand for the code; only rollout_core/__init__.py is real: it holds the version. pip works on the
# environments from outside: they hold none.
FROM base AS dependencies
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
COPY rollout_core/__init__.py rollout_core/
RUN python -m venv --without-pip /opt/rollout \
 && touch README.md LICENSE \
 && for package in service worker; do \
        install -D /dev/null "$package/__init__.py"; \
    done

FROM dependencies AS dependencies-api
RUN pip --python /opt/rollout install --constraint constraints.txt '.[service,s3,telemetry]'

FROM dependencies AS dependencies-worker-fake
RUN pip --python /opt/rollout install --constraint constraints.txt '.[media,s3,telemetry]'

# Both from the index of CPU wheels, since torchvision's code is linked with torch's. What they need
# comes from the usual index.
FROM dependencies AS dependencies-worker-cpu
ARG TORCH_INDEX
RUN pip --python /opt/rollout install --no-deps --constraint constraints.txt \
        --index-url "$TORCH_INDEX" torch torchvision
RUN pip --python /opt/rollout install --constraint constraints.txt '.[worker,s3,telemetry]'

FROM dependencies AS dependencies-worker
RUN pip --python /opt/rollout install --constraint constraints.txt '.[worker,s3,telemetry]'

# The code, as a wheel that each image installs over the empty packages.
FROM base AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .


FROM base AS api
COPY --from=dependencies-api /opt/rollout /opt/rollout
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/rollout install --no-cache-dir --no-deps --force-reinstall /dist/*.whl
USER 10001:10001
VOLUME /data
EXPOSE 8000
ENV ROLLOUT_HOST=0.0.0.0 \
    ROLLOUT_PORT=8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["rollout-service"]
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.title="timesformer-rollout-api" \
      org.opencontainers.image.description="REST service that explains what a video transformer looked at" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"


FROM base AS base-worker
VOLUME /data
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s \
    CMD ["python", "-m", "worker.health"]
ENTRYPOINT ["rollout-worker"]

FROM base-worker AS worker-fake
COPY --from=dependencies-worker-fake /opt/rollout /opt/rollout
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/rollout install --no-cache-dir --no-deps --force-reinstall /dist/*.whl
USER 10001:10001
ENV ROLLOUT_ENGINE=fake
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.title="timesformer-rollout-worker-fake" \
      org.opencontainers.image.description="Worker of timesformer-rollout with a scripted model, for tests of clients" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"

FROM base-worker AS worker-cpu
COPY --from=dependencies-worker-cpu /opt/rollout /opt/rollout
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/rollout install --no-cache-dir --no-deps --force-reinstall /dist/*.whl
USER 10001:10001
ENV ROLLOUT_DEVICE=cpu
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.title="timesformer-rollout-worker-cpu" \
      org.opencontainers.image.description="Worker of timesformer-rollout for machines without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"

# The NVIDIA container toolkit of the host adds the driver; without a GPU it runs on the CPU.
FROM base-worker AS worker
COPY --from=dependencies-worker /opt/rollout /opt/rollout
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/rollout install --no-cache-dir --no-deps --force-reinstall /dist/*.whl
USER 10001:10001
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.title="timesformer-rollout-worker" \
      org.opencontainers.image.description="Worker of timesformer-rollout for NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
