"""Raw data is found in a fixed order, always checked, and put in place whole or not at all."""

import errno
import hashlib
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.data.archive import FILMS_VARIABLE, ROIS_VARIABLE, fetch_films, fetch_raw, fetch_rois
from tests.settings import section

CONTENT = b"the published archive" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/MIAS_ROIs.zip"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; `/half/` announces a file and ends in its middle."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if not self.path.startswith("/half/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2])
        return None


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address on the loopback under which it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw" / "MIAS_ROIs.zip"


def copy_at(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_named_archive_comes_before_the_variable(tmp_path: Path, target: Path) -> None:
    named, other = copy_at(tmp_path / "named.zip"), copy_at(tmp_path / "other.zip", b"other")

    assert fetch_rois(target, named, {ROIS_VARIABLE: str(other)}, NOWHERE, SHA256) == target
    assert target.read_bytes() == CONTENT


def test_the_variable_comes_before_what_is_there(tmp_path: Path, target: Path) -> None:
    copy_at(target, b"stale")
    env = {ROIS_VARIABLE: str(copy_at(tmp_path / "copy.zip"))}

    fetch_rois(target, None, env, NOWHERE, SHA256)

    assert target.read_bytes() == CONTENT


def test_a_copy_in_place_is_kept_without_the_network(target: Path) -> None:
    copy_at(target)

    assert fetch_rois(target, None, {}, NOWHERE, SHA256) == target


def test_the_network_comes_last(site: tuple[Path, str], target: Path) -> None:
    folder, address = site
    copy_at(folder / "MIAS_ROIs.zip")

    fetch_rois(target, None, {}, f"{address}/MIAS_ROIs.zip", SHA256)

    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("damaged.zip", "must have the SHA-256 .*, got .* nothing was kept"),
        ("half/MIAS_ROIs.zip", "cannot be downloaded .*; download .* on another machine"),
        ("missing.zip", "cannot be downloaded .*404.*; download .* on another machine"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    site: tuple[Path, str], target: Path, path: str, reason: str
) -> None:
    folder, address = site
    copy_at(folder / "damaged.zip", CONTENT[:-1] + b"?")
    with pytest.raises(DataError, match=reason):
        fetch_rois(target, None, {}, f"{address}/{path}", SHA256)

    assert list(target.parent.iterdir()) == []


def test_a_wrong_sha256_is_refused_and_the_old_copy_stays(tmp_path: Path, target: Path) -> None:
    copy_at(target, b"old")
    wrong = copy_at(tmp_path / "wrong.zip", b"wrong")
    with pytest.raises(DataError, match=rf"wrong\.zip: must have the SHA-256 {SHA256}, got "):
        fetch_rois(target, wrong, {}, NOWHERE, SHA256)

    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_a_copy_in_place_with_a_wrong_sha256_is_refused(target: Path) -> None:
    copy_at(target, b"wrong")
    with pytest.raises(DataError, match="got another file; delete it"):
        fetch_rois(target, None, {}, NOWHERE, SHA256)


@pytest.mark.parametrize("address", [NOWHERE, "http://no-such-host.invalid/MIAS_ROIs.zip"])
def test_without_a_network_the_error_names_url_place_and_variable(
    target: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError) as refused:
        fetch_rois(target, None, {}, address, SHA256)

    message = str(refused.value)
    assert address in message
    assert str(target) in message
    assert "MAMMO_MIAS_ROIS" in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("from_network", [True, False])
def test_a_full_disk_leaves_the_old_copy_and_no_half_one(
    site: tuple[Path, str],
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    from_network: bool,
) -> None:
    target = target if from_network else copy_at(target, b"old")
    named = None if from_network else copy_at(tmp_path / "named.zip")
    copy_at(site[0] / "MIAS_ROIs.zip")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); free space"):
        fetch_rois(target, named, {}, f"{site[1]}/MIAS_ROIs.zip", SHA256)

    left = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    assert left == ({} if from_network else {target.name: b"old"})


@pytest.mark.parametrize("by_archive", [True, False])
def test_a_named_copy_that_does_not_exist_is_an_error(tmp_path: Path, target: Path, by_archive: bool) -> None:
    missing = tmp_path / "missing.zip"
    archive, env = (missing, {}) if by_archive else (None, {ROIS_VARIABLE: str(missing)})
    with pytest.raises(DataError, match=r"must name a file that exists, got .*missing\.zip"):
        fetch_rois(target, archive, env, NOWHERE, SHA256)


def test_a_folder_is_no_archive(tmp_path: Path, target: Path) -> None:
    with pytest.raises(DataError, match="name the archive file itself"):
        fetch_rois(target, tmp_path, {}, NOWHERE, SHA256)


@pytest.fixture
def films_tar(tmp_path: Path, phantom_folder: Path) -> Path:
    path = tmp_path / "all-mias.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for file in sorted(phantom_folder.iterdir()):
            if file.suffix != ".json":
                archive.add(file, file.name)
    return path


def test_a_film_archive_is_checked_and_copied(tmp_path: Path, films_tar: Path) -> None:
    target = tmp_path / "raw" / "all-mias.tar.gz"

    assert fetch_films(target, None, {FILMS_VARIABLE: str(films_tar)}) == target
    assert target.read_bytes() == films_tar.read_bytes()


def test_a_film_folder_is_checked_and_copied_without_strangers(tmp_path: Path, phantom_folder: Path) -> None:
    target = tmp_path / "raw" / "all-mias"

    fetch_films(target, phantom_folder, {})

    copied = {path.name for path in target.iterdir()}
    assert copied == {path.name for path in phantom_folder.iterdir()} - {"phantom.json"}
    assert (target / "mdb002.pgm").read_bytes() == (phantom_folder / "mdb002.pgm").read_bytes()
    assert (target / "Info.txt").read_bytes() == (phantom_folder / "Info.txt").read_bytes()


def test_an_incomplete_film_folder_is_refused(tmp_path: Path, phantom_folder: Path) -> None:
    incomplete = tmp_path / "incomplete"
    shutil.copytree(phantom_folder, incomplete)
    (incomplete / "mdb004.pgm").unlink()
    with pytest.raises(DataError, match=r"mdb004\.pgm must be there"):
        fetch_films(tmp_path / "raw" / "all-mias", incomplete, {})

    assert not (tmp_path / "raw").exists()


def test_films_are_never_downloaded_and_the_error_says_where_to_get_them(tmp_path: Path) -> None:
    config = section(IngestConfig, source="mini_mias", raw="data/raw/all-mias.tar.gz")
    with pytest.raises(DataError, match=r"Mammographic Image Analysis Society's page .* MAMMO_MINI_MIAS"):
        fetch_raw(config, tmp_path, env={})


def test_films_in_place_are_checked(tmp_path: Path, phantom_folder: Path) -> None:
    target = tmp_path / "all-mias"
    fetch_films(target, phantom_folder, {})

    assert fetch_films(target, None, {}) == target
    with pytest.raises(DataError, match="films are there already"):
        fetch_films(target, phantom_folder, {})
    (target / "mdb001.pgm").unlink()
    with pytest.raises(DataError, match=r"mdb001\.pgm must be there"):
        fetch_films(target, None, {})


def test_a_missing_phantom_is_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `mammo phantom`"):
        fetch_raw(section(IngestConfig, source="phantom", raw="data/raw/phantom"), tmp_path, env={})


def test_the_source_decides_what_is_fetched(tmp_path: Path) -> None:
    wrong = copy_at(tmp_path / "copy.zip", b"wrong")
    with pytest.raises(DataError, match="must have the SHA-256 829115da28c5"):
        fetch_raw(section(IngestConfig), tmp_path, env={ROIS_VARIABLE: str(wrong)})
