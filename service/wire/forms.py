"""The ways to write a batch in `/v1`: rows, columns, slate, Arrow; each encodes itself and points into itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from service.errors import MAX_LISTED_FAULTS, Fault, InvalidInput
from service.wire.pointers import pointer_to, shown_name
from slimctr.errors import FeatureError, MissingField, UnknownField
from slimctr.features import EncodedBatch, Encoder
from slimctr.features.arrow_stream import ArrowStream
from slimctr.native.json_pieces import discard
from slimctr.native.json_table import JsonTable

Row = dict[str, Any]
MAX_SHOWN = 80
"""Characters of a wrong value that are shown."""


class Form(Protocol):
    """One of the three ways to write a batch."""

    @property
    def rows(self) -> int:
        """Number of instances."""

    def encode(self, encoder: Encoder) -> EncodedBatch:
        """Return the batch; raise FeatureError."""

    def pointer(self, error: FeatureError) -> str:
        """Return where the value of `error` stands in the body."""

    @property
    def values(self) -> Any:
        """What the body said, as it was read."""

    def names(self) -> Iterator[tuple[str, int | None]]:
        """Every field that occurs, with the row it occurs in."""

    def cells(self, field: str) -> tuple[Sequence[Any], bool]:
        """Return the values of a field, and whether they are one per row; else they belong to none."""


@dataclass(frozen=True)
class Rows:
    """`instances`: one object per row."""

    instances: list[Row]

    @property
    def rows(self) -> int:
        """Number of instances."""
        return len(self.instances)

    def encode(self, encoder: Encoder) -> EncodedBatch:
        """Return the batch; raise FeatureError."""
        return encoder.encode_rows(self.instances)

    def pointer(self, error: FeatureError) -> str:
        """Return `#/instances/<row>/<field>`."""
        return pointer_to("instances", error.row, error.field)

    @property
    def values(self) -> Any:
        """The rows."""
        return self.instances

    def names(self) -> Iterator[tuple[str, int | None]]:
        """Every field of every row."""
        return ((name, row) for row, values in enumerate(self.instances) for name in values)

    def cells(self, field: str) -> tuple[Sequence[Any], bool]:
        """Return the values of a field, one per row."""
        return [row.get(field) for row in self.instances], True


@dataclass(frozen=True)
class Columns:
    """`columns`: one list per field, all of the same length."""

    columns: dict[str, list[Any]]

    @property
    def rows(self) -> int:
        """Number of instances."""
        return len(next(iter(self.columns.values()), ()))

    def encode(self, encoder: Encoder) -> EncodedBatch:
        """Return the batch; raise FeatureError."""
        return encoder.encode_columns(self.columns)

    def pointer(self, error: FeatureError) -> str:
        """Return `#/columns/<field>/<row>`."""
        return pointer_to("columns", error.field, error.row)

    @property
    def values(self) -> Any:
        """The columns."""
        return self.columns

    def names(self) -> Iterator[tuple[str, int | None]]:
        """Every column."""
        return ((name, None) for name in self.columns)

    def cells(self, field: str) -> tuple[Sequence[Any], bool]:
        """Return a column; an absent one is one missing value of no row."""
        column = self.columns.get(field)
        return ([None], False) if column is None else (column, True)


@dataclass(frozen=True)
class Slate:
    """One `context` and its `candidates`; the context is encoded once."""

    context: Row
    candidates: list[Row]

    @property
    def rows(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    def encode(self, encoder: Encoder) -> EncodedBatch:
        """Return the batch; raise FeatureError."""
        return encoder.encode_slate(self.context, self.candidates)

    def pointer(self, error: FeatureError) -> str:
        """Return `#/context/<field>` or `#/candidates/<row>/<field>`."""
        if error.field in self.context:
            return pointer_to("context", error.field)
        return pointer_to("candidates", error.row, error.field)

    @property
    def values(self) -> Any:
        """Context and candidates."""
        return [self.context, self.candidates]

    def names(self) -> Iterator[tuple[str, int | None]]:
        """Every field of the context, then those of every candidate."""
        yield from ((name, None) for name in self.context)
        yield from Rows(self.candidates).names()

    def cells(self, field: str) -> tuple[Sequence[Any], bool]:
        """Return what the context says of a field, else the values of the candidates."""
        return ([self.context[field]], False) if field in self.context else Rows(self.candidates).cells(field)


class Scanned(NamedTuple):
    """A form whose values were found but not read: `read` reads them as one of the above. Its rows share `context`."""

    table: JsonTable
    context: Row
    read: Callable[[], Form]

    @property
    def rows(self) -> int:
        """Number of instances."""
        return self.table.rows


class Reread:
    """A form of a large body, gone once it is encoded: who encodes it again, as a shadow does, has it read again."""

    def __init__(self, form: Form, read: Callable[[], Form]) -> None:
        self._form: Form | None = form
        self._read = read
        self.rows = form.rows

    def take(self) -> Form:
        """Return the values; the caller discards them."""
        form, self._form = self._form or self._read(), None
        return form


class Batches(NamedTuple):
    """An Arrow stream: a column per field."""

    stream: ArrowStream

    @property
    def rows(self) -> int:
        """Number of instances."""
        return self.stream.rows

    def encode(self, encoder: Encoder) -> EncodedBatch:
        """Return the batch; raise InvalidInput with the first wrong value, ArrowError."""
        try:
            return encoder.encode_arrow(self.stream)
        except FeatureError as error:
            pointer = pointer_to("columns", error.field, error.row)
            raise InvalidInput([Fault(pointer, str(error), _issue(error))]) from None


def encode(form: Form | Reread | Scanned | Batches, encoder: Encoder) -> EncodedBatch:
    """Return the batch; raise InvalidInput that lists every wrong value, up to 20, in the order they are found."""
    if isinstance(form, Batches):
        return form.encode(encoder)
    if isinstance(form, Scanned):
        batch = encoder.encode_json(form.table, form.context)
        if batch is not None:
            return batch
        values = form.read()
    elif isinstance(form, Reread):
        values = form.take()
    else:
        return _encode_values(form, encoder)
    try:
        return _encode_values(values, encoder)
    finally:
        discard(values.values)


def _encode_values(form: Form, encoder: Encoder) -> EncodedBatch:
    try:
        return form.encode(encoder)
    except FeatureError as error:
        error.with_traceback(None)  # its frames hold values, which could not be taken down in pieces then
        # What is wrong with the whole, as columns of different lengths are, is no fault of one value.
        faults = list(islice(_wrong_values(form, encoder), MAX_LISTED_FAULTS)) or [error]
        raise InvalidInput([_fault(form, fault) for fault in faults]) from None


def _wrong_values(form: Form, encoder: Encoder) -> Iterator[FeatureError]:
    """Find what is wrong in one walk: unknown names first, then the fields in the order of the schema."""
    for name, row in form.names():
        unknown = encoder.unknown_field(name, row)
        if unknown is not None:
            yield unknown
    for position, field in enumerate(encoder.schema.fields):
        cells, has_rows = form.cells(field.name)
        for error in encoder.wrong_cells(position, cells):
            if not has_rows:
                error.row = None
            yield error


def _fault(form: Form, error: FeatureError) -> Fault:
    issue = _issue(error)
    shown = f": {_shown(error.value)}" if issue == "bad_type" else ""
    pointer, error.field = form.pointer(error), shown_name(error.field)
    return Fault(pointer, f"{error}{shown}", issue)


def _issue(error: FeatureError) -> Literal["unknown_field", "missing_field", "bad_type"]:
    if isinstance(error, UnknownField):
        return "unknown_field"
    return "missing_field" if isinstance(error, MissingField) else "bad_type"


def _shown(value: Any) -> str:
    if isinstance(value, str | list):
        value = value[:MAX_SHOWN]
    try:
        text = orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # nested deeper than the writer goes
        return f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
