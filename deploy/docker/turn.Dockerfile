# A TURN node: coturn, and the agent that writes its configuration, runs it and controls it.
#
#   docker build -t parley-turn -f deploy/docker/turn.Dockerfile .
#
# Without a network: as in Dockerfile; the image must then have python3 and python3-venv already.
ARG COTURN_IMAGE=coturn/coturn:4.17

FROM ${COTURN_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
USER root
RUN python3 -c 'import ensurepip' 2>/dev/null \
 || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv; }
WORKDIR /src
# .dockerignore lets in the packages, pyproject.toml, README, LICENSE and a wheelhouse, nothing else.
COPY . .
RUN python3 -m venv /opt/parley \
 && /opt/parley/bin/pip install ${PIP_ARGS} . \
 && /opt/parley/bin/pip uninstall --yes pip setuptools

FROM ${COTURN_IMAGE}
USER root
RUN command -v python3 >/dev/null \
 || { apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
COPY --from=build /opt/parley /opt/parley
ENV PATH=/opt/parley/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /etc/parley
# SIGTERM ends the agent, and coturn with it.
STOPSIGNAL SIGTERM
# nobody, by number.
USER 65534:65534
ENTRYPOINT ["parley", "turn", "agent", "--run", "turnserver"]
CMD ["--config", "/etc/parley/turn.toml"]
