"""MLflow's runs and registry. What MLflow reads from the environment is set before its first import."""

from mammo.core.errors import set_environment

set_environment()
