"""Reads flatbuffers, as the metadata of Arrow streams are: a few members of a few tables, many times per second."""

import struct

UINT8, UINT16, INT16, UINT32, INT32, INT64 = map(struct.Struct, ("<B", "<H", "<h", "<I", "<i", "<q"))

BROKEN = (struct.error, ValueError, TypeError, IndexError, OverflowError)
"""What reading a broken flatbuffer raises."""


class Table:
    """A flatbuffer table whose members are asked for by slot. Reading a broken one raises one of `BROKEN`."""

    __slots__ = ("_slots", "at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        slots = at - INT32.unpack_from(data, at)[0]
        if slots < 0:
            raise ValueError("a table lies outside of its message")
        size = UINT16.unpack_from(data, slots)[0]
        self._slots = struct.unpack_from(f"<{max(size // 2 - 2, 0)}H", data, slots + 4)

    def place(self, slot: int) -> int:
        """Return the first byte of a member, 0 when it is absent."""
        place = self._slots[slot] if slot < len(self._slots) else 0
        return self.at + place if place else 0

    def scalar(self, slot: int, kind: struct.Struct, default: int = 0) -> int:
        """Return a number."""
        place = self.place(slot)
        return int(kind.unpack_from(self.data, place)[0]) if place else default

    def child(self, slot: int) -> "Table":
        """Return the table that a member leads to."""
        place = self.place(slot)
        if not place:
            raise ValueError(f"member {slot} of a table is absent")
        return Table(self.data, place + UINT32.unpack_from(self.data, place)[0])

    def children(self, slot: int, limit: int) -> "list[Table]":
        """Return the tables of a vector, at most `limit` of them."""
        start, count = self.vector(slot, 4)
        if count > limit:
            raise ValueError(f"{count} members where {limit} are read at most")
        places = struct.unpack_from(f"<{count}I", self.data, start)
        return [Table(self.data, start + 4 * i + place) for i, place in enumerate(places)]

    def vector(self, slot: int, width: int) -> tuple[int, int]:
        """Return the first byte and the number of elements of `width` bytes each."""
        place = self.place(slot)
        if not place:
            return 0, 0
        start = place + UINT32.unpack_from(self.data, place)[0]
        count = UINT32.unpack_from(self.data, start)[0]
        if start + 4 + count * width > len(self.data):
            raise ValueError(f"a vector of {count} elements passes the end of its message")
        return start + 4, count

    def text(self, slot: int) -> str:
        """Return a text."""
        start, length = self.vector(slot, 1)
        return self.data[start : start + length].decode()
