# Parley's server image: signaling, TURN credential broker and pages, without aiortc.
#
#   docker build -t parley .
#   docker build -t parley --build-arg EXTRAS='[probes]' .       with aiortc (100 MB more)
#   docker build -t parley --build-arg COMPILE=0 .               plain Python: no compiler, a minute less, slower (docs/performance.md)
#
# Without a network: `pip download -d wheelhouse . hatchling` (and the NEEDS of hatch_build.py, and an image with gcc; or COMPILE=0), then
#   docker build -t parley --build-arg PIP_ARGS='--no-index --find-links wheelhouse' .
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG PIP_ARGS=""
ARG EXTRAS=""
# Hot modules as machine code. The compiler stays in this stage.
ARG COMPILE=1
RUN if [ "$COMPILE" = 1 ] && ! command -v gcc >/dev/null; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; fi
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/parley
# .dockerignore lets in the packages, pyproject.toml, README, LICENSE and a wheelhouse, nothing else.
COPY . .
RUN PARLEY_COMPILE=${COMPILE} /opt/parley/bin/pip wheel ${PIP_ARGS} --no-deps --wheel-dir /dist . \
 && /opt/parley/bin/pip install ${PIP_ARGS} "$(ls /dist/parley_rtc-*.whl)${EXTRAS}" \
 && /opt/parley/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin parley
COPY --from=build /opt/parley /opt/parley
ENV PATH=/opt/parley/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PARLEY_SERVER_HOST=0.0.0.0 \
    PARLEY_SERVER_PORT=8080
# `parley serve` reads parley.toml from here, where one is mounted.
WORKDIR /etc/parley
EXPOSE 8080
# SIGTERM drains; give the container more time than server.drain_s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:%s/healthz' % os.environ['PARLEY_SERVER_PORT'], timeout=2)"]
# By number, so that Kubernetes' runAsNonRoot can tell.
USER 10001:10001
ENTRYPOINT ["parley"]
CMD ["serve"]
