"""Every setting of the service: `SLIMCTR_…` variables or arguments, checked once, then frozen."""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.local_path import remote_fault
from model_store.names import LabelName, ModelName

PREFIX = "SLIMCTR_"
# Variables with our prefix that are not settings of the service: the data root of the tools and tests.
OTHER_VARIABLES = frozenset({"SLIMCTR_DATA"})

Scope = Literal["infer", "outcomes", "admin", "metrics"]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Milliseconds = Annotated[int, Field(ge=1, le=600_000)]
PositiveInt = Annotated[int, Field(ge=1)]


class ApiKey(BaseModel):
    """One caller: the SHA-256 digest of its key (never the key) and what the key may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]


class Settings(BaseSettings):
    """The configuration of one service process; docs/serving.md explains every entry."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    store: Path = Path("models")
    default_model: ModelName | None = None
    required_labels: tuple[LabelName, ...] = ("stable",)
    experiment: Path | None = None
    state_url: str = "sqlite:///state/slimctr.sqlite3"
    model_control: Literal["none", "explicit"] = "none"
    label_poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 65
    receive_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    send_timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    drain_delay_s: Seconds = 5.0
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0

    max_body_bytes: PositiveInt = 16 * 1024 * 1024
    max_decompressed_bytes: PositiveInt = 64 * 1024 * 1024
    max_pending_body_bytes: PositiveInt = 256 * 1024 * 1024
    max_request_rows: PositiveInt = 10_000
    max_batch_rows: PositiveInt = 2_048
    max_queue_rows: PositiveInt = 16_384
    default_deadline_ms: Milliseconds = 1_000
    max_deadline_ms: Milliseconds = 10_000
    compute_threads: Annotated[int, Field(ge=1, le=256)] = 1
    intra_op_threads: Annotated[int, Field(ge=1, le=256)] = 1
    unknown_fields: Literal["error", "ignore"] = "error"

    api_keys: tuple[ApiKey, ...] = ()
    insecure: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("*")
    @classmethod
    def _paths_are_local(cls, value: object) -> object:
        if isinstance(value, Path) and (fault := remote_fault(value)):
            raise ValueError(fault)
        return value

    @field_validator("state_url")
    @classmethod
    def _known_backend(cls, url: str) -> str:
        scheme = url.partition(":")[0]  # the rest may hold a password, which no message shows
        if url.startswith("sqlite:///"):
            if url == "sqlite:///":
                raise ValueError("state_url names no file: use sqlite:///PATH")
            if fault := remote_fault(url.removeprefix("sqlite:///")):
                raise ValueError(f"state_url is a file {fault}")
        elif url.startswith(("redis://", "rediss://")):
            try:
                parts = urlsplit(url)
                usable = parts.port != 0 and re.fullmatch(r"/?[0-9]*", parts.path)
            except ValueError:
                usable = None
            if not usable:
                raise ValueError(
                    f"state_url is no address of a server: use {scheme}://HOST:PORT/DB or "
                    f"{scheme}://USER:PASSWORD@HOST:PORT/DB, with %2F, %23, %3F and %40 for / # ? @ in a password"
                )
        else:
            raise ValueError(
                f"state_url '{scheme}:…' names no known backend: use sqlite:///PATH or redis://HOST:PORT/DB"
            )
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_deadline_ms > self.max_deadline_ms:
            raise ValueError(
                f"default_deadline_ms ({self.default_deadline_ms}) is above "
                f"max_deadline_ms ({self.max_deadline_ms})"
            )
        if self.max_body_bytes + self.max_decompressed_bytes > self.max_pending_body_bytes:
            raise ValueError(
                f"max_pending_body_bytes ({self.max_pending_body_bytes}) has no room for one body of max_body_bytes "
                f"({self.max_body_bytes}) and what it becomes, max_decompressed_bytes ({self.max_decompressed_bytes})"
            )
        if self.max_request_rows > self.max_queue_rows:
            raise ValueError(
                f"max_request_rows ({self.max_request_rows}) is above "
                f"max_queue_rows ({self.max_queue_rows}): such a request could never be queued"
            )
        if self.drain_delay_s >= self.shutdown_timeout_s:
            raise ValueError(
                f"drain_delay_s ({self.drain_delay_s}) leaves nothing of "
                f"shutdown_timeout_s ({self.shutdown_timeout_s})"
            )
        if self.model_control == "explicit" and self.workers > 1:
            raise ValueError(
                f"model_control=explicit needs workers=1, not {self.workers}: a request reaches one worker only"
            )
        if self.api_keys and self.insecure:
            raise ValueError("api_keys and insecure exclude each other: drop one of them")
        if not self.api_keys and not self.insecure:
            raise ValueError(
                "no api_keys: give SHA-256 digests of keys with their scopes, "
                "or set insecure on a loopback address"
            )
        if self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"insecure is allowed on a loopback address only, not on '{self.host}': configure api_keys"
            )
        return self


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a complaint, with the nearest name, for each `SLIMCTR_…` variable that is no setting."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    complaints = []
    for name in sorted(set(environment)):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            complaints.append(f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else ""))
    return complaints
