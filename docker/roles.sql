-- Run once, when the volume is made: MLflow owns its database and is nothing else, above all no superuser.
\getenv password MLFLOW_DATABASE_PASSWORD
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT, TEMPORARY ON DATABASE mlflow, postgres FROM PUBLIC;
