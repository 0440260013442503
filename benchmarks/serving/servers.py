"""The servers: how each is started, what it is asked, what it holds in memory."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.large_models import model_name
from benchmarks.serving.bodies import JSON_LENGTH, content_type_of, encode, scores_of
from benchmarks.serving.model import IDS, Files

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
OURS = {
    "SLIMCTR_INSECURE": "true",
    "SLIMCTR_LOG_LEVEL": "warning",
    # 32 clients with 1,000 rows each wait in the queue instead of being refused, as with the other servers.
    "SLIMCTR_MAX_QUEUE_ROWS": "65536",
    "SLIMCTR_DEFAULT_DEADLINE_MS": "10000",
    "SLIMCTR_DRAIN_DELAY_S": "0",
}


@dataclass(frozen=True)
class Config:
    """A server: its program, the body forms it takes with their paths, and the model it scores.

    `scores` is "float", the name of a compressed variant, or None for a server that scores nothing.
    `environment` of None: a virtual environment under the work folder, named like the server.
    """

    name: str
    meaning: str
    arguments: tuple[str, ...]
    paths: Mapping[str, str]
    scores: str | None = "float"
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: str | None = None

    def python(self, work: Path) -> Path:
        """The interpreter it runs in."""
        return (
            Path(sys.executable) if self.environment is None else work / self.environment / "bin" / "python"
        )


UVICORN = (
    "-m",
    "uvicorn",
    "benchmarks.serving.plain:app",
    "--port",
    "PORT",
    "--no-access-log",
    "--log-level",
    "warning",
)
OUR_COMMAND = (
    ("-m", "slimctr", "serve", "--store", "STORE", "--port", "PORT"),
    {
        "columns": "/v1/predict",
        "rows": "/v1/predict",
        "arrow": "/v1/predict",
        "binary": f"/v2/models/{model_name(IDS)}/infer",
    },
)
CONFIGS = {
    config.name: config
    for config in (
        Config(
            "slimctr", "this service, 8-bit rank-8 tables, layers of rank 64", *OUR_COMMAND, "pca_8bit", OURS
        ),
        Config(
            "slimctr_narrow",
            "this service, 8-bit rank-8 tables, layers of ranks 24, 20, 20",
            *OUR_COMMAND,
            "pca_8bit_narrow",
            OURS,
        ),
        Config(
            "empty",
            "FastAPI route that reads the body and answers a constant",
            UVICORN,
            {"columns": "/score", "rows": "/score", "binary": "/score"},
            scores=None,
            variables={"BENCH_ROUTE": "empty"},
        ),
        Config(
            "empty_parsed",
            "FastAPI route that has FastAPI parse the JSON and answers a constant",
            UVICORN,
            {"columns": "/score", "rows": "/score"},
            scores=None,
            variables={"BENCH_ROUTE": "empty_parsed"},
        ),
        Config(
            "fastapi_torch",
            "FastAPI, pydantic, torch (`async def`), float model, row ids",
            UVICORN,
            {"ids": "/score"},
            variables={"BENCH_ROUTE": "torch"},
        ),
        Config(
            "fastapi_onnxruntime",
            "FastAPI, pydantic, onnxruntime (`async def`), float model, row ids",
            UVICORN,
            {"ids": "/score"},
            variables={"BENCH_ROUTE": "onnxruntime"},
        ),
        Config(
            "litserve",
            "LitServe with batching, torch, float model, row ids",
            ("-m", "benchmarks.serving.peers.litserve_server"),
            {"ids": "/predict"},
            environment="litserve",
        ),
        Config(
            "mlserver",
            "MLServer (Open Inference Protocol, JSON), torch, float model, row ids",
            ("-c", "from mlserver.cli import main; main()", "start", "RUN"),
            {"oip_json": "/v2/models/deepfm/infer"},
            environment="mlserver",
        ),
    )
}


class Server:
    """One running server, pinned to one core."""

    def __init__(self, config: Config, files: Files, core: int) -> None:
        self.config = config
        self.port = _free_port()
        self._run = files.work / "run" / config.name
        self._run.mkdir(parents=True, exist_ok=True)
        if config.environment == "mlserver":
            self._configure_mlserver()
        store = files.store(config.scores or "")
        places = {"PORT": str(self.port), "STORE": str(store), "RUN": str(self._run)}
        arguments = [places.get(argument, argument) for argument in config.arguments]
        self._log = (self._run / "log").open("w")
        self._begin = time.perf_counter()
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), str(config.python(files.work)), *arguments],
            cwd=self._run,
            env={
                **os.environ,
                **config.variables,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                "BENCH_TORCH": str(files.torch),
                "BENCH_ONNX": str(files.onnx),
                "BENCH_PORT": str(self.port),
            },
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        members = self._members()
        self.resume()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for pid in members:  # helpers that outlive the process that started them
            if pid in self._members():
                os.kill(pid, signal.SIGKILL)
        self._log.close()

    def wait_until_ready(self, ids: NDArray[np.int32], names: tuple[str, ...]) -> None:
        """Poll with one row until it is scored; `ready_s` is the time since the start of the process."""
        form = next(iter(self.config.paths))
        while time.perf_counter() - self._begin < START_SECONDS:
            if self._process.poll() is not None:
                break
            try:
                self.ask(form, ids[:1], names)
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            self.ready_s = time.perf_counter() - self._begin
            return
        raise RuntimeError(f"{self.config.name} did not start: see {self._run / 'log'}")

    def ask(self, form: str, ids: NDArray[np.int32], names: tuple[str, ...]) -> NDArray[np.float32]:
        """Return the scores of `ids`; raises ValueError for an answer that is not 200."""
        body, json_bytes = encode(form, ids, names)
        headers = {"Content-Type": content_type_of(form)}
        if json_bytes is not None:
            headers[JSON_LENGTH] = str(json_bytes)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", self.config.paths[form], body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{self.config.name} answers {response.status}: {answer[:200]!r}")
        return scores_of(answer, response.headers.get(JSON_LENGTH))

    def pause(self) -> None:
        """Stop all its processes where they are: some peers spin while they wait for requests."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its processes go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._members():
            os.kill(pid, number)

    def pss_bytes(self) -> tuple[int, int]:
        """Return the proportional set size of all its processes, and their number."""
        sizes = []
        for pid in self._members():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
            sizes.append(1024 * int(found[1]) if found else 0)
        return sum(sizes), len(sizes)

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        ticks = 0
        for pid in self._members():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _members(self) -> list[int]:
        """Processes of the session that was started for this server."""
        members = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == self._process.pid:
                    members.append(int(entry.name))
            except ProcessLookupError:
                continue
        return members

    def _configure_mlserver(self) -> None:
        settings = {
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": _free_port(),
            "metrics_port": _free_port(),
            "debug": False,
            "parallel_workers": 1,
        }
        model = {
            "name": "deepfm",
            "implementation": "benchmarks.serving.peers.mlserver_runtime.ScoreModel",
            "max_batch_size": 32,
            "max_batch_time": 0.002,
        }
        (self._run / "settings.json").write_text(json.dumps(settings))
        (self._run / "model-settings.json").write_text(json.dumps(model))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
