"""The errors that people are meant to read.

Every message states the rule, the offending value and the remedy. The command line turns a
`MammoError` into one message and exit code 2; the web service turns it into a 4xx with a JSON body.
"""


class MammoError(Exception):
    """Base of every error that is the input's or the environment's fault, not the program's."""


class ConfigError(MammoError):
    """`params.yaml` holds an unknown, missing or impossible value."""


class DataError(MammoError):
    """An archive, an image, a table or an annotation breaks its contract."""


class ExpectationError(DataError):
    """A critical data expectation failed; the message names it."""


class WeightsError(MammoError):
    """Model weights cannot be had or do not fit the architecture."""


class TrackingError(MammoError):
    """The MLflow store or registry is missing, locked or lacks what was asked for."""
