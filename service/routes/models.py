"""`/v1/models`: what is in the store, what of it serves, and its bytes; loading and unloading single versions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from model_store.errors import StoreError
from model_store.manifest import Manifest
from model_store.names import ModelName, VersionText
from service.auth import requires
from service.errors import ModelControlDisabled, NotReady, UnknownName
from service.experiments import Experiments
from service.models.inputs import example_body
from service.pool import Pool
from service.versions import Version
from service.wire.documents import (
    ModelAnswer,
    ModelDetails,
    ModelsAnswer,
    StateAnswer,
    VersionAnswer,
    VersionBytes,
    VersionDetails,
)

Model = Annotated[ModelName, Path()]
VersionNumber = Annotated[VersionText, Path()]

router = APIRouter(tags=["models"], dependencies=[Depends(requires("infer"))])
control = APIRouter(tags=["models"], dependencies=[Depends(requires("admin"))])


@router.get("/v1/models")
async def models(request: Request) -> ModelsAnswer:
    """Return every model of the store: versions, states, labels, bytes and quality."""
    pool: Pool = request.app.state.pool
    await pool.refresh_memory()
    return ModelsAnswer(models=[await _model(pool, name) for name in await pool.catalog.models()])


@router.get("/v1/models/{model}")
async def model(request: Request, model: Model) -> ModelDetails:
    """Return one model: what `/v1/models` shows, the fields of each version, and a body that can be posted as it is."""
    pool: Pool = request.app.state.pool
    if not await pool.catalog.versions(model):
        raise UnknownName(
            f"model '{model}' is not in the store; it holds {', '.join(await pool.catalog.models())}"
        )
    await pool.refresh_memory()
    answer = await _model(pool, model)
    fields = await pool.catalog.fields(model, [int(version.version) for version in answer.versions])
    default = serving_version(request.app.state.experiments, pool, model)
    return ModelDetails(
        model=model,
        labels=answer.labels,
        versions=[
            VersionDetails(**version.model_dump(), fields=fields[int(version.version)])
            for version in answer.versions
        ],
        example=example_body(model, fields.get(default, [])),
    )


@control.post("/v1/models/{model}/versions/{version}/load")
async def load(request: Request, model: Model, version: VersionNumber) -> StateAnswer:
    """Load one version; answers when it is READY."""
    _check_model_control(request)
    pool: Pool = request.app.state.pool
    await pool.load_version(model, int(version))
    return StateAnswer(model=model, version=version, state=pool.version(model, int(version)).state)


@control.post("/v1/models/{model}/versions/{version}/unload")
async def unload(request: Request, model: Model, version: VersionNumber) -> StateAnswer:
    """Unload one version after its last request; 409 while a label or an experiment needs it."""
    _check_model_control(request)
    pool: Pool = request.app.state.pool
    await pool.unload_version(model, int(version))
    return StateAnswer(model=model, version=version, state="unloaded")


def serving_version(experiments: Experiments, pool: Pool, model: str) -> int:
    """Return the READY version that answers requests which only name the model; 0 when there is none."""
    try:
        number = experiments.default_version(model)
    except (UnknownName, NotReady):
        return 0
    return number if pool.scorer(model, number) is not None else 0


def _check_model_control(request: Request) -> None:
    if request.app.state.settings.model_control != "explicit":
        raise ModelControlDisabled("loading and unloading by request is off (model_control=none)")


async def _model(pool: Pool, name: str) -> ModelAnswer:
    known = {version.number: version for version in pool.known_versions(name)}
    manifests = await pool.catalog.manifests(name)
    labels = pool.labels(name)
    return ModelAnswer(
        model=name,
        labels={label: str(number) for label, number in sorted(labels.items())},
        versions=[
            _version(
                number,
                manifest,
                known.get(number),
                [label for label, to in sorted(labels.items()) if to == number],
            )
            for number, manifest in manifests.items()
        ],
    )


def _version(
    number: int, manifest: Manifest | StoreError, version: Version | None, labels: list[str]
) -> VersionAnswer:
    memory = {} if version is None else version.memory_bytes
    held = {kind: memory.get(kind) for kind in ("resident", "mapped", "shared")}
    state = "stored" if version is None else version.state
    reason = "" if version is None else version.reason
    if isinstance(manifest, StoreError):
        return VersionAnswer(
            version=str(number),
            state=state,
            reason=reason or str(manifest),
            labels=labels,
            created=None,
            method=[],
            codecs=[],
            bytes=VersionBytes(payload=None, artifact=None, **held),
            ratio_to_original={},
            evaluation={},
            fidelity={},
            parity_atol=None,
            parity_max_abs_logit_diff=None,
            digests={},
        )
    serving = None if version is None else version.serving
    originals = {"payload": manifest.bytes.original_payload, "artifact": manifest.bytes.original_artifact}
    sizes = {"payload": manifest.bytes.payload, "artifact": manifest.artifact_bytes}
    return VersionAnswer(
        version=manifest.version,
        state=state,
        reason=reason,
        labels=labels,
        created=manifest.created,
        method=list(manifest.method),
        codecs=sorted({table.codec for table in manifest.tables}),
        bytes=VersionBytes(**sizes, **held),
        ratio_to_original={
            kind: round(original / sizes[kind], 3)
            for kind, original in originals.items()
            if original is not None and sizes[kind]
        },
        evaluation=manifest.evaluation,
        fidelity=manifest.fidelity,
        parity_atol=manifest.parity_atol,
        parity_max_abs_logit_diff=None if serving is None else serving.parity_max_abs_logit_diff,
        digests={name: entry.sha256 for name, entry in manifest.files.items()},
    )
