"""The store: publish, resolve, labels, verify, remove, and what happens when several processes use it."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_store.errors import Conflict, IntegrityError, InvalidName, ManifestError, NotFound, StoreError
from model_store.manifest import Bytes, Draft, Network, Table
from model_store.store import ModelStore

FILES = ("tables.safetensors", "network.onnx", "vocabulary.safetensors", "golden.safetensors")
DRAFT = Draft(
    method=({"method": "ptq", "bits": 4},),
    features={"fields": []},
    tables=(Table(field="a", role="wide", codec="float32", rows=2, dim=1, column=0, codes="a"),),
    network=Network(width=1, opset=20),
    bytes=Bytes(payload=8, payload_by_role={"wide": 8}, artifact_by_component={}),
    base_vocabulary="0" * 64,
    encoder="1" * 64,
)


def write_files(folder: Path, content: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).write_text(name + content)
    return folder


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / "files")


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models", now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def test_a_published_version_reads_back(store, files):
    assert store.publish("ctr", files, DRAFT) == 1
    assert store.publish("ctr", files, DRAFT) == 2
    assert store.models() == ["ctr"]
    assert store.versions("ctr") == [1, 2]
    manifest = store.verify("ctr", 2)
    assert (manifest.model, manifest.version, manifest.created) == ("ctr", "2", "2026-01-02T03:04:05Z")
    assert manifest.model_dump(include=set(Draft.model_fields)) == DRAFT.model_dump()
    assert set(manifest.files) == set(FILES)
    assert manifest.artifact_bytes == sum((files / name).stat().st_size for name in FILES)
    assert (store.path("ctr", 2) / "network.onnx").read_text() == "network.onnx"


def test_published_files_are_copies_that_cannot_be_written(store, files):
    store.publish("ctr", files, DRAFT)
    published = store.path("ctr", 1) / "network.onnx"
    assert not published.samefile(files / "network.onnx")
    assert stat.S_IMODE(published.stat().st_mode) == 0o444


def test_an_empty_or_absent_store_holds_nothing(store, tmp_path):
    assert store.models() == []
    (tmp_path / "models").mkdir()
    assert store.models() == []
    assert store.versions("ctr") == []


def test_a_store_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NotFound, match=r"there is no model 'ctr': there is no store at '.*nowhere'"):
        ModelStore(tmp_path / "nowhere").resolve("ctr@1")


def test_a_failed_publish_leaves_nothing(store, files, tmp_path):
    (files / "golden.safetensors").unlink()
    with pytest.raises(ManifestError, match=r"golden\.safetensors is not listed"):
        store.publish("ctr", files, DRAFT)
    assert store.models() == []
    assert list((tmp_path / "models" / "ctr").iterdir()) == []


def test_the_gate_sees_the_version_first_and_can_refuse_it(store, files, tmp_path):
    def refuse(directory):
        assert store.versions("ctr") == []
        assert (directory / "manifest.json").exists()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.publish("ctr", files, DRAFT, gate=refuse)
    assert list((tmp_path / "models" / "ctr").iterdir()) == []
    seen = []
    store.publish("ctr", files, DRAFT, gate=seen.append)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "manifest", "hidden"])
def test_publish_takes_regular_files_only(kind, store, files):
    if kind == "link":
        (files / "extra").symlink_to(files / "network.onnx")
    elif kind == "folder":
        (files / "extra").mkdir()
    elif kind == "pipe":
        os.mkfifo(files / "extra")
    elif kind == "manifest":
        (files / "manifest.json").write_text("{}")
    else:
        (files / ".extra").write_text("")
    with pytest.raises((IntegrityError, InvalidName)):
        store.publish("ctr", files, DRAFT)
    assert store.versions("ctr") == []


def test_publish_from_nowhere(store, tmp_path):
    with pytest.raises(StoreError, match="cannot be listed"):
        store.publish("ctr", tmp_path / "absent", DRAFT)


def test_concurrent_publishers_get_distinct_versions(store, tmp_path):
    count = 12
    start = threading.Barrier(count)

    def publish(number):
        folder = write_files(tmp_path / f"files{number}", str(number))
        start.wait()
        return number, store.publish("ctr", folder, DRAFT)

    with ThreadPoolExecutor(count) as pool:
        published = list(pool.map(publish, range(count)))
    assert sorted(version for _, version in published) == list(range(1, count + 1))
    for number, version in published:
        store.verify("ctr", version)
        assert (store.path("ctr", version) / "network.onnx").read_text() == f"network.onnx{number}"


def test_an_overtaken_publisher_takes_the_next_number(store, files):
    def overtake(_):
        if not store.versions("ctr"):
            store.publish("ctr", files, DRAFT)

    assert store.publish("ctr", files, DRAFT, gate=overtake) == 2
    assert store.verify("ctr", 2).version == "2"


def test_resolve(store, files):
    for _ in range(3):
        store.publish("ctr", files, DRAFT)
    assert store.resolve("ctr") == ("ctr", 3)
    store.set_label("ctr", "stable", 2)
    store.set_label("ctr", "canary", 1)
    assert store.resolve("ctr") == ("ctr", 2)
    assert store.resolve("ctr@3") == ("ctr", 3)
    assert store.resolve("ctr@canary") == ("ctr", 1)
    for reference, reason in (
        ("other", "no model 'other'; models: ctr"),
        ("ctr@9", "no version 9; versions: 1, 2, 3; labels: canary → 1, stable → 2"),
        ("ctr@best", "no label 'best'"),
    ):
        with pytest.raises(NotFound, match=reason):
            store.resolve(reference)
    for reference in ("", "@1", "ctr@", "../ctr", "ctr/1", "ctr@0", "ctr@1/..", "stats", "ctr@-1"):
        with pytest.raises(InvalidName):
            store.resolve(reference)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../a", "a\0", "a\n", "stats", "é", "a" * 129]
)
def test_names_that_would_leave_the_store(name, store, files):
    for call in (
        lambda: store.versions(name),
        lambda: store.path(name, 1),
        lambda: store.labels(name),
        lambda: store.publish(name, files, DRAFT),
    ):
        with pytest.raises(InvalidName):
            call()


@pytest.mark.parametrize("version", [0, -1, 10**18, True, "../1"])
def test_versions_that_are_none(version, store):
    with pytest.raises(InvalidName):
        store.path("ctr", version)


def test_labels_move_one_revision_at_a_time(store, files):
    store.publish("ctr", files, DRAFT)
    store.publish("ctr", files, DRAFT)
    assert (store.labels("ctr").labels, store.labels("ctr").revision) == ({}, 0)
    assert store.set_label("ctr", "stable", 1).revision == 1
    assert store.set_label("ctr", "stable", 1).revision == 1
    assert store.set_label("ctr", "stable", 2, expected_revision=1).labels == {"stable": "2"}
    with pytest.raises(Conflict, match="revision 2, not 1"):
        store.set_label("ctr", "stable", 1, expected_revision=1)
    with pytest.raises(Conflict):
        store.remove_label("ctr", "stable", expected_revision=1)
    assert store.remove_label("ctr", "stable").labels == {}
    assert store.labels("ctr").revision == 3
    with pytest.raises(NotFound, match="no label 'stable'"):
        store.remove_label("ctr", "stable")
    with pytest.raises(NotFound, match="no version 9"):
        store.set_label("ctr", "stable", 9)
    with pytest.raises(NotFound):
        store.set_label("other", "stable", 1)
    with pytest.raises(NotFound):
        store.remove_label("other", "stable")
    with pytest.raises(InvalidName, match="not only digits"):
        store.set_label("ctr", "7", 1)


def test_of_concurrent_changes_none_is_lost(store, files):
    store.publish("ctr", files, DRAFT)
    count = 16
    start = threading.Barrier(count)

    def label(number):
        start.wait()
        store.set_label("ctr", f"label{number}", 1)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(label, range(count)))
    assert len(store.labels("ctr").labels) == store.labels("ctr").revision == count


def test_of_concurrent_conditional_changes_one_wins(store, files):
    store.publish("ctr", files, DRAFT)
    count = 8
    start = threading.Barrier(count)

    def label(number):
        start.wait()
        try:
            store.set_label("ctr", f"label{number}", 1, expected_revision=0)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        assert sum(pool.map(label, range(count))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"labels":{"stable":1},"revision":1}',
        '{"labels":{"stable":"0"},"revision":1}',
        '{"labels":{"../x":"1"},"revision":1}',
        '{"labels":{},"labels":{},"revision":1}',
        '{"labels":{},"revision":-1}',
        '{"labels":{},"revision":1,"note":""}',
    ],
)
def test_malformed_labels_are_refused(text, store, files, tmp_path):
    store.publish("ctr", files, DRAFT)
    (tmp_path / "models" / "ctr" / "labels.json").write_text(text)
    with pytest.raises(ManifestError, match=r"labels\.json"):
        store.labels("ctr")


def test_removed_versions_are_gone_and_their_numbers_too(store, files, tmp_path):
    store.publish("ctr", files, DRAFT)
    store.publish("ctr", files, DRAFT)
    store.set_label("ctr", "stable", 2)
    with pytest.raises(Conflict, match="labeled stable"):
        store.remove("ctr", 2)
    store.remove_label("ctr", "stable")
    store.remove("ctr", 2)
    assert store.versions("ctr") == [1]
    with pytest.raises(NotFound, match="no version 2"):
        store.remove("ctr", 2)
    assert not list((tmp_path / "models").rglob("2/*"))
    assert not list((tmp_path / "models").rglob(".removed-*/*"))
    assert store.publish("ctr", files, DRAFT) == 3


def test_links_in_place_of_folders_are_refused(store, files, tmp_path):
    store.publish("ctr", files, DRAFT)
    (tmp_path / "models" / "ctr" / "2").symlink_to(tmp_path / "models" / "ctr" / "1")
    (tmp_path / "models" / "copy").symlink_to(tmp_path / "models" / "ctr")
    assert store.versions("ctr") == [1]
    assert store.models() == ["ctr"]
    for model, version in (("ctr", 2), ("copy", 1)):
        with pytest.raises(IntegrityError, match="link"):
            store.path(model, version)


def test_a_version_under_another_name_is_refused(store, files, tmp_path):
    store.publish("ctr", files, DRAFT)
    (tmp_path / "models" / "ctr" / "1").rename(tmp_path / "models" / "ctr" / "5")
    with pytest.raises(IntegrityError, match="is that of ctr/1"):
        store.manifest("ctr", 5)


def test_only_local_roots():
    with pytest.raises(StoreError, match="'s3://bucket/models' is a URL of the scheme 's3'"):
        ModelStore("s3://bucket/models")
