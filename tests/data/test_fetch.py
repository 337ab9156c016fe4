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
from mammo.core.files import Workspace
from mammo.data.fetch import VARIABLES, fetch_films, fetch_raw, fetch_rois
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


@pytest.mark.parametrize("first", range(4))
def test_the_named_copy_comes_first_then_the_variables_then_what_is_there_then_the_network(
    site: tuple[Path, str], tmp_path: Path, target: Path, first: int
) -> None:
    here = [tmp_path / "named.zip", tmp_path / "variable.zip", target, site[0] / "MIAS_ROIs.zip"]
    for rank, path in enumerate(here):
        if rank >= first:
            copy_at(path, CONTENT if rank == first else b"other")
    named, env = here[0] if first == 0 else None, {VARIABLES["mias_rois"]: str(here[1])} if first <= 1 else {}
    fetch_rois(target, named, env, f"{site[1]}/MIAS_ROIs.zip", SHA256)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("damaged.zip", "must have the SHA-256 .*, got .* nothing was kept"),
        ("half/MIAS_ROIs.zip", "cannot be downloaded .*; download .* on another machine"),
        ("missing.zip", "cannot be downloaded .*404.*; download .* on another machine"),
    ],
)
def test_a_download_that_fails_leaves_nothing(site: tuple[Path, str], target: Path, path: str, reason: str) -> None:
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
    with pytest.raises(DataError, match="got another file; delete it"):
        fetch_rois(target, None, {}, NOWHERE, SHA256)
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("address", [NOWHERE, "http://no-such-host.invalid/MIAS_ROIs.zip"])
def test_without_a_network_the_error_names_url_place_and_variable(
    target: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError) as refused:
        fetch_rois(target, None, {}, address, SHA256)
    assert all(part in str(refused.value) for part in (address, str(target), "MAMMO_MIAS_ROIS"))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("from_network", [True, False])
def test_a_full_disk_leaves_the_old_copy_and_no_half_one(
    site: tuple[Path, str], tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, from_network: bool
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
def test_a_named_copy_that_is_no_file_is_an_error(tmp_path: Path, target: Path, by_archive: bool) -> None:
    for path, rule in (
        (tmp_path / "missing.zip", r"missing\.zip: does not exist; correct the path or leave it out"),
        (tmp_path, "name the archive file itself"),
        (Path(), "name the archive file itself"),
    ):
        archive, env = (path, {}) if by_archive else (None, {VARIABLES["mias_rois"]: str(path)})
        with pytest.raises(DataError, match=rule):
            fetch_rois(target, archive, env, NOWHERE, SHA256)


def test_films_are_checked_and_copied_from_an_archive_or_a_folder_without_strangers(
    tmp_path: Path, phantom_folder: Path
) -> None:
    packed = tmp_path / "copy.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
        archive.add(phantom_folder, "")
    holder = copy_at(tmp_path / "holder" / "all-mias.tar.gz", packed.read_bytes()).parent
    for number, named in enumerate((packed, holder)):
        of_archive = copy_at(tmp_path / f"archive {number}" / "README.md", b"stays").parent
        for _ in range(2):
            fetch_films(of_archive, None, {VARIABLES["mini_mias"]: str(named)})
        found = {path.name: path.read_bytes() for path in of_archive.iterdir()}
        assert found == {"README.md": b"stays", "all-mias.tar.gz": packed.read_bytes()}
    of_folder = copy_at(tmp_path / "folder" / "README.md", b"stays").parent
    fetch_films(of_folder, phantom_folder, {})
    expected = {path.name: path.read_bytes() for path in phantom_folder.iterdir()} | {"README.md": b"stays"}
    del expected["phantom.json"]
    assert {path.name: path.read_bytes() for path in of_folder.iterdir()} == expected


def test_films_that_a_variable_names_are_brought_once_from_a_folder_too(tmp_path: Path, phantom_folder: Path) -> None:
    for _ in range(2):
        fetch_films(tmp_path / "films", None, {VARIABLES["mini_mias"]: str(phantom_folder)})
    assert (tmp_path / "films" / "mdb001.pgm").is_file()


def test_the_archive_brings_the_films_along_where_a_copy_is_named(
    tmp_path: Path, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mammo.data.fetch.fetch_rois", lambda target, copy, env: None)
    workspace = Workspace(tmp_path)
    assert fetch_raw(section(IngestConfig), workspace, env={}) == [workspace.raw("mias_rois")]
    both = [workspace.raw("mias_rois"), workspace.films]
    assert fetch_raw(section(IngestConfig), workspace, env={VARIABLES["mini_mias"]: str(phantom_folder)}) == both
    assert (workspace.films / "mdb001.pgm").is_file()


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("mini_mias", r"Mammographic Image Analysis Society's page .* MAMMO_MINI_MIAS"),
        ("phantom", "run `mammo phantom`"),
    ],
)
def test_films_are_never_downloaded_and_the_error_says_where_to_get_them(
    tmp_path: Path, source: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=remedy):
        fetch_raw(section(IngestConfig, source=source), Workspace(tmp_path), env={})


def test_films_in_place_are_checked(tmp_path: Path, phantom_folder: Path) -> None:
    target = tmp_path / "all-mias"
    fetch_films(target, phantom_folder, {})
    fetch_films(target, None, {})
    with pytest.raises(DataError, match="films are there already"):
        fetch_films(target, phantom_folder, {})
    (target / "mdb001.pgm").unlink()
    for incomplete, copy in ((target, None), (tmp_path / "raw", target)):
        with pytest.raises(DataError, match=r"mdb001\.pgm must be there"):
            fetch_films(incomplete, copy, {})
    assert not (tmp_path / "raw").exists()


def test_the_source_decides_what_is_fetched(tmp_path: Path) -> None:
    wrong = copy_at(tmp_path / "copy.zip", b"wrong")
    with pytest.raises(DataError, match="must have the SHA-256 829115da28c5"):
        fetch_raw(section(IngestConfig), Workspace(tmp_path), env={VARIABLES["mias_rois"]: str(wrong)})
