"""Raw values to row ids: schema, vocabulary, encoder."""

from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.columns import TextColumn, bucket_log_column, key_of_text
from slimctr.features.encoder import Encoder
from slimctr.features.schema import Bucketing, FeatureSchema, Field
from slimctr.features.vocabulary import Vocabulary, keys_in_row_order
from slimctr.native.keys import MISSING

__all__ = [
    "MISSING",
    "Bag",
    "Bucketing",
    "EncodedBatch",
    "Encoder",
    "FeatureSchema",
    "Field",
    "TextColumn",
    "Vocabulary",
    "bucket_log_column",
    "key_of_text",
    "keys_in_row_order",
]
