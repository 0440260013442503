"""A logistic regression of scikit-learn on one-hot rows: what every trained model is held against."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from slimctr import quality
from slimctr.clicklogs import Dataset
from slimctr.clicklogs.dataset import Split

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""C of scikit-learn; the one of least log-loss on validation rows is taken."""


def test_logits(dataset: Dataset) -> tuple[np.ndarray, float]:
    """Return logits (n,) of the test rows, and the C that validation rows chose."""
    train, valid, test = (dataset.load(name) for name in ("train", "valid", "test"))
    starts = np.cumsum([0, *dataset.rows_per_field])
    found = []
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000)
        model.fit(one_hot(train, starts), train.labels)
        loss = quality.logloss(valid.labels, model.decision_function(one_hot(valid, starts)))
        found.append((loss, penalty, model))
    _, penalty, model = min(found, key=lambda entry: entry[0])
    return model.decision_function(one_hot(test, starts)), penalty


def one_hot(split: Split, starts: np.ndarray) -> csr_matrix:
    """Return rows (n, all table rows) with a one at every id of the single-valued fields."""
    columns = split.batch.ids.astype(np.int64) + starts[:-1]
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    return csr_matrix((np.ones(columns.size), (rows, columns.ravel())), shape=(len(columns), int(starts[-1])))
