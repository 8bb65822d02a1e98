# The SBOM of an image's Python environment, as JSON of CycloneDX. Debian's packages are not in it.
#   docker build --file tests/containers/sbom.Dockerfile --build-arg IMAGE=timesformer-rollout-api \
#       --output type=local,dest=FOLDER tests/containers
ARG IMAGE

FROM $IMAGE AS tool
USER 0
RUN python -m venv --without-pip /tmp/tool \
 && pip --python /tmp/tool install --quiet --no-cache-dir cyclonedx-bom==7.5.0
RUN /tmp/tool/bin/cyclonedx-py environment --output-reproducible --output-file /tmp/sbom.json \
        /opt/rollout/bin/python

FROM scratch
COPY --from=tool /tmp/sbom.json /sbom.json
