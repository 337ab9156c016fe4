"""Settings of the reading room: what a promotion asks for, and what the service allows."""

from typing import Annotated, Literal

from pydantic import Field

from mammo.core.settings import Positive, Section

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class RegisterConfig(Section):
    """Which model becomes a version in the registry."""

    model_name: str
    select_by: Literal["val_loss", "val_auc"]
    """Chosen on the validation part alone. A network's loss is its fit's, an ensemble's or a -floor system's that of
    the grid as it votes: for a list of both set val_auc where the recipe validates on draws or vote.views is 8."""


class PromoteConfig(Section):
    """The gates before the alias champion, judged by the evaluation that lies with the version's run.

    null or false does not ask. That a version loads and votes is always asked.
    """

    over_floor: Annotated[float, Field(ge=-1, lt=1)] | None
    """Its AUC minus the floor's must be above this."""
    margin_auc: Share | None
    """Non-inferiority margin: the AUC that may be lost to the champion. The interval of candidate minus champion, on
    the same ROIs, must not reach below minus this."""
    calibration_error: Share | None
    """Its expected calibration error, in the bins of `evaluate`, must be at most this."""
    recall: Share | None
    """Share of the Tumor ROIs that it finds at its own threshold: at least this."""
    latency_s: Annotated[float, Field(gt=0)] | None
    """Median seconds of a vote on one ROI, on the machine that promotes: at most this."""
    expectations: bool
    """No critical expectation on its data is broken."""
    leak_free: bool
    """The list of ROIs that share tissue with another part lies with the run, so that none of them is counted."""
    never_phantom_over_real: bool
    """A model of phantoms takes no real one's place."""
    shadow_agreement: Share | None
    """Share of shadowed answers that agree with the champion's: the lower end of its interval at least this."""


class ServeConfig(Section):
    """The voting service (read by `mammo serve`, and for decoding by every command that votes)."""

    poll_s: Seconds
    """How often the service asks the registry which version is champion."""
    voters: Positive | None
    """Processes that vote, of one thread each; null: one for each CPU."""
    standby: Annotated[int, Field(ge=0)]
    """Former champions that stay loaded, beside the challenger, so that a promotion or rollback takes no time."""
    max_batch: Positive
    """ROIs that wait are voted on together, so many at most."""
    queue: Positive
    """ROIs that may wait for a batch of one version, explanations counted until they are answered. What would make it
    more is answered with 503 and Retry-After, a request of more alone with 422; pictures not decoded yet do not
    count."""
    per_client: Positive
    """Requests of one client at a time; more are answered with 429."""
    body_s: Seconds
    """A request's body has to be there within this time."""
    drain_s: Annotated[float, Field(ge=0, le=600)]
    """After SIGTERM the service says that it is not ready, and goes on answering for so long."""
    decoders: Positive
    """Processes that decode ROIs; films have one of their own."""
    decode_s: Seconds
    """A ROI has to be decoded within this time,"""
    film_s: Seconds
    """a film decoded and prepared within this."""
    decode_memory_mb: Annotated[int, Field(ge=512)]
    """Address space of a process that decodes."""
    shadow_share: Share
    """Share of the votes that the challenger gives too, unseen."""
