# The SBOM of an image's Python environment, as JSON of CycloneDX. Debian's packages are not in it.
#   docker build --file tests/containers/sbom.Dockerfile --build-arg IMAGE=timesformer-rollout-api \
#       --output FOLDER tests/containers
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG IMAGE

FROM $IMAGE AS image

FROM $BASE_IMAGE AS tool
RUN python -m venv --without-pip /opt/tool \
 && pip --python /opt/tool install --quiet --no-cache-dir cyclonedx-bom==7.5.0
RUN --mount=type=bind,from=image,source=/opt/rollout,target=/opt/rollout \
    /opt/tool/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json \
        /opt/rollout/bin/python

FROM scratch
COPY --from=tool /sbom.json /
