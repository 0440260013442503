"""The measurement of default training: who is measured, the regression's rows, and what the page says of records."""

import json

import numpy as np

from benchmarks.training.__main__ import RESULTS
from benchmarks.training.logistic import one_hot
from benchmarks.training.quality import REGRESSION, contestants
from benchmarks.training.report import page
from slimctr.clicklogs.dataset import Split
from slimctr.features import EncodedBatch


def test_the_regression_is_always_measured_and_the_defaults_of_before_when_asked_for():
    assert contestants(["deepfm"], False) == [(REGRESSION, ""), ("auto", "deepfm")]
    assert contestants(["deepfm"], True) == [(REGRESSION, ""), ("before", "deepfm"), ("auto", "deepfm")]


def test_a_one_hot_row_has_a_one_at_every_id():
    split = Split(np.zeros(2, np.float32), EncodedBatch.uncounted(np.array([[0, 2], [1, 0]], np.int32), ()))
    rows = one_hot(split, np.array([0, 3, 6]))
    assert rows.toarray().tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0]]


def test_the_page_has_a_line_for_every_log_and_contestant():
    records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    lines = [line for line in page(records).splitlines() if line.startswith("| ")][2:]
    groups = {(record["log"], record["settings"], record["network"]) for record in records}
    assert len(lines) == len(groups)
    for log, settings, network in groups:
        (line,) = (
            line for line in lines if line.startswith(f"| {log} |") and f"| {settings} | {network} |" in line
        )
        aucs = [
            record["test"]["auc"]
            for record in records
            if (record["log"], record["settings"], record["network"]) == (log, settings, network)
        ]
        assert f"| {np.mean(aucs):.3f}" in line
