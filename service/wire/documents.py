"""The bodies of `/v1` as pydantic models: they document the API and check nothing on the scoring path."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.names import LabelName, ModelName, RequestId, UnitId, VersionText

Value = str | int | float | list[str | int] | None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _example(**body: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [body]})


class _Predict(_Body):
    model: ModelName | None = Field(None, description="default: the configured or only model")
    version: VersionText | None = Field(None, description="pins one version")
    label: LabelName | None = Field(None, description="default: the experiment decides, else `stable`")
    unit_id: UnitId | None = Field(None, description="hashed identity that keeps its variant")
    request_id: RequestId | None = Field(
        None, description="names the answer in outcomes; default: a random one"
    )
    include: list[Literal["logits", "oov_rows", "timing"]] | None = None


class PredictRows(_Predict):
    """One object per row."""

    model_config = _example(
        unit_id="u19", instances=[{"site": "a", "price": 1.5, "tags": ["x", "y"]}, {"site": "b"}]
    )

    instances: list[dict[str, Value]]


class PredictColumns(_Predict):
    """One list per field, all of the same length."""

    model_config = _example(columns={"site": ["a", "b"], "price": [1.5, None], "tags": [["x", "y"], []]})

    columns: dict[str, list[Value]]


class PredictSlate(_Predict):
    """One context and its candidates; no field may be in both."""

    model_config = _example(
        unit_id="u19", context={"user": "u19", "hour": 14}, candidates=[{"ad": "7"}, {"ad": "9"}]
    )

    context: dict[str, Value]
    candidates: list[dict[str, Value]]


PREDICT_FORMS = (PredictRows, PredictColumns, PredictSlate)


class ExperimentReference(_Body):
    """Which experiment chose the variant, and why."""

    key: str
    revision: int | None
    reason: str


class OutOfVocabulary(_Body):
    """Values that no training row had, scored with the out-of-vocabulary row of their field."""

    total: int
    by_field: dict[str, int]


class Timing(_Body):
    """Where the time of the request went."""

    input_ms: float
    queue_ms: float
    lookup_ms: float
    infer_ms: float


class PredictAnswer(_Body):
    """`scores[i]` belongs to row or candidate i: the click probability as the shortest decimal of its float32."""

    request_id: str
    model: str
    version: str
    label: str | None
    variant: str
    scores: list[float]
    experiment: ExperimentReference | None
    oov: OutOfVocabulary
    defaulted_rows: int
    logits: list[float] | None = None
    oov_rows: list[int] | None = None
    timing: Timing | None = None


class VersionBytes(_Body):
    """Bytes of one version: table codes, all files, held by this process; mapped and shared of its files."""

    payload: int | None
    artifact: int | None
    resident: int | None
    mapped: int | None
    shared: int | None


class FieldAnswer(_Body):
    """A field of a row: what it takes, how a missing value is sent, and a value of a golden row, if one was kept."""

    name: str
    kind: Literal["categorical", "numeric"] = Field(
        description="categorical: strings, whole numbers, booleans; numeric: finite numbers"
    )
    multivalued: bool = Field(description="a list of values per row")
    required: bool
    missing: str = Field(description="what a row has in place of a value")
    example: Any = Field(None, description="null for versions without golden values")


class VersionAnswer(_Body):
    """One version of a model; what only the manifest knows is null or empty where the manifest is refused."""

    version: str
    state: str
    reason: str
    labels: list[str]
    created: str | None
    method: list[dict[str, Any]]
    codecs: list[str]
    bytes: VersionBytes
    ratio_to_original: dict[str, float]
    evaluation: dict[str, float]
    fidelity: dict[str, float]
    parity_atol: float | None
    parity_max_abs_logit_diff: float | None
    digests: dict[str, str]


class ModelAnswer(_Body):
    """A model with its labels and versions."""

    model: str
    labels: dict[str, str]
    versions: list[VersionAnswer]


class VersionDetails(VersionAnswer):
    """One version with the fields of its rows; none where the manifest is refused."""

    fields: list[FieldAnswer]


class ModelDetails(ModelAnswer):
    """A model and what to send to it: `example` is a body of `POST /v1/predict` that is scored as it is."""

    versions: list[VersionDetails]  # type: ignore[assignment]
    example: dict[str, Any] | None = Field(
        description="null while the version that answers by default does not serve or has no golden values"
    )


class ModelsAnswer(_Body):
    """Every model of the store."""

    models: list[ModelAnswer]


class StateAnswer(_Body):
    """The state of one version after a change."""

    model: str
    version: str
    state: str


class ProblemAnswer(BaseModel):
    """RFC 9457 problem document; `error` repeats the detail."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    request_id: str
    errors: list[dict[str, str]] | None = None
