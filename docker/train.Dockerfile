# Runs the pipeline on a mounted checkout: at /workspace, or where `docker run -w` says. Build from the project's root.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS build

# An index beside the default one, say of a mirror or of other builds of torch and torchvision (both from one index).
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build

# An empty package first: the layer of the dependencies outlives changes of the code.
COPY pyproject.toml constraints.txt ./
RUN mkdir mammo && touch mammo/__init__.py README.md \
    && pip install --constraint constraints.txt ".[dicom]"
COPY README.md ./
COPY mammo mammo
RUN pip install --no-deps --force-reinstall .


FROM ${PYTHON_IMAGE}

# DVC asks git which commit it is on; the checkout's owner is not the container's user.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
ARG UID=1000
RUN useradd --create-home --uid "$UID" mammo \
    && install --directory --owner mammo /workspace
COPY --from=build /opt/venv /opt/venv

# PYTHONPATH: the mounted code runs, which is the code whose hashes DVC records, not the copy installed here.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/workspace \
    PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
WORKDIR /workspace
USER $UID
HEALTHCHECK --interval=60s --timeout=20s --start-period=10s --retries=3 \
    CMD ["mammo", "--help"]
CMD ["dvc", "repro"]
