"""One frozen model for each section of `params.yaml`, which holds every value; the models document and check."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import Field, model_validator

from mammo.core.records import MIN_PATCH_PX, ROI_SIDE_PX
from mammo.core.serve_config import PromoteConfig, RegisterConfig, ServeConfig
from mammo.core.settings import Folds, Index, Positive, Section, Seed, explained, read_yaml, with_choice
from mammo.core.systems import FUSIONS, members_of, split_system
from mammo.core.tune_config import AblateConfig, LedgerConfig, StudyConfig, TuneConfig, check_space

SourceName = Literal["mias_rois", "mini_mias", "phantom", "own"]
PreprocessingName = Literal["samplewise_center", "samplewise_standardize", "imagenet", "fixed_scale"]
Precision = Literal["auto", "float32", "bfloat16"]
Road = Literal["exact", "dense"]

Rate = Annotated[float, Field(ge=0, le=1)]
TwoOrMore = Annotated[int, Field(ge=2)]  # BatchNorm cannot train on a single patch
BelowOne = Annotated[float, Field(ge=0, lt=1)]
HeadRate = Annotated[float, Field(gt=0, lt=10)]
BackboneRate = Annotated[float, Field(ge=0, lt=10)]


class PhantomConfig(Section):
    """Synthetic films in mini-MIAS format (read by `mammo phantom`, outside the DVC graph)."""

    n_patients: Annotated[int, Field(ge=4, le=400)]
    """Patients; each gives a right and a left film."""
    seed: Seed


class IngestConfig(Section):
    """From the raw archive to the ROI table."""

    source: SourceName
    """Whose raw data are read, each from a folder of its own, `data/raw/SOURCE`."""
    seed: Seed
    """Draws the normal ROIs of film sources."""
    bounding_box: bool
    """Film sources: stretch each region's bounding box to a ROI (one of the paper's defects); false keeps aspect."""


class SplitConfig(Section):
    """Who trains, who validates, who tests."""

    protocol: Literal["published", "grouped_cv"]
    """`auto` in the file: the authors' folders for mias_rois, else grouped_cv."""
    n_folds: Folds
    n_repeats: Positive
    repeat: Index
    fold: Index
    """The fold that is the test part; the next one validates."""
    keep_groups: bool
    """grouped_cv: ROIs of one patient, or of shared tissue, share a part; false spreads them (as the paper does)."""
    seed: Seed

    @model_validator(mode="after")
    def _indices_exist(self) -> Self:
        for key in ("fold", "repeat"):
            index, n = getattr(self, key), getattr(self, f"n_{key}s")
            if index >= n:
                raise ValueError(f"{key} must be below n_{key}s ({n}), got {index}")
        return self


class PatchesConfig(Section):
    """Random draws for training and the grid that votes."""

    size_px: Annotated[int, Field(ge=MIN_PATCH_PX, le=ROI_SIDE_PX)]
    tumor_draws: Positive
    """Random patches of each Tumor ROI of the training and validation parts."""
    normal_draws: Positive
    whole_roi: bool
    """Add the whole ROI as one more patch of each ROI, as the paper does."""
    last_offset: bool
    """Let random draws reach the last row and column; the paper's code never does."""
    stride_px: Annotated[int, Field(ge=1, le=ROI_SIDE_PX)]
    """Step of the voting grid: 72 and 12 give 5 × 5 votes."""
    corner_patches: bool
    """Draw and vote out to the ROI's corners, where a patch can miss the lesion (one of the paper's defects); false
    keeps to the middle half of the offsets along each axis: 3 × 3 votes instead of 5 × 5."""
    seed: Seed

    @model_validator(mode="after")
    def _a_patch_votes(self) -> Self:
        free = ROI_SIDE_PX - self.size_px
        offsets = range(free % self.stride_px // 2, free + 1, self.stride_px)
        some_inner = any(abs(offset - free / 2) <= max(free / 4, 0.5) for offset in offsets)
        if not self.corner_patches and not some_inner:
            raise ValueError(
                f"corner_patches: false leaves no patch of this grid (size_px {self.size_px}, stride_px "
                f"{self.stride_px}); lower stride_px"
            )
        return self


class AugmentConfig(Section):
    """One random affine sampling of each training patch."""

    rotation_deg: Annotated[float, Field(ge=0, le=180)]
    """Turned by an angle drawn from [−rotation_deg, rotation_deg]."""
    quarter_turns: bool
    """Turned by 0, 90, 180 or 270° instead: with zoom 0 no pixel is interpolated."""
    zoom: BelowOne
    """Each axis is scaled by a factor drawn from [1 − zoom, 1 + zoom]."""
    flip_horizontal: bool
    flip_vertical: bool
    fill: Literal["patch", "roi"]
    """What lies outside the patch: its nearest border pixel (the paper) or the tissue of its ROI."""
    gain: BelowOne
    """Grey levels are multiplied by a factor drawn from [1 − gain, 1 + gain]."""
    offset: Annotated[float, Field(ge=0, le=128)]
    """Grey levels are shifted by a value drawn from [−offset, +offset]."""


class RecipeConfig(Section):
    """How to train: everything an optimiser needs."""

    epochs: Positive
    batch_size: TwoOrMore
    patches_per_epoch: TwoOrMore | None
    """Patches seen in one epoch; null takes the whole patch set."""
    optimizer: Literal["sgd", "adamw"]
    head_lr: HeadRate
    backbone_lr: BackboneRate
    """0 freezes the backbone."""
    momentum: Rate
    weight_decay: BelowOne
    schedule: Literal["constant", "one_cycle"]
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    class_balance: bool
    """Draw each epoch's patches half from Tumor, half from Normal ROIs."""
    patience: Positive | None
    """Stop after this many epochs without a better validation loss; null never stops early."""
    clip_norm: Annotated[float, Field(gt=0)] | None
    """Longest gradient of a step; null does not clip."""
    validate_on: Literal["draws", "grid"]
    """What the validation loss is computed on: the random draws (the paper) or the voting grid."""
    augment: AugmentConfig


class TrainConfig(Section):
    """Which recipe, and what differs from it in this run."""

    recipe: str
    """A key of `recipes`."""
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    features: Literal["fresh", "kept"]
    """A frozen backbone's: of each augmented patch anew (the paper), or `kept`, once for each ROI (docs/weights.md)."""
    precision: Precision
    """auto: bfloat16 where the device computes it in hardware, else float32; heads on kept features take float32."""
    threads: Positive | None
    """CPU threads of a fit and of its evaluation. Sums depend on how they are divided, so results are bit-identical
    for one number of threads only; null takes all cores."""
    epochs: Positive | None
    """null: the recipe's own; likewise below."""
    patches_per_epoch: TwoOrMore | None
    head_lr: HeadRate | None
    backbone_lr: BackboneRate | None


class ModelConfig(Section):
    """Architecture and where its weights start."""

    weights: str
    """`none`, `imagenet` (torchvision's cache), `hed` (of vgg16; `mammo fetch --weights hed`) or the path of a state
    dict of the backbone."""
    road: Road
    """A patch goes through the backbone alone (`exact`, the paper), or is a window of its ROI's maps (`dense`)."""
    preprocessing: Literal["auto", PreprocessingName]
    """auto: what belongs to the weights (torchvision's own; of hed, samplewise_center; from scratch, each patch
    standardised)."""
    head_units: Positive
    head_dropout: BelowOne
    compact_channels: Annotated[list[Positive], Field(min_length=5, max_length=5)]


class VoteConfig(Section):
    """From patch scores to the decision about a ROI. In a bundle, `share_threshold` is the one that decides."""

    rule: Literal["majority", "mean_score"]
    tie: Literal["tumor", "normal"]
    """The class that a tied vote goes to."""
    patch_threshold: Rate
    """A patch votes Tumor when its score is above this (argmax of two classes: 0.5)."""
    views: Literal[1, 8]
    """Each patch is scored as it is (1), or as the mean over its four turns and their mirror images (8)."""
    threshold: Literal["fixed", "validation"]
    """Where the threshold of the ROI comes from: `fixed` takes `share_threshold` (0.5 is the paper's plain
    majority), `validation` fits it to the trained system's votes on the validation part."""
    share_threshold: Rate
    """A ROI is Tumor when the share of Tumor votes (or the mean score) is above this."""


class ReferralConfig(Section):
    """When a ROI is left to a reader: the promise of the prediction sets (fitted by `train`)."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    """Share of the sets that hold the true class, on ROIs like those of the validation part."""
    class_conditional: bool
    """Keep the promise within Normal and within Tumor ROIs, not only on average."""


class Resampling(TypedDict):
    """How a bootstrap is done: keyword arguments of `evaluation`."""

    n_bootstrap: int
    seed: int
    confidence: float


class EvaluateConfig(Section):
    """Intervals and what stands beside the systems."""

    n_bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    seed: Seed
    binning: Literal["equal_mass", "equal_width"]
    """Bins of the reliability diagram and the calibration error: equally many ROIs, or equally wide."""
    n_bins: Annotated[int, Field(ge=1, le=50)]
    auc_of: Literal["scores", "decisions"]
    """What the ROI-level AUC rests on; of `decisions` it is the balanced accuracy (one of the paper's defects)."""
    patch_auc_of: Literal["tumor", "larger"]
    """What the patch-level AUC rests on: the probability of Tumor or the larger of the two (a defect of the paper)."""

    @property
    def resampling(self) -> Resampling:
        """What every bootstrap interval is made with."""
        return Resampling(n_bootstrap=self.n_bootstrap, seed=self.seed, confidence=self.confidence)


OWN_SETTINGS = "params.yaml"
OVERRIDES = ("epochs", "patches_per_epoch", "head_lr", "backbone_lr")
AT_THE_ROOT = "run from the project's root, where params.yaml lies"


class Config(Section):
    """The whole of `params.yaml`."""

    settings_from: str
    """`params.yaml`, or a study's record (`reports/tune/best.yaml`), whose patches, votes and recipe then win."""
    phantom: PhantomConfig
    ingest: IngestConfig
    split: SplitConfig
    patches: PatchesConfig
    systems: Annotated[list[str], Field(min_length=1)]
    """`BACKBONE-FUSION`, several joined by `+` as an ensemble, and `-floor` where the floor's evidence counts too."""
    model: ModelConfig
    train: TrainConfig
    recipes: dict[str, RecipeConfig]
    vote: VoteConfig
    referral: ReferralConfig
    evaluate: EvaluateConfig
    register_: RegisterConfig = Field(alias="register")
    promote: PromoteConfig
    tune: TuneConfig
    ledger: LedgerConfig
    ablate: AblateConfig
    study: StudyConfig
    serve: ServeConfig

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        for system in (*self.systems, self.ablate.system, self.study.system, self.tune.system):
            for member in members_of(system):
                split_system(member)
        if len(set(self.systems)) != len(self.systems):
            raise ValueError(f"systems must differ from each other, got {self.systems}")
        for section, recipe in {"train": self.train.recipe, "tune": self.tune.recipe}.items():
            if recipe not in self.recipes:
                raise ValueError(f"{section}.recipe must be one of {sorted(self.recipes)}, got {recipe!r}")
        if self.split.protocol == "published" and (source := self.ingest.source) != "mias_rois":
            raise ValueError(f"split.protocol must be grouped_cv for ingest.source {source}: no folders")
        if self.train.features == "kept" and (rate := self.recipe.backbone_lr) > 0:
            raise ValueError(
                f"train.features must be fresh where the backbone learns, got kept with a backbone_lr of {rate}; let "
                "a recipe freeze it (as frozen does), or set train.features to fresh"
            )
        if self.model.road == "dense" and self.recipe.validate_on == "draws":
            raise ValueError("model.road dense validates on the grid: set the recipe's validate_on to grid, got draws")
        check_space(self.tune, self.patches.size_px, self.patches.stride_px, FUSIONS)
        return self

    @property
    def recipe(self) -> RecipeConfig:
        """The chosen recipe with the overrides of `train` applied."""
        own = {key: value for key in OVERRIDES if (value := getattr(self.train, key)) is not None}
        return self.recipes[self.train.recipe].model_copy(update=own)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a params file, with what `settings_from` puts above its sections, or raise `ConfigError`."""
        values = read_yaml(path, AT_THE_ROOT)
        if (own := cls.parse(values, path.name)).settings_from == OWN_SETTINGS:
            return own
        record = path.parent / own.settings_from
        return cls.parse(with_choice(values, record), str(record))

    @classmethod
    def load_own(cls, path: Path) -> Self:
        """As `load`, but without `settings_from`: what a study starts from and is compared with."""
        return cls.parse(read_yaml(path, AT_THE_ROOT) | {"settings_from": OWN_SETTINGS}, path.name)

    @classmethod
    def parse(cls, values: dict[str, Any], name: str = "params.yaml") -> Self:
        """Check a mapping of sections as `load` does a file's."""
        with explained(name):
            return cls.model_validate(values)

    @model_validator(mode="before")
    @classmethod
    def _resolve_protocol(cls, values: Any) -> Any:
        match values:
            case {"split": {"protocol": "auto"} as split}:
                ingest = values.get("ingest")
                folders = isinstance(ingest, dict) and ingest.get("source") == "mias_rois"
                values |= {"split": split | {"protocol": "published" if folders else "grouped_cv"}}
        return values
