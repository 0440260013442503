"""A publisher that dies at any of its steps leaves a store in which everything visible is whole, and can be repeated."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from artifacts import write_artifact

from model_store.seal import SEAL_SUFFIX
from model_store.storage import LocalStorage
from model_store.store import ModelStore

STEPS = ("open", "os.rename", "os.remove", "os.mkdir")
MAX_STEPS = 100


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return folder, write_artifact(folder)


@pytest.fixture
def root(files, tmp_path) -> Path:
    """A store with one labeled version."""
    store = ModelStore(tmp_path / "models")
    store.publish("ctr", *files)
    store.set_label("ctr", "stable", 1)
    return tmp_path / "models"


def die_at(step: int, root: Path, work) -> bool:
    """Do `work` in a process that is killed when it takes its `step`-th step below `root`; say whether it was."""
    child = os.fork()
    if child == 0:
        taken = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal taken
            if event in STEPS and isinstance(arguments[0], str | Path) and str(root) in str(arguments[0]):
                taken += 1
                if taken == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_publisher_that_is_killed_at_any_step_leaves_whole_versions_and_labels(files, root, tmp_path):
    def publish_and_label() -> None:
        store = ModelStore(root)
        store.set_label("ctr", "stable", store.publish("ctr", *files))

    shutil.copytree(root, tmp_path / "before")
    unsealed = 0
    for step in range(1, MAX_STEPS):
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "before", root)
        if not die_at(step, root, publish_and_label):
            break
        store = ModelStore(root)
        versions = store.versions("ctr")
        assert versions in ([1], [1, 2])
        for version in versions:
            store.open("ctr", version).close()
        unsealed += not store.is_sealed("ctr", versions[-1])
        labeled = int(store.labels("ctr").labels["stable"])
        assert store.is_sealed("ctr", labeled)
        publish_and_label()
        hidden = [path.name for path in (root / "ctr").iterdir() if path.name.startswith(".")]
        assert hidden == [], step
        newest = store.versions("ctr")[-1]
        assert store.labels("ctr").labels["stable"] == str(newest)
        assert store.is_sealed("ctr", newest)
    else:
        pytest.fail(f"publishing takes more than {MAX_STEPS} steps")
    assert step > 10
    assert unsealed > 0  # between the folder and its seal


def test_a_version_that_is_refused_by_its_gate_leaves_nothing(files, root):
    def gate(path: Path) -> None:
        raise ValueError(path.name)

    before = sorted(path.name for path in (root / "ctr").iterdir())
    with pytest.raises(ValueError, match="publish-"):
        ModelStore(root).publish("ctr", *files, gate=gate)
    assert (
        sorted(path.name for path in (root / "ctr").iterdir()) == before == ["1", "1.sha256", "labels.json"]
    )


@pytest.mark.parametrize("failing", ["write", "rename"])
def test_labels_that_cannot_be_written_stay_as_they_were(root, monkeypatch, failing):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = (root / "ctr" / "labels.json").read_bytes()
    if failing == "write":
        monkeypatch.setattr("os.fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        ModelStore(root).set_label("ctr", "canary", 1)
    assert (root / "ctr" / "labels.json").read_bytes() == before
    assert sorted(path.name for path in (root / "ctr").iterdir()) == ["1", "1.sha256", "labels.json"]


def test_a_seal_that_is_left_of_a_folder_deleted_by_hand_does_not_spoil_the_next_version(files, root):
    (root / "ctr" / "labels.json").unlink()
    shutil.rmtree(root / "ctr" / "1")
    store = ModelStore(root)
    assert (root / "ctr" / f"1{SEAL_SUFFIX}").is_file()
    version = store.publish("ctr", *files)
    assert store.is_sealed("ctr", version)
    store.open("ctr", version).close()


def test_two_publishers_of_one_number_get_a_seal_each(files, root, monkeypatch):
    real = LocalStorage.commit
    raced = []

    def lose_the_race(storage: LocalStorage, staged: Path, path: str) -> bool:
        if not raced:
            raced.append(path)
            ModelStore(root).publish("ctr", *files)
        return real(storage, staged, path)

    monkeypatch.setattr(LocalStorage, "commit", lose_the_race)
    store = ModelStore(root)
    assert store.publish("ctr", *files) == 3
    for version in (1, 2, 3):
        assert store.is_sealed("ctr", version)
        store.open("ctr", version).close()
