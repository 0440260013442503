"""`ham`: an embedding width per field, found by a search over hard column masks."""

import copy
import time
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from slimctr.compression.columns import (
    Alignment,
    ColumnSettings,
    column_budget,
    column_statistics,
    columns_objection,
    compact,
    initial,
)
from slimctr.compression.data import CompressionData
from slimctr.compression.mask_search import Mode, SearchPlan, search_columns
from slimctr.compression.method import Count, ExtraEpochs, Outcome, Rate, Weight, method
from slimctr.compression.orthogonality import Rows, regularity
from slimctr.networks import CtrModel, ModelSpec
from slimctr.training import TrainConfig, estimate_batch_norm, fit, kept_epoch
from slimctr.training.job import set_untrained_oov_rows

INHERITED_EPOCHS = 2
INHERITED_RATE_FACTOR = 0.1


class HamSettings(ColumnSettings):
    """Settings of the super-net, of the search and of the training after it; docs/compression.md has them all.

    `epochs` and `learning_rate_factor` None: what is usual for `retrain`.
    """

    epochs: ExtraEpochs | None = None
    learning_rate_factor: Rate | None = None
    orthogonality: Weight = 1e-3
    orthogonality_rows: Rows = "batch"
    mode: Mode = "frozen"
    mask_rate: Rate = 1.0
    price_rate: Rate = 1e-3
    search_batch_rows: Annotated[int, Field(ge=100, le=2**31 - 1)] = 10_000
    search_steps: Count | None = None
    alignment: Alignment = "scatter"
    retrain: Literal["inherit", "fresh"] = "inherit"

    @model_validator(mode="after")
    def _fresh_weights_are_trained(self) -> Self:
        if self.retrain == "fresh" and (self.epochs == 0 or not self.train_codes):
            raise ValueError(
                "retrain=fresh starts from initial weights: epochs=0 and train_codes=false make no sense"
            )
        return self

    def retraining(self, config: TrainConfig) -> TrainConfig | None:
        """Inherited weights are fine-tuned, fresh ones trained as the run was."""
        is_fresh = self.retrain == "fresh"
        epochs, factor = (config.epochs, 1.0) if is_fresh else (INHERITED_EPOCHS, INHERITED_RATE_FACTOR)
        epochs = epochs if self.epochs is None else self.epochs
        factor = factor if self.learning_rate_factor is None else self.learning_rate_factor
        if epochs == 0:
            return None
        return config.changed(
            epochs=epochs,
            learning_rate=config.learning_rate * factor,
            schedule=config.schedule if is_fresh else "plateau",
        )


def ham_objection(spec: ModelSpec, config: HamSettings) -> str | None:
    """Columns are taken once, from float tables; a super-net is trained from scratch, so it has no factors yet."""
    if config.orthogonality and any(layer.kind != "linear" for layer in spec.layers):
        return (
            "its MLP is factored already, and a super-net is trained from scratch; factor after 'ham', or set "
            "orthogonality=0 to search in the model as it is"
        )
    return columns_objection(spec, config)


@method("ham", HamSettings, ham_objection)
def ham(model: CtrModel, data: CompressionData, config: HamSettings) -> Outcome:
    """Keep the columns of each field's table that the log-loss misses most, within a budget.

    A super-net of full width is trained with orthogonal regularity on its columns, hard masks over the columns
    are searched in it on training rows, and the columns found are cut out. With `orthogonality` 0 the super-net
    is the model itself, which was trained by that very loss. Every field keeps one column at least.
    HAM-style, after arXiv 2208.08004: structural pruning by hard auxiliary masks and the orthogonal regularity
    are the paper's; the equations of the search, the byte budget and the training after it are ours.
    """
    spec = model.spec
    budget = column_budget(spec, config.budget_ratio, config.cost)
    supernet, statistics = _supernet(model, data, config)
    plan = SearchPlan(
        batch_rows=config.search_batch_rows,
        steps=config.search_steps,
        mask_rate=config.mask_rate,
        price_rate=config.price_rate,
        mode=config.mode,
        weight_rate_factor=INHERITED_RATE_FACTOR,
    )
    search = search_columns(supernet, data, budget, plan)
    source = supernet if config.retrain == "inherit" else initial(spec, data)
    smaller = compact(source, search.mask, config.alignment)
    if config.retrain == "inherit":
        statistics["batch_norm_batches"] = estimate_batch_norm(smaller, data.split("train"), data.training)
    return Outcome(
        smaller, {**column_statistics(spec, search.mask), **statistics, "search": search.statistics}
    )


def _supernet(model: CtrModel, data: CompressionData, config: HamSettings) -> tuple[CtrModel, dict[str, Any]]:
    """Return the model to search in and, where it was trained for that, what training cost."""
    penalty = regularity(model.spec, config.orthogonality, config.orthogonality_rows)
    if penalty is None:
        return copy.deepcopy(model), {}
    started = time.perf_counter()
    supernet = initial(model.spec, data)
    history = fit(
        supernet,
        data.training,
        data.split("train"),
        data.split("valid"),
        progress=data.progress,
        penalty=penalty,
    )
    set_untrained_oov_rows(supernet, data.counts)
    return supernet, {
        "supernet": {
            "epochs": len(history),
            "valid_auc": kept_epoch(history).valid_auc,
            "seconds": round(time.perf_counter() - started, 3),
        }
    }
