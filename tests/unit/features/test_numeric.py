import math

import numpy as np
import pytest

from slimctr.features import MISSING, Bucketing, FeatureSchema, bucket_log_column
from slimctr.features.numeric import bucket_numbers

LOG_SQUARED = Bucketing(kind="log_squared")


@pytest.mark.parametrize(
    ("value", "bucket"),
    [
        (-3, -3),
        (-0.5, 0),
        (0, 0),
        (1, 1),
        (1.9, 1),
        (2, 2),
        (2.5, 0),
        (3, 1),
        (8, 4),
        (1382, 52),
        (1e300, 477170),
    ],
)
def test_log_squared_is_criteos_rule(value, bucket):
    expected = math.floor(math.log(value) ** 2) if value > 2 else int(value)
    assert bucket_numbers(np.array([value], float), LOG_SQUARED).tolist() == [bucket] == [expected]


def test_everything_far_below_zero_shares_one_bucket():
    assert bucket_numbers(np.array([-1e300, -1e17]), LOG_SQUARED).tolist() == [-(2**53) + 1] * 2


def test_edges_belong_to_the_bucket_above():
    bucketing = Bucketing(kind="edges", edges=(0.0, 10.0))
    numbers = np.array([-1.0, 0.0, 9.9, 10.0, 1e9])
    assert bucket_numbers(numbers, bucketing).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("bucketing", [LOG_SQUARED, Bucketing(kind="edges", edges=(0.0,))])
def test_nan_is_missing_without_a_warning(bucketing):
    assert bucket_numbers(np.array([np.nan, 1.0]), bucketing).tolist() == [MISSING, 1]


def test_a_log_column_is_bucketed_by_its_field():
    fields = [{"name": "n", "kind": "numeric", "bucketing": {"kind": "log_squared"}}]
    schema = FeatureSchema.parse({"fields": [*fields, {"name": "c", "kind": "categorical"}]})
    assert bucket_log_column(schema.fields[0], np.array([8.0, np.nan])).tolist() == [4, MISSING]
    with pytest.raises(ValueError, match="'c' is not numeric"):
        bucket_log_column(schema.fields[1], np.array([8.0]))
