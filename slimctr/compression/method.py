"""The registry of compression methods: a name, its settings, and the function that makes a smaller model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimctr.compression.data import CompressionData
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, ModelSpec
from slimctr.networks.params import nearest
from slimctr.training import EpochRecord, TrainConfig
from slimctr.training.config import Epochs

Rate = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
ExtraEpochs = Annotated[int, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""What numbers of a setting may be. The ends keep products of them finite in float32."""


class Settings(BaseModel):
    """Settings of every method: frozen, unknown names refused.

    After the method, the model is trained on for `epochs` epochs at `learning_rate_factor` times the
    learning rate of the run; with `train_codes` false only the network, the bases and the means move. `kd_weight`
    is the weight, in the loss of those epochs, of the squared difference to the logits of the model given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: ExtraEpochs
    learning_rate_factor: Rate = 0.1
    train_codes: bool = True
    kd_weight: Weight = 0.0

    @model_validator(mode="after")
    def _imitation_takes_epochs(self) -> Self:
        if self.kd_weight and self.epochs == 0:
            raise ValueError("kd_weight works while epochs are trained, and epochs=0 trains none")
        return self

    def retraining(self, config: TrainConfig) -> TrainConfig | None:
        """Return how a model of a run trained by `config` is trained after the method, None when it is not."""
        if not self.epochs:
            return None
        return config.changed(
            epochs=self.epochs,
            learning_rate=config.learning_rate * self.learning_rate_factor,
            schedule="plateau",
        )


class FromScratchSettings(Settings):
    """Settings of a method that draws new weights and trains them as the run was trained.

    `epochs` and `learning_rate_factor` None: those of the run.
    """

    epochs: Epochs | None = None
    learning_rate_factor: Rate | None = None

    @model_validator(mode="after")
    def _initial_weights_are_trained(self) -> Self:
        if not self.train_codes:
            raise ValueError("training starts from initial weights: train_codes=false makes no sense")
        return self

    def retraining(self, config: TrainConfig) -> TrainConfig:
        """Return the configuration of the run, its full schedule included."""
        rate = config.learning_rate * (self.learning_rate_factor or 1.0)
        return config.changed(epochs=self.epochs or config.epochs, learning_rate=rate)


@dataclass(frozen=True)
class Outcome:
    """A smaller model, before any fine-tuning, and what is worth keeping about how it was made (JSON).

    A method that trains by itself hands over its epochs, and in `statistics` the `kept_epoch` of the model.
    """

    model: CtrModel
    statistics: dict[str, Any]
    history: tuple[EpochRecord, ...] = ()


Config = TypeVar("Config", bound=Settings)
Transform = Callable[[CtrModel, CompressionData, Config], Outcome]
Objection = Callable[[ModelSpec, Config], str | None]


@dataclass(frozen=True)
class Method:
    """A registered method. `objection` says why it may not follow what was done before, or None.

    `takes_mapped` says that it works on tables that lost rows, `takes_low_precision` that it works on a network
    whose weights are rounded.
    """

    name: str
    config: type[Settings]
    transform: Transform[Any]
    objection: Objection[Any]
    takes_mapped: bool = False
    takes_low_precision: bool = False

    def configure(self, settings: Mapping[str, Any]) -> Settings:
        """Check settings and fill in defaults. Raises CompressionError naming the setting."""
        for name in settings:
            if name not in self.config.model_fields:
                raise CompressionError(
                    f"method '{self.name}' has no setting {name!r}{nearest(name, self.config.model_fields)}; "
                    f"it has {', '.join(self.config.model_fields)}"
                )
        try:
            return self.config(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            told = f"{first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
            what = f"setting '{where}'" if where else "settings"
            raise CompressionError(f"{what} of method '{self.name}': {told}") from None

    def apply(self, model: CtrModel, data: CompressionData, config: Settings) -> Outcome:
        """Return a compressed copy of `model`. Raises CompressionError when the method does not apply."""
        self.require_applicable(model.spec, config)
        return self.transform(model, data, config)

    def require_applicable(self, spec: ModelSpec, config: Settings) -> None:
        """Raise CompressionError, with the reason, when the method may not follow what made `spec`."""
        reason = self.objection(spec, config)
        if spec.row_maps and not self.takes_mapped:
            reason = "rows were dropped from its tables, and it works on whole ones; let it come before that"
        if spec.network_bits is not None and not self.takes_low_precision:
            reason = "the weights of its network are rounded already; let network_ptq come last"
        if spec.calibration is not None and reason is None:
            reason = "its logits are calibrated already; let recalibrate come last"
        if reason:
            raise CompressionError(f"'{self.name}' cannot be applied here: {reason}")


def not_float(spec: ModelSpec, advice: str, *, wide: bool = False) -> str | None:
    """Say why a method of float tables does not apply, None when it does; `advice` is for quantized ones.

    With `wide` first-order tables have to be float too.
    """
    kinds = {table.kind for table in (*spec.tables, *(spec.wide if wide else ()))}
    if "masked" in kinds:
        return "single values were dropped from its tables, and another method of tables has nothing whole to work on"
    if "quotient_remainder" in kinds:
        return "its rows are made of quotients and remainders, and this method works on rows of their own"
    return f"its tables are quantized already{advice}" if kinds - {"float"} else None


METHODS: dict[str, Method] = {}


def method(
    name: str,
    config: type[Config],
    objection: Objection[Config],
    *,
    takes_mapped: bool = False,
    takes_low_precision: bool = False,
) -> Callable[[Transform[Config]], Transform[Config]]:
    """Register the decorated function as compression method `name`; see `Method`."""

    def register(transform: Transform[Config]) -> Transform[Config]:
        METHODS[name] = Method(name, config, transform, objection, takes_mapped, takes_low_precision)
        return transform

    return register


def find_method(name: str) -> Method:
    """Return the method `name`. Raises CompressionError with the nearest known name."""
    if name not in METHODS:
        raise CompressionError(
            f"unknown compression method {name!r}{nearest(name, METHODS)}; "
            f"known: {', '.join(sorted(METHODS))}"
        )
    return METHODS[name]
