"""docs/experiments.md says what the code does: its file loads, its tables are complete, its limits are the limits."""

import re
from pathlib import Path

from service.experiments.exposures import LIMIT_BYTES as EXPOSURE_BYTES
from service.experiments.outcomes import CLOCK_SKEW_S, Status
from service.experiments.shadow import LIMIT_BYTES as SHADOW_BYTES
from service.experiments.spec import ExperimentSpec, load_experiment
from service.experiments.state import EARLY_OUTCOME_KEPT_S, GRACE_S
from service.experiments.sums import SLICE_S
from service.routes.outcomes import MAX_OUTCOMES, OutcomeItem, read_outcomes

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "experiments.md").read_text()


def test_the_example_file_loads_and_shows_every_key(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    spec = load_experiment(path)
    assert spec.model_fields_set == set(ExperimentSpec.model_fields)
    assert (spec.seed, spec.maturity_s) == (spec.key, spec.window_s + 900)


def test_the_example_outcome_is_accepted() -> None:
    body = re.search(r"POST /v1/outcomes\n(.*)\n", PAGE)[1]
    items, faults = read_outcomes(body.encode(), 1.7e9 + 60)
    assert (len(items), faults) == (1, [])


def test_every_status_reason_and_field_is_explained() -> None:
    names = [*Status, *(set(OutcomeItem.model_fields) - {"outcome_id"}), "outcome_id"]
    names += ["hash", "fallback", "not_covered", "no_unit", "pinned", "no_experiment"]
    for name in names:
        assert f"`{name}`" in PAGE or f'"{name}' in PAGE, name


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    assert f"at most {SHADOW_BYTES // 2**20} MiB" in PAGE
    assert f"queue of {EXPOSURE_BYTES // 2**20} MiB" in PAGE
    assert f"{CLOCK_SKEW_S:.0f} s of clock skew" in PAGE
    assert f"kept for {EARLY_OUTCOME_KEPT_S / 60:.0f} minutes" in PAGE
    assert f"{MAX_OUTCOMES:,} outcomes" in PAGE
    assert (GRACE_S, SLICE_S) == (86_400, 300)
    assert "kept for a day beyond maturity" in PAGE
    assert "slices of five minutes" in PAGE
