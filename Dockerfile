# The scoring image: wheels are built in the first stage, the second has neither compiler nor torch nor models.
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t slimctr .
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /source
COPY constraints.txt ./
# The ziglang wheel is the C compiler of the kernels, so that no package of the distribution is needed.
RUN python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt setuptools ziglang
COPY pyproject.toml setup.py README.md LICENSE ./
COPY slimctr ./slimctr
COPY model_store ./model_store
COPY service ./service
COPY loadtest ./loadtest
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-build-isolation \
    -c constraints.txt --wheel-dir /wheels ".[service,dashboard]"

FROM build AS loadtest-wheels
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-build-isolation \
    -c constraints.txt --wheel-dir /loadtest-wheels ".[loadtest]"

# docker build --target loadtest: the load generator, apart from the service.
FROM ${PYTHON} AS loadtest
RUN --mount=type=bind,from=loadtest-wheels,source=/loadtest-wheels,target=/wheels \
    python -m pip install --no-cache-dir --disable-pip-version-check --no-index --find-links /wheels \
    "slimctr[loadtest]"
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "loadtest"]

FROM ${PYTHON} AS service
ARG REVISION=unknown
LABEL org.opencontainers.image.title="slimctr" \
      org.opencontainers.image.description="Scores click-through rates from compressed embedding tables" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --disable-pip-version-check --no-index --find-links /wheels \
    "slimctr[service,dashboard]" \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin slimctr \
    && install -d -o slimctr -g slimctr /models /state
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    SLIMCTR_HOST=0.0.0.0 \
    SLIMCTR_PORT=8080 \
    SLIMCTR_STORE=/models \
    SLIMCTR_STATE_URL=sqlite:////state/slimctr.sqlite3
USER 10001:10001
WORKDIR /
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"SLIMCTR_PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["slimctr", "serve"]
