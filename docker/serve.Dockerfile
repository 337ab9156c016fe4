# The voting service. The champion comes from the MLflow server in MLFLOW_TRACKING_URI: no model lies in the image.
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

# A volume takes its owner from the folder that it is first mounted over.
RUN useradd --create-home --uid 1000 mammo \
    && install --directory --owner mammo /workspace/predictions
COPY --from=build /opt/venv /opt/venv
WORKDIR /workspace
COPY params.yaml ./
# A process that votes takes 0.35 GB, and four versions and the next one's spares may be loaded at once: on a machine of
# many CPUs, one for each would need more than compose allows. More votes come of more services.
RUN sed -i 's/^  voters: null\b/  voters: 2/' params.yaml

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["mammo", "serve", "--host", "0.0.0.0", "--port", "8000"]
