"""Training on codes: gradient of the steps, rows of the batch alone, order of a step, and no float table anywhere."""

import math

import pytest
import torch
from rounding import FEW32
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from slimctr.compression.low_precision.integer_training import (
    SMALLEST_STORED_STEP,
    IntegerTraining,
    RowLearning,
    step_gradient,
)
from slimctr.compression.low_precision.rounding import Rounder, nearest_codes
from slimctr.compression.low_precision.start import row_blocks, start_integer_table, with_tables
from slimctr.compression.lpt import LptSettings
from slimctr.networks import CtrModel, build_model, float_spec
from slimctr.networks.integer_table import code_range
from slimctr.training import TrainConfig
from slimctr.training.batches import Batch
from slimctr.training.trainer import train_step


def model_of(tables: list[tuple[int, int]], network: str = "dnn", **params: object) -> CtrModel:
    spec = float_spec(
        network,
        dim=tables[0][1],
        field_names=[f"field{i}" for i in range(len(tables))],
        rows=[rows for rows, _ in tables],
        pooling=[None] * len(tables),
        params={"hidden": [8], "dropout": 0.0, **params},
    )
    torch.manual_seed(5)
    return build_model(spec)


def integer_model(shape=(40, 4), bits=8, scope="row", step=0.004, optimizer="adam", step_rate=1e-3, **params):
    """A model of two integer tables, its row trainer, the optimizer of its network and its configuration."""
    start = model_of([shape] * 2, **params)
    rounder = Rounder("stochastic", 3)
    settings = LptSettings()
    tables = [
        start_integer_table(row_blocks(start, i, settings, 3), shape, bits, scope, step, rounder, i)
        for i in range(2)
    ]
    model = with_tables(start, tables, None)
    trainer = IntegerTraining(model, RowLearning(optimizer, 1.0, rounder), step_rate)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    config = TrainConfig.resolve({"network": "dnn", "dim": shape[1], "embedding_l2": 1e-4})
    model.train()
    return model, trainer, adam, config


def batch_of(rows: int, batch: int, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, rows, (batch, 2), generator=generator, dtype=torch.int32)
    return Batch(ids, (), (torch.rand(batch, generator=generator) < 0.5).float())


def test_step_gradient_of_four_bits():
    """delta .01: Q (.01, -.03, .07, -.08), slopes (-.3, -.3, 7, -8), the factor once."""
    values, steps = torch.tensor([[0.013, -0.027, 0.2, -0.3]]), torch.tensor([[0.01]])
    quantized = steps * nearest_codes(values / steps, 4)
    torch.testing.assert_close(quantized, torch.tensor([[0.01, -0.03, 0.07, -0.08]]), rtol=0, atol=FEW32)
    for column, slope in enumerate([-0.3, -0.3, 7.0, -8.0]):
        upstream = torch.zeros(1, 4)
        upstream[0, column] = 2.0
        expected = 2 * slope / math.sqrt(32 * 4 * 7)
        found = step_gradient(values, steps, upstream, 4, 32).item()
        assert found == pytest.approx(expected, rel=10 * FEW32)  # -0.3 is what is left of -2.7 + 3


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_coordinate_on_the_edge_counts_as_clipped(bits):
    steps = torch.rand(500, 1, generator=torch.Generator().manual_seed(1)) * 0.01 + 1e-3
    for edge in code_range(bits):
        slopes = step_gradient(steps * edge, steps, torch.ones(500, 1), bits, 1)
        assert slopes.tolist() == pytest.approx([edge / math.sqrt(code_range(bits)[1])] * 500)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_only_rows_of_the_batch_change_and_stay_codes(bits):
    model, trainer, adam, config = integer_model(bits=bits, step=0.002, step_rate=1e-5)
    for seed in range(5):
        batch = batch_of(40, 12, seed)
        before = [(table.codes.clone(), table.steps.clone()) for table in model.tables]
        train_step(model, adam, batch, config, row_trainer=trainer)
        for column, (table, (codes, steps)) in enumerate(zip(model.tables, before, strict=True)):
            read = torch.zeros(40, dtype=torch.bool)
            read[batch.ids[:, column].long()] = True
            assert torch.equal(table.codes[~read], codes[~read])
            assert torch.equal(table.steps[~read], steps[~read])
            assert (table.steps[read] != steps[read]).all()
            now = table.codes_of(torch.arange(40))
            assert code_range(bits)[0] <= int(now.min())
            assert int(now.max()) <= code_range(bits)[1]
            assert torch.equal(table.dense(), table.steps.unsqueeze(1) * now.float())
            assert table.last_read is None


def test_lpt_never_changes_its_step():
    model, trainer, adam, config = integer_model(scope="table", step_rate=None)
    before = model.tables[0].codes.clone()
    train_step(model, adam, batch_of(40, 30), config, row_trainer=trainer)
    assert model.tables[0].steps.tolist() == [pytest.approx(0.004)]
    assert not torch.equal(model.tables[0].codes, before)


def test_sixteen_bits_with_a_fine_step_train_like_floats():
    """The rows follow a float model of SparseAdam, L2 on the rows of the batch, clipped with all gradients."""
    model, trainer, adam, config = integer_model(bits=16, scope="table", step=1e-6, step_rate=None)
    config = config.changed(clip_norm=0.05, embedding_l2=0.1)
    weights = [table.dense().requires_grad_() for table in model.tables]
    twin = model_of([(40, 4)] * 2)
    twin.backbone.load_state_dict(model.backbone.state_dict())
    twin.train()
    network = torch.optim.Adam(twin.backbone.parameters(), lr=1e-3)
    rows = torch.optim.SparseAdam(weights, lr=1e-3)
    for seed in range(8):
        batch = batch_of(40, 16, seed)
        train_step(model, adam, batch, config, row_trainer=trainer)
        read = [functional.embedding(batch.ids[:, i].long(), weights[i]) for i in range(2)]
        loss = functional.binary_cross_entropy_with_logits(twin.network(torch.cat(read, 1)), batch.labels)
        network.zero_grad()
        gradients = torch.autograd.grad(loss, [*weights, *twin.backbone.parameters()])
        for parameter, gradient in zip(twin.backbone.parameters(), gradients[2:], strict=True):
            parameter.grad = gradient
        dense = []
        for i in range(2):
            touched = batch.ids[:, i].long().unique()
            gradient = gradients[i][touched] + 0.1 * weights[i].detach()[touched]
            dense.append((touched, gradient))
        norm = torch.sqrt(sum(g.square().sum() for g in [*gradients[2:], *(g for _, g in dense)]))
        share = min(1.0, 0.05 / (norm.item() + 1e-6))
        for parameter in twin.backbone.parameters():
            parameter.grad *= share
        for weight, (touched, gradient) in zip(weights, dense, strict=True):
            weight.grad = torch.sparse_coo_tensor(
                touched.unsqueeze(0), gradient * share, (40, 4), check_invariants=True
            )
        network.step()
        rows.step()
    for table, weight in zip(model.tables, weights, strict=True):
        # a tenth of one update of Adam; each of eight rounds a value by a step of 1e-6
        torch.testing.assert_close(table.dense(), weight.detach(), rtol=0, atol=1e-4)
        assert (table.dense() - weight.detach()).abs().max() > 0


def test_the_second_pass_sees_new_rows_rounded_to_nearest_and_the_new_network(monkeypatch):
    model, trainer, adam, config = integer_model(bits=4, step=0.01)
    seen = []
    honest = model.network

    def spying(stored):
        seen.append((stored.detach().clone(), model.backbone.head.weight.detach().clone()))
        return honest(stored)

    monkeypatch.setattr(model, "network", spying)
    batch = batch_of(40, 12)
    steps = model.tables[0].steps.clone()
    train_step(model, adam, batch, config, row_trainer=trainer)
    (_, old_head), (stored, new_head) = seen
    assert not torch.equal(old_head, new_head)
    assert torch.equal(new_head, model.backbone.head.weight)
    positions = stored[:, :4] / steps[batch.ids[:, 0].long()].unsqueeze(1)
    torch.testing.assert_close(positions, positions.round(), rtol=0, atol=8 * FEW32)  # codes up to 8
    written = model.tables[0].dense()[batch.ids[:, 0].long()]
    on_new_grid = written / model.tables[0].steps[batch.ids[:, 0].long()].unsqueeze(1)
    torch.testing.assert_close(on_new_grid, on_new_grid.round(), rtol=0, atol=8 * FEW32)


def test_the_second_pass_leaves_network_gradients_and_batch_norm_alone():
    states = []
    for step_rate in (None, 1e-3):
        model, trainer, adam, config = integer_model(batch_norm=True, step_rate=step_rate)
        train_step(model, adam, batch_of(40, 12), config, row_trainer=trainer)
        states.append(({**model.backbone.state_dict()}, [p.grad for p in model.backbone.parameters()]))
        assert all(
            module.track_running_stats
            for module in model.modules()
            if isinstance(module, torch.nn.BatchNorm1d)
        )
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_steps_do_not_fall_below_the_smallest_normal_float16():
    model, trainer, adam, config = integer_model(bits=8, step=1e-4, step_rate=1.0)
    for seed in range(3):
        train_step(model, adam, batch_of(40, 12, seed), config, row_trainer=trainer)
    assert model.tables[0].steps.min().item() == SMALLEST_STORED_STEP


def test_training_is_the_same_again():
    ends = []
    for _ in range(2):
        model, trainer, adam, config = integer_model(bits=4)
        for seed in range(4):
            train_step(model, adam, batch_of(40, 12, seed), config, row_trainer=trainer)
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    torch.testing.assert_close(*ends, rtol=0, atol=0)


class LargestFloats(TorchDispatchMode):
    """Remembers the most values of a floating tensor that any operation returned."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.values = max(self.values, tensor.numel())
        return result


@pytest.mark.parametrize(("bits", "bytes_per_row"), [(16, 64), (8, 32), (4, 16), (2, 8)])
def test_a_training_holds_codes_and_steps_and_makes_no_float_table(bits, bytes_per_row, monkeypatch):
    monkeypatch.setattr("slimctr.compression.low_precision.start.BLOCK_ROWS", 500)
    rows, dim = 20_000, 32
    spec = model_of([(2, dim)] * 2).spec.model_copy(update={"rows": (rows, rows)})
    start, rounder = model_of([(2, dim)] * 2), Rounder("stochastic", 3)
    start.spec = spec
    with LargestFloats() as largest:
        tables = [
            start_integer_table(
                row_blocks(start, i, LptSettings(), 3), (rows, dim), bits, "row", None, rounder, i
            )
            for i in range(2)
        ]
        model = with_tables(start, tables, None)
        trainer = IntegerTraining(model, RowLearning("row_adagrad", 1.0, rounder), 1e-3)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        config = TrainConfig.resolve({"network": "dnn", "dim": dim, "embedding_l2": 1e-4})
        for seed in range(3):
            train_step(model, adam, batch_of(rows, 64, seed), config, row_trainer=trainer)
        model.eval()
        with torch.no_grad():
            model(batch_of(rows, 64).ids)
    assert largest.values <= max(rows, 500 * dim) < rows * dim / 30
    tables_hold = sum(tensor.nbytes for table in model.tables for tensor in table.buffers())
    assert tables_hold == 2 * rows * (bytes_per_row + 4)
    assert sum(tensor.nbytes for tensor in trainer.held()) == 2 * rows * (4 + 4)
    assert not list(model.tables.parameters())
    in_adam = sum(t.nbytes for state in adam.state.values() for t in state.values())
    assert in_adam < 3 * sum(parameter.nbytes for parameter in model.backbone.parameters())


def test_new_values_are_drawn_again_alike_and_differ_between_fields():
    start, settings = model_of([(300, 4)] * 2), LptSettings(initial_deviation=0.5)
    first, again = (torch.cat(list(row_blocks(start, 0, settings, 3)())) for _ in range(2))
    assert torch.equal(first, again)
    assert first.std().item() == pytest.approx(
        0.5, rel=5 / math.sqrt(2 * first.numel())
    )  # five standard errors
    assert not torch.equal(first, torch.cat(list(row_blocks(start, 1, settings, 3)())))


@pytest.mark.parametrize(("bits", "expected"), [(8, 4.23e-4), (4, 1.69e-3), (2, 3.39e-3)])
def test_steps_start_from_the_mean_magnitude(bits, expected):
    start = model_of([(20_000, 16)] * 2)
    blocks = row_blocks(start, 0, LptSettings(), 3)
    table = start_integer_table(blocks, (20_000, 16), bits, "row", None, Rounder("stochastic", 3), 0)
    # five standard errors of a mean magnitude of 320,000 values, 0.7 %, and three digits
    assert table.steps[0].item() == pytest.approx(expected, rel=0.01)
