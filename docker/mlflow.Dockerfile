# MLflow's tracking server and registry: one worker, no job runners. Its arguments name the database.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS build

ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
RUN pip install --constraint constraints.txt "mlflow[auth]" "psycopg[binary]"


FROM ${PYTHON_IMAGE}

# The volume takes its owner from the folder that it is first mounted over.
RUN useradd --create-home --uid 1000 mlflow \
    && install --directory --owner mlflow /mlflow /mlflow/artifacts
COPY --from=build /opt/venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
WORKDIR /mlflow
USER 1000
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["mlflow", "server", "--workers", "1", "--host", "0.0.0.0", "--port", "5000", \
            "--artifacts-destination", "/mlflow/artifacts", "--uvicorn-opts", "--log-level warning"]
CMD ["--backend-store-uri", "sqlite:////mlflow/mlflow.db"]
