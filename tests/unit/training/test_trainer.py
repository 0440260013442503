import numpy as np
import pytest
import torch
from rounding import gamma

from slimctr import quality
from slimctr.errors import ConfigError
from slimctr.networks import NETWORKS, QuantizedTable
from slimctr.training import TensorSplit, estimate_batch_norm, fit, initial_model, kept_epoch, score
from slimctr.training.checkpoint import EpochRecord, FitState
from slimctr.training.trainer import train_step


@pytest.fixture(scope="module")
def splits(dataset):
    return {name: TensorSplit.of(dataset.load(name)) for name in ("train", "valid")}


def trained(config, dataset, splits):
    model = initial_model(config, dataset)
    return model, fit(model, config, splits["train"], splits["valid"])


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("network", ["dnn", "deepfm"])
def test_the_l2_gradient_is_that_of_half_lambda_times_the_squared_norm(network, config, dataset, splits):
    config = config.changed(network=network, embedding_l2=0.3, clip_norm=1e9, params={"dropout": 0.0})
    model = initial_model(config, dataset)
    for table in [*model.tables, *(model.wide or ())]:
        torch.nn.init.normal_(table.weight)
    batch = splits["train"].take(torch.arange(64))
    model.train()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch.ids), batch.labels)
    tables = [table.weight for table in [*model.tables, *(model.wide or ())]]
    loss = loss + 0.3 / 2 * sum(table.square().sum() for table in tables)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), batch, config)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        # sums over 64 rows and their products; the same operations but for their order
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=0, atol=gamma(256) * gradient.abs().max().item()
        )


def test_the_gradient_norm_is_clipped(config, dataset, splits):
    config = config.changed(clip_norm=1e-3)
    model = initial_model(config, dataset)
    model.train()
    train_step(
        model, torch.optim.SGD(model.parameters(), lr=0.0), splits["train"].take(torch.arange(64)), config
    )
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    # torch adds 1e-6 to the norm that it divides by
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_training_learns_the_clicks(config, dataset, splits):
    model, history = trained(config, dataset, splits)
    untrained = initial_model(config, dataset)
    labels = splits["valid"].labels.numpy()
    best = quality.auc(labels, score(model, splits["valid"]))
    assert best > 0.75 > quality.auc(labels, score(untrained, splits["valid"]))
    assert history[0].loss > history[-1].loss
    assert not model.training


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(config, dataset, splits):
    first, again = (weights(trained(config, dataset, splits)[0]) for _ in range(2))
    other = weights(trained(config.changed(seed=6), dataset, splits)[0])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_leaves_the_global_generator_alone(config, dataset, splits):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    trained(config.changed(epochs=1), dataset, splits)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_model_ends_with_the_weights_of_its_best_epoch(config, dataset, splits):
    config = config.changed(epochs=50, learning_rate=0.05, patience=2)
    model, history = trained(config, dataset, splits)
    best = min(record.valid_logloss for record in history)
    assert not history[-1].is_best
    assert quality.logloss(splits["valid"].labels.numpy(), score(model, splits["valid"])) == best


def test_the_best_epoch_is_the_one_that_select_asks_for(config, dataset, splits):
    """A high rate without decay learns rows by heart: AUC and log-loss have their best epochs apart."""
    config = config.changed(epochs=8, learning_rate=0.02, schedule="one_cycle", embedding_l2=0)
    kept, histories = {}, {}
    for select in ("logloss", "ne", "auc"):
        histories[select] = trained(config.changed(select=select), dataset, splits)[1]
        kept[select] = kept_epoch(histories[select])
    by_loss = min(histories["logloss"], key=lambda record: record.valid_logloss)
    assert kept["logloss"].epoch == kept["ne"].epoch == by_loss.epoch
    assert kept["auc"].epoch == max(histories["auc"], key=lambda record: record.valid_auc).epoch
    assert kept["auc"].epoch != kept["logloss"].epoch


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_an_untrained_model_predicts_the_click_rate_of_all_rows(network, rate, config, dataset, splits):
    config = config.changed(network=network, negative_sampling_rate=rate)
    model, train = initial_model(config, dataset), splits["train"]
    # Tables of deviation 1e-4 leave a logit of the network's own of that order; half a click is added to both sides.
    assert quality.calibration(train.labels.numpy(), score(model, train)) == pytest.approx(1.0, abs=0.01)
    assert initial_model(config.changed(bias_start="zero"), dataset).backbone.head.bias == 0


def test_validation_reads_batch_norm_statistics_of_the_weights_it_scores(config, dataset, splits):
    model, _ = trained(config.changed(epochs=1), dataset, splits)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    assert before
    assert estimate_batch_norm(model, splits["train"], config) == -(-len(splits["train"]) // 256)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_plateau_cuts_the_rate_and_stops_after_the_patience(config, dataset, splits):
    _, history = trained(config.changed(epochs=50, learning_rate=0.05, patience=2), dataset, splits)
    rate, stale = 0.05, 0
    for record in history:
        assert record.learning_rate == pytest.approx(rate)
        stale = 0 if record.is_best else stale + 1
        rate = rate if record.is_best else rate * 0.1
    assert stale == 2
    assert len(history) < 50


def test_one_cycle_runs_all_its_epochs_and_ends_near_zero(config, dataset, splits):
    _, history = trained(config.changed(epochs=6, schedule="one_cycle", learning_rate=0.05), dataset, splits)
    assert len(history) == 6
    assert history[-1].learning_rate < 0.05 * 1e-2  # a hundredth of the peak


def test_down_sampled_training_predicts_the_click_rate_of_all_rows(config, dataset, splits):
    config = config.changed(negative_sampling_rate=0.2, epochs=6)
    model, _ = trained(config, dataset, splits)
    labels, logits = splits["valid"].labels.numpy(), score(model, splits["valid"])
    # without the correction the ratio is about 2; a few hundred clicks know it to 0.05
    assert quality.calibration(labels, logits) == pytest.approx(1.0, abs=0.3)
    uncorrected = logits - np.float32(np.log(0.2))
    assert quality.calibration(labels, uncorrected) > 1.8


def test_a_training_that_diverges_says_so(config, dataset, splits):
    with pytest.raises(ConfigError, match=r"diverged in epoch 1.*lower learning_rate"):
        trained(config.changed(learning_rate=1e30), dataset, splits)


def test_a_quantized_table_stays_as_it_is_while_the_network_learns(config, dataset, splits):
    model = initial_model(config, dataset)
    rows = dataset.rows_per_field[3]
    codes = torch.randint(0, 16, (rows, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model.tables[3] = QuantizedTable.from_codes(
        codes, torch.full((rows,), 0.01), torch.zeros(rows), bits=4, scale="row"
    )
    before = model.backbone.head.weight.detach().clone()
    fit(model, config.changed(epochs=1), splits["train"], splits["valid"])
    assert torch.equal(model.tables[3].codes, codes)
    assert not torch.equal(model.backbone.head.weight, before)


def test_stale_epochs_start_again_after_a_gain():
    state = FitState()
    for auc, is_best in [(0.5, True), (0.4, False), (0.6, True), (0.5, False)]:
        record = EpochRecord(1, 0.0, auc, 0.0, 0.0, 0.0, is_best)
        state.record_epoch(record, {"w": torch.tensor(auc)}, "auc")
    assert (state.stale_epochs, state.epochs_without_gain, state.best_figure) == (1, 2, 0.6)
    assert state.best_weights["w"] == pytest.approx(0.6)
