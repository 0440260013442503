"""`fine_tune`: nothing but more training, the control of every method that trains after compressing."""

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of
from slimctr.compression.method import Outcome, Settings, method
from slimctr.networks import CtrModel, ModelSpec
from slimctr.training.config import Epochs


class FineTuneSettings(Settings):
    """Epochs and learning rate and imitation, as every method has them."""

    epochs: Epochs = 2


def fine_tune_objection(spec: ModelSpec, config: FineTuneSettings) -> str | None:
    """Every model can be trained on."""
    return None


@method("fine_tune", FineTuneSettings, fine_tune_objection, takes_mapped=True)
def fine_tune(model: CtrModel, data: CompressionData, config: FineTuneSettings) -> Outcome:
    """Return the model as it is; what follows is the fine-tuning that other methods end with.

    A compressed model is compared with its original trained for the same extra epochs, since a gain may be nothing
    but more training.
    """
    return Outcome(model_of(model.spec, dict(model.state_dict())), {})
