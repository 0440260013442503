"""The ways to write a batch in `/v1`: rows, columns, slate, Arrow; each encodes itself and points into itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote

import orjson

from service.errors import MAX_LISTED_FAULTS, Fault, InvalidInput
from slimctr.errors import FeatureError, MissingField, UnknownField
from slimctr.features import EncodedBatch, Encoder, FeatureSchema
from slimctr.features.arrow_stream import ArrowStream
from slimctr.native.json_table import JsonTable

Row = dict[str, Any]


class Form(Protocol):
    """One of the three ways to write a batch."""

    @property
    def rows(self) -> int:
        """Number of instances."""

    def encode(self, encoder: Encoder) -> EncodedBatch:
        """Return the batch; raise FeatureError."""

    def pointer(self, error: FeatureError) -> str:
        """Return where the value of `error` stands in the body."""

    def repaired(self, error: FeatureError, plain: Any) -> "Form":
        """Return a copy with `plain` for the value of `error`, so that the next fault shows."""


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

    def repaired(self, error: FeatureError, plain: Any) -> "Rows":
        """Return a copy without the fault."""
        return Rows(_repair_rows(self.instances, error, plain))


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

    def repaired(self, error: FeatureError, plain: Any) -> "Columns":
        """Return a copy without the fault."""
        columns = dict(self.columns)
        if isinstance(error, UnknownField):
            del columns[error.field]
        elif error.row is None:
            columns[error.field] = [plain] * self.rows
        else:
            columns[error.field] = list(columns.get(error.field, [None] * self.rows))
            columns[error.field][error.row] = plain
        return Columns(columns)


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

    def repaired(self, error: FeatureError, plain: Any) -> "Slate":
        """Return a copy without the fault."""
        if error.field in self.context:
            return Slate(_repair_rows([self.context], error, plain)[0], self.candidates)
        return Slate(self.context, _repair_rows(self.candidates, error, plain))


class Scanned(NamedTuple):
    """A form whose values were found but not read: `read` reads them as one of the above. Its rows share `context`."""

    table: JsonTable
    context: Row
    read: Callable[[], Form]

    @property
    def rows(self) -> int:
        """Number of instances."""
        return self.table.rows


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


def encode(form: Form | Scanned | Batches, encoder: Encoder) -> EncodedBatch:
    """Return the batch; raise InvalidInput that lists every wrong value, up to 20, in the order they are found."""
    if isinstance(form, Batches):
        return form.encode(encoder)
    if isinstance(form, Scanned):
        batch = encoder.encode_json(form.table, form.context)
        if batch is not None:
            return batch
        form = form.read()
    try:
        return form.encode(encoder)
    except FeatureError as error:
        faults = [_fault(form, error)]
        while len(faults) < MAX_LISTED_FAULTS:
            form = form.repaired(error, _plain(error, encoder.schema))
            try:
                form.encode(encoder)
                break
            except FeatureError as next_error:
                error = next_error
                faults.append(_fault(form, error))
        raise InvalidInput(faults) from None


def pointer_to(*path: str | int | None) -> str:
    """Return the JSON pointer of a path as a URI fragment."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path if part is not None)
    return "#/" + "/".join(quote(part, safe="~!$&'()*+,;=:@") for part in parts)


def _fault(form: Form, error: FeatureError) -> Fault:
    issue = _issue(error)
    shown = f": {_shown(error.value)}" if issue == "bad_type" else ""
    return Fault(form.pointer(error), f"{error}{shown}", issue)


def _issue(error: FeatureError) -> Literal["unknown_field", "missing_field", "bad_type"]:
    if isinstance(error, UnknownField):
        return "unknown_field"
    return "missing_field" if isinstance(error, MissingField) else "bad_type"


def _shown(value: Any) -> str:
    try:
        text = orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # nested deeper than the writer goes
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(error: FeatureError, schema: FeatureSchema) -> Any:
    """Return a value that the field of `error` takes: 0, in a list when it is multi-valued."""
    position = schema.index.get(error.field)
    return [0] if position is not None and schema.fields[position].multivalued else 0


def _repair_rows(rows: list[Row], error: FeatureError, plain: Any) -> list[Row]:
    if isinstance(error, UnknownField):
        return [{name: value for name, value in row.items() if name != error.field} for row in rows]
    repaired = list(rows)
    for position in range(len(rows)) if error.row is None else (error.row,):
        repaired[position] = {**rows[position], error.field: plain}
    return repaired
