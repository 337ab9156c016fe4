"""A user's own ROIs: a CSV of pictures of ROIs, or of films with the places to cut.

Columns: `path` (relative to the CSV), `label` (Normal or Tumor), and where known `patient`, `tissue` (F, G, D),
and for films `x`, `y` and `radius`, in pixels of the file from its left and top edge, counted from 1.
"""

import csv
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import atomic_folder
from mammo.core.records import ROI_SIDE_PX, Label
from mammo.data.decode import MAX_PIXELS, GreyImage, check_roi_spacing, decode_picture, read_picture
from mammo.data.extraction import Film, prepare_film
from mammo.data.rois import Rois, make_roi_set, pixel_hashes

TABLE: Final = "rois.csv"
"""The table in `data/raw/own`, beside the pictures."""
_LABELS: Final = {"normal": Label.NORMAL, "0": Label.NORMAL, "tumor": Label.TUMOR, "1": Label.TUMOR}

Known = BeforeValidator(lambda text: text or None)
Pixels = Annotated[Annotated[float, Field(ge=1, le=MAX_PIXELS, allow_inf_nan=False)] | None, Known]


class OwnRow(BaseModel):
    """One row of the table; what is not known stays empty."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    path: Annotated[str, Field(min_length=1)]
    label: Annotated[Label, BeforeValidator(lambda text: _LABELS.get(str(text).strip().lower(), text))]
    patient: Annotated[str | None, Known] = None
    x: Pixels = None
    y: Pixels = None
    radius: Pixels = None
    tissue: Annotated[Literal["F", "G", "D"] | None, Known] = None


class Problem(NamedTuple):
    """What is wrong with a row of the table, counted as a spreadsheet does: the header is row 1."""

    row: int
    what: str


def load_own(table: Path, config: IngestConfig) -> Rois:
    """The ROIs of a table in its order; films are cut by the paper's extraction.

    Raises:
        DataError: there is no such table, or something is wrong with a row.
    """
    read = read_own(table, config)
    if isinstance(read, Rois):
        return read
    row, what = read[0]
    raise DataError(f"{table}: {len(read)} problems, in row {row}: {what} (`mammo check` lists them all)")


def bring_own(target: Path, table: Path | None, config: IngestConfig) -> None:
    """Copy a table and its pictures into the folder `target`, whole or not at all; None checks what is there.

    What `load_own` refuses is refused before.

    Raises:
        DataError: the table or a picture lies in `target`, whose files would be lost.
    """
    rois = load_own(table or target / TABLE, config).table
    if table is None or table.resolve() == (target / TABLE).resolve():
        return
    paths = rois["film_id"].fillna(rois["roi_id"]).unique()
    given = (table, *(table.parent / path for path in paths))
    if any(one.resolve().is_relative_to(target.resolve()) for one in given):
        raise DataError(
            f"{table}: it and its pictures must not lie in {target}, which is replaced; move them elsewhere, or name "
            f"the table {target / TABLE} and leave --archive out"
        )
    with atomic_folder(target) as made:
        for path in paths:
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(table.parent / path, made / path)
        shutil.copyfile(table, made / TABLE)


def read_own(path: Path, config: IngestConfig) -> Rois | list[Problem]:
    """Read a table and every picture that it names: the ROIs, or what is wrong with rows, in their order.

    Raises:
        DataError: the file is missing or is no CSV of these columns.
    """
    cuts: list[_Cut] = []
    problems: list[Problem] = []
    picture_of = lru_cache(1)(partial(_picture, path.parent))
    for number, columns, fields in _numbered_rows(path):
        try:
            row = _row(columns, fields)
            cuts.append(_cut(number, row, picture_of(row.path), config))
        except ValidationError as error:
            problems += [Problem(number, _in_words(one)) for one in error.errors()]
        except DataError as error:
            problems.append(Problem(number, str(error)))
    problems += _contradictions(cuts)
    if problems:
        return sorted(problems)
    return make_roi_set([cut.fields for cut in cuts], [cut.image for cut in cuts])


def _numbered_rows(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number, columns and fields of each row; blank lines are none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(enumerate(csv.reader(file, strict=True), start=1))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: does not exist; name the CSV of your ROIs (of `mammo fetch`: with --archive)"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: must be a CSV in UTF-8 with commas ({error}); save it as such") from error
    columns = [name.strip().lower() for name in rows[0][1]] if rows else []
    known = list(OwnRow.model_fields)
    if not {"path", "label"} <= set(columns) <= set(known) or len(set(columns)) < len(columns):
        raise DataError(
            f"{path}: must have the columns path and label, and may have {', '.join(known[2:])}, each once, separated "
            f"by commas, got {', '.join(columns) or 'nothing'}; rename or remove columns"
        )
    if not any(fields for _, fields in rows[1:]):
        raise DataError(f"{path}: must have a row for each ROI, got only the header; add them")
    yield from ((number, columns, fields) for number, fields in rows[1:] if fields)


def _row(columns: list[str], fields: list[str]) -> OwnRow:
    if len(fields) > len(columns):
        raise DataError(
            f"a row must have at most {len(columns)} fields, as the header has, got {len(fields)}; put a text "
            "with commas in quotes"
        )
    return OwnRow.model_validate(dict(zip(columns, fields, strict=False)))


def _in_words(error: Any) -> str:
    rule = error["msg"][:1].lower() + error["msg"][1:]
    rule = "must be Normal or Tumor" if error["loc"] == ("label",) else rule
    given = "nothing" if error["type"] == "missing" else repr(error["input"])
    return f"{error['loc'][0]} {rule}, got {given}; correct it"


def _picture(folder: Path, name: str) -> tuple[GreyImage | Film, float | None]:
    """A ROI or a film, by its size, and the side of its pixels in mm where the file tells it."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{name}: must lie in the folder of the table or below, got a way out; move it there")
    picture = decode_picture(read_picture(folder / name), name)
    is_roi = picture.grey.shape == (ROI_SIDE_PX, ROI_SIDE_PX)
    return picture.grey if is_roi else prepare_film(picture, name), picture.spacing_mm


class _Cut(NamedTuple):
    """A ROI with the row that names it, the side of its file's pixels in mm, and what the ROI table says of it."""

    number: int
    row: OwnRow
    spacing: float | None
    image: GreyImage
    fields: dict[str, Any]


def _cut(number: int, row: OwnRow, picture: tuple[GreyImage | Film, float | None], config: IngestConfig) -> _Cut:
    (film, spacing), path = picture, row.path
    fields = {"roi_id": path, "source": "own", "synthetic": False, "label": int(row.label)}
    fields |= {"patient_id": row.patient, "tissue": row.tissue}
    if isinstance(film, Film):
        if row.x is None or row.y is None:
            raise DataError(
                f"{path}: a film needs the ROI's place, got no x and y; add them, or give a ROI of {ROI_SIDE_PX} x "
                f"{ROI_SIDE_PX} pixels"
            )
        image, x_px, y_px = film.roi(row.x, row.y, path, config.bounding_box)
        radius_px = row.radius and max(round(row.radius * film.scale), 1)
        fields |= {"roi_id": f"{path} at {row.x:g},{row.y:g}", "film_id": path}
        return _Cut(number, row, spacing, image, {**fields, "x_px": x_px, "y_px": y_px, "radius_px": radius_px})
    if (row.x, row.y) != (None, None):
        raise DataError(f"{path}: a whole ROI has no place in itself, got x and y; leave them empty")
    check_roi_spacing(spacing, path)
    return _Cut(number, row, spacing, film, fields)


def _contradictions(cuts: Sequence[_Cut]) -> Iterator[Problem]:
    """Rows that do not fit an earlier one: the same ROI twice, two labels for the same pixels, data of two kinds."""
    first: dict[tuple[str, str], _Cut] = {}
    for cut in cuts:
        name, fields = cut.row.path, cut.fields
        same = first.setdefault(("roi", fields["roi_id"]), cut)
        alike = first.setdefault(("pixels", pixel_hashes(cut.image[None])[0]), cut)
        of_film = first.setdefault(("film", name), cut)
        if alike.row.label != cut.row.label:
            what = (
                f"one ROI has one label, got the pixels of row {alike.number}, labelled {alike.row.label.title}; find "
                "out which is right and remove the other row"
            )
        elif same is not cut:
            what = f"must appear once, got it in row {same.number} too; remove one of the rows"
        elif of_film.row.patient != cut.row.patient:
            what = f"a film is of one patient, got another in row {of_film.number}; correct the patient"
        elif ("film_id" in fields) != ("film_id" in cuts[0].fields):
            what = "rows must be all ROIs or all films, or training learns their difference; split the table"
        elif (cut.spacing is None) != (cuts[0].spacing is None):
            what = "the size of pixels must be known of all pictures or of none; split the table"
        else:
            continue
        yield Problem(cut.number, f"{name}: {what}")
