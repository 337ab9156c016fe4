"""ROIs that a study adds to training parts come from the films of training patients, at the places that it states."""

from pathlib import Path

import pandas as pd
import pytest

from mammo.data.films import open_films, read_annotations
from mammo.data.rois import Rois
from mammo.data.splits import Fold
from pipelines.studies.extra_rois import SHIFT_PX, cut_extra, with_extra
from tests.disc_rois import disc_rois

PATIENT_OF_PART = {"train": ("p001", "p002"), "val": ("p003",), "test": ("p004",)}
"""Films 1 to 4 are the training patients'; the table does not say where the lesion of the second lies."""


@pytest.fixture(scope="module")
def extra(phantom_folder: Path) -> Rois:
    return cut_extra(phantom_folder)


def fold_of(patients: dict[str, tuple[str, ...]]) -> Fold:
    owners = [(patient, part) for part, own in patients.items() for patient in own]
    rois = disc_rois(len(owners), 0)
    split = pd.DataFrame(owners, columns=["patient_id", "split"]).assign(roi_id=rois.table["roi_id"])
    return Fold(0, 0, rois.with_split(split.assign(group_id=split["patient_id"])))


def test_extra_rois_are_of_training_patients_and_leave_the_other_parts_alone(extra: Rois) -> None:
    fold = fold_of(PATIENT_OF_PART)
    enlarged = with_extra(fold, extra).rois
    added = enlarged.table[~enlarged.table["roi_id"].isin(fold.rois.table["roi_id"])]

    assert set(added["film_id"]) == {"mdb001", "mdb003", "mdb004"}
    assert set(added["patient_id"]) == {"p001", "p002"}
    assert (added["split"] == "train").all()
    assert enlarged.table["roi_id"].is_unique
    for part in ("val", "test"):
        assert list(enlarged.part(part).table["roi_id"]) == list(fold.rois.part(part).table["roi_id"])
        assert (enlarged.part(part).images == fold.rois.part(part).images).all()


def test_a_patient_of_two_parts_gives_no_extra_rois(extra: Rois) -> None:
    fold = fold_of(PATIENT_OF_PART | {"val": ("p002", "p003")})

    assert set(with_extra(fold, extra).rois.part("train").table["film_id"].dropna()) == {"mdb001"}


def test_six_shifted_crops_of_each_lesion_and_six_normal_rois_of_each_film_without(
    phantom_folder: Path, extra: Rois
) -> None:
    with open_films(phantom_folder) as store:
        annotations = read_annotations(store)
    lesions = [one for one in annotations if one.x_px is not None]
    normal = {one.film_id for one in annotations if one.abnormality == "NORM"}
    of_lesions, of_normal = (extra.table[extra.table["label"] == label] for label in (1, 0))

    assert lesions
    assert normal
    assert len(of_lesions) == 6 * len(lesions)
    assert of_normal["film_id"].value_counts().to_dict() == dict.fromkeys(normal, 6)
    places = pd.DataFrame([vars(one) for one in lesions])[["film_id", "x_px", "y_px"]]
    pairs = of_lesions.reset_index().merge(places, on="film_id", suffixes=("", "_lesion"))
    shifts = [(pairs[axis] - pairs[f"{axis}_lesion"]).abs() for axis in ("x_px", "y_px")]
    near = pairs.loc[(shifts[0] <= SHIFT_PX) & (shifts[1] <= SHIFT_PX), "roi_id"]
    assert set(near) == set(of_lesions["roi_id"])
