"""The sections of `params.yaml` that the registry and what stands behind it read."""

from typing import Annotated, Literal

from pydantic import Field

from mammo.core.settings import Section

Share = Annotated[float, Field(ge=0, le=1)]


class RegisterConfig(Section):
    """Which model becomes a version in the registry."""

    model_name: str
    select_by: Literal["val_loss", "val_auc"]
    """Chosen on the validation part alone."""


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
    """Share of shadowed answers that agree with the champion's: at least this."""
