from pathlib import Path

from artifacts import build_artifact

from model_store.store import ModelStore
from service.model_metrics import make_of, table_bytes


def test_the_make_of_a_version_and_the_bytes_of_its_tables(tmp_path: Path) -> None:
    build_artifact(tmp_path, compressed=False)
    build_artifact(tmp_path)
    store = ModelStore(tmp_path)
    plain, packed = store.manifest("ctr", 1), store.manifest("ctr", 2)
    assert make_of(plain)["codec"] == "float32"
    assert make_of(plain)["bits"] == "32"
    assert make_of(plain)["rank"] == "6"
    assert make_of(packed)["codec"] == "float16+int8_row+packed"
    assert make_of(packed)["digest12"] == packed.files["tables.safetensors"].sha256[:12]
    for manifest in (plain, packed):
        assert sum(table_bytes(manifest).values()) == manifest.bytes.payload
