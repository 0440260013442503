"""The metrics: names, labels, registries of their own, removal, and worker processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.metrics import Metrics
from service.telemetry.process_memory import ProportionalMemoryCollector, parse_pss_bytes

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def defined(metrics: Metrics) -> dict[str, Counter | Gauge | Histogram]:
    return {
        name: value for name, value in vars(metrics).items() if isinstance(value, Counter | Gauge | Histogram)
    }


def test_the_attribute_is_the_name_without_the_prefix() -> None:
    for attribute, metric in defined(Metrics()).items():
        exported = metric.describe()[0].name + ("_total" if isinstance(metric, Counter) else "")
        assert exported.removeprefix("slimctr_") == attribute
        assert exported.startswith(("slimctr_", "http_server_"))


def test_every_registered_metric_is_an_attribute_or_about_the_process() -> None:
    metrics = Metrics()
    attributes = {metric.describe()[0].name for metric in defined(metrics).values()}
    others = {family.name for family in metrics.collect()} - attributes
    assert all(name.startswith(("process_", "slimctr_process_")) for name in others)


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.shed_total.labels(reason="deadline").inc()
    key = ("slimctr_shed_total", (("reason", "deadline"),))
    assert samples(first)[key] == 1
    assert key not in samples(second)


def test_the_text_parses_and_has_no_created_series() -> None:
    metrics = Metrics(revision="abc123")
    metrics.request_duration_seconds.labels(model="ctr", variant="int4").observe(0.004)
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    build = families["slimctr_build_info"].samples[0].labels
    assert build["revision"] == "abc123"
    assert build["runtime"].startswith("onnxruntime-")
    names = {sample.name for family in families.values() for sample in family.samples}
    assert "slimctr_request_duration_seconds_bucket" in names
    assert not [name for name in names if name.endswith("_created")]


def test_latency_buckets_resolve_milliseconds() -> None:
    metrics = Metrics()
    metrics.request_duration_seconds.labels("ctr", "a").observe(0.0012)
    metrics.queue_duration_seconds.labels("ctr", "a").observe(0.00007)
    found = samples(metrics)
    request = (
        "slimctr_request_duration_seconds_bucket",
        (("le", "0.002"), ("model", "ctr"), ("variant", "a")),
    )
    below = ("slimctr_request_duration_seconds_bucket", (("le", "0.001"), ("model", "ctr"), ("variant", "a")))
    queue = ("slimctr_queue_duration_seconds_bucket", (("le", "0.0001"), ("model", "ctr"), ("variant", "a")))
    assert (found[request], found[below], found[queue]) == (1, 0, 1)


def test_forgetting_a_version_removes_its_series_and_keeps_the_others() -> None:
    metrics = Metrics()
    for version in (1, 2):
        metrics.model_ready.labels("ctr", version).set(1)
        metrics.model_memory_bytes.labels("ctr", version, "payload").set(10)
        metrics.table_payload_bytes.labels("ctr", version, "ad", "int8_row").set(10)
        metrics.inference_rows_total.labels("ctr", version, "stable").inc()
        metrics.label_info.labels("ctr", "stable", version).set(1)
    metrics.model_ready.labels("other", 1).set(1)
    metrics.forget_version("ctr", 1)
    left = {
        (name, dict(labels).get("model"), dict(labels).get("version")) for name, labels in samples(metrics)
    }
    assert not [entry for entry in left if entry[1:] == ("ctr", "1")]
    assert ("slimctr_model_ready", "ctr", "2") in left
    assert ("slimctr_model_ready", "other", "1") in left


def test_a_label_points_to_one_version() -> None:
    metrics = Metrics()
    metrics.move_label("ctr", "stable", 1)
    metrics.move_label("ctr", "canary", 2)
    metrics.move_label("ctr", "stable", 2)
    metrics.move_label("ctr", "canary", None)
    pointing = [dict(labels) for name, labels in samples(metrics) if name == "slimctr_label_info"]
    assert pointing == [{"model": "ctr", "label": "stable", "version": "2"}]


def test_series_stay_within_the_budget_for_three_variants_and_39_fields() -> None:
    metrics = Metrics()
    for metric in defined(metrics).values():
        labels = metric._labelnames
        sizes = {
            "field": 39,
            "variant": 3,
            "version": 3,
            "window": 1,
            "kind": 4,
            "outcome": 3,
            "reason": 5,
            "codec": 1,
        }
        combinations = [[]]
        for label in labels:
            combinations = [[*left, str(i)] for left in combinations for i in range(sizes.get(label, 1))]
        # A variant is served by one version: do not multiply the two.
        if "variant" in labels and "version" in labels:
            variant, version = labels.index("variant"), labels.index("version")
            combinations = [values for values in combinations if values[variant] == values[version]]
        for values in combinations:
            if labels:
                metric.labels(*values)
    assert len(samples(metrics)) <= 3000


def test_proportional_memory_comes_from_the_kernels_text(tmp_path: Path) -> None:
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("00 ---p [rollup]\nRss:  9 kB\nPss:                 329 kB\nPss_Dirty:  1 kB\n")
    (family,) = ProportionalMemoryCollector(rollup).collect()
    assert family.samples[0].value == 329 * 1024
    assert list(ProportionalMemoryCollector(tmp_path / "absent").collect()) == []
    assert parse_pss_bytes("Rss: 1 kB") is None


WORKER = """
import json, os, sys
from service.telemetry.metrics import Metrics
metrics = Metrics(revision="r")
if sys.argv[1] == "work":
    metrics.inference_rows_total.labels("ctr", 1, "stable").inc(5)
    metrics.pending_rows.labels("ctr").set(2)
    metrics.model_ready.labels("ctr", 1).set(1)
    metrics.model_ready.labels("ctr", 2).set(1)
    metrics.move_label("ctr", "stable", 1)
    metrics.move_label("ctr", "stable", 2)
    metrics.forget_version("ctr", 1)
    print("done", flush=True)
    sys.stdin.read()
else:
    print(json.dumps([[s.name, s.labels, s.value] for f in metrics.collect() for s in f.samples]))
"""


def test_workers_add_up_in_multiprocess_mode(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, "work"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "done\n"
        scrape = subprocess.run(
            [*command, "scrape"], env=environment, capture_output=True, text=True, check=True
        )
    finally:
        for worker in workers:
            worker.communicate()
    values = {
        (name, tuple(sorted(labels.items()))): value for name, labels, value in json.loads(scrape.stdout)
    }
    model = ("model", "ctr")
    assert values["slimctr_inference_rows_total", (model, ("variant", "stable"), ("version", "1"))] == 10
    assert values["slimctr_pending_rows", (model,)] == 4
    assert values["slimctr_model_ready", (model, ("version", "1"))] == 0
    assert values["slimctr_model_ready", (model, ("version", "2"))] == 1
    assert values["slimctr_label_info", (("label", "stable"), model, ("version", "1"))] == 0
    assert values["slimctr_label_info", (("label", "stable"), model, ("version", "2"))] == 1


@pytest.mark.parametrize(
    "name", ["queue", "compute_input", "embedding_lookup", "compute_infer", "compute_output"]
)
def test_the_five_stages_share_their_labels(name: str) -> None:
    histogram = getattr(Metrics(), f"{name}_duration_seconds")
    assert histogram._labelnames == ("model", "variant")
