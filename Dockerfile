# docker build -t aicore-proxy .
# docker run --read-only --cap-drop ALL -p 3001:3001 -e AICORE_PROXY_API_KEY -e AICORE_SERVICE_KEY aicore-proxy
# More: docs/clients.md is for those who call it, docs/operations.md for those who run it.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# What serves, every file checked against its hash; the lock's second part is for tests
COPY requirements.lock ./
RUN sed '/^# --- tests and checks/,$d' requirements.lock > serve.lock \
 && python -m venv /opt/aicore-proxy \
 && /opt/aicore-proxy/bin/pip install --require-hashes --only-binary :all: -r serve.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/aicore-proxy/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/aicore-proxy/bin/pip install --no-deps --no-index dist/*.whl \
 && /opt/aicore-proxy/bin/pip uninstall --yes hatchling editables pathspec pluggy tomlkit trove-classifiers pip

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/aicore-proxy /opt/aicore-proxy
# The state folder (the key that the proxy makes, the last known deployments) may be a volume; without one, and with a
# read-only root, it does without
ENV PATH=/opt/aicore-proxy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_STATE_HOME=/var/lib \
    AICORE_PROXY_HOST=0.0.0.0
RUN install -d -o 10001 -g 0 -m 0770 /var/lib/aicore-proxy
USER 10001:0
EXPOSE 3001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["aicore-proxy", "health"]
ENTRYPOINT ["aicore-proxy"]
CMD ["serve"]
