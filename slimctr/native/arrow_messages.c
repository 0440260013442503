/* The frame of an Arrow stream: its messages, and where the columns of a record batch lie. Looks at no value.
 *
 * A stream is untrusted: nothing is read before it is known to lie inside. Places need no alignment. Message metadata are
 * flatbuffers: a table leads to its list of slots, a slot to a member of the table, 0 to none.
 */
#include "arrow.h"

#define CONTINUATION UINT32_C(0xffffffff)

enum { DICTIONARY = 2, BATCH = 3 };
enum { NO_END = 1, NO_MESSAGE, BEHIND_END, PASSES_END, BODY_PASSES_END, VERSION, BROKEN, MANY };
enum { LONG = 1, OUTSIDE, UNEQUAL, UNLISTED, BAD_CALL };

/* All places but header_at, which counts from metadata_at, count from the start of the stream. From `length` on of
 * dictionaries and batches only. */
typedef struct {
    int64_t kind, metadata_at, metadata_bytes, header_at, body_at, body_bytes, length, nodes_at, nodes, buffers_at, buffers,
        is_compressed, dictionary, is_delta;
} message;

typedef struct {
    const uint8_t *bytes;
    int64_t size;
    int broken;
} metadata;

typedef struct {
    int64_t at, slots, slot_bytes;
} table;

/* Whether so many bytes lie there; the metadata is broken otherwise. */
static int has(metadata *m, int64_t at, int64_t bytes)
{
    int is_inside = at >= 0 && at <= m->size && bytes <= m->size - at;
    m->broken |= !is_inside;
    return is_inside;
}

static int64_t offset(metadata *m, int64_t at)
{
    return has(m, at, 4) ? (int64_t)(uint32_t)load_32(m->bytes + at) : 0;
}

static table table_at(metadata *m, int64_t at)
{
    table t = {at, 0, 0};
    if (has(m, at, 4))
        t.slots = at - load_32(m->bytes + at);
    if (has(m, t.slots, 4))
        t.slot_bytes = (uint16_t)load_16(m->bytes + t.slots);
    if (!has(m, t.slots, t.slot_bytes))
        t.slot_bytes = 0;
    return t;
}

static int64_t member(metadata *m, const table *t, int64_t slot)
{
    int64_t entry = 4 + 2 * slot;
    int64_t from_table = entry + 2 <= t->slot_bytes ? (int64_t)(uint16_t)load_16(m->bytes + t->slots + entry) : 0;
    return from_table ? t->at + from_table : 0;
}

static int64_t number(metadata *m, const table *t, int64_t slot, int64_t width)
{
    int64_t at = member(m, t, slot);
    if (!at || !has(m, at, width))
        return 0;
    return width == 1 ? m->bytes[at] : width == 2 ? load_16(m->bytes + at) : load_64(m->bytes + at);
}

static table child(metadata *m, const table *t, int64_t slot)
{
    int64_t at = member(m, t, slot);
    m->broken |= !at;
    return table_at(m, at + offset(m, at));
}

/* Where a vector of pairs of numbers starts, and how many it has. */
static int64_t pairs(metadata *m, const table *t, int64_t slot, int64_t *count)
{
    int64_t at = member(m, t, slot);
    *count = 0;
    if (!at)
        return 0;
    at += offset(m, at);
    *count = offset(m, at);
    if (!has(m, at + 4, 16 * *count))
        *count = 0;
    return at + 4;
}

static void read_batch(metadata *m, const table *header, message *found)
{
    found->length = number(m, header, 0, 8);
    found->nodes_at = found->metadata_at + pairs(m, header, 1, &found->nodes);
    found->buffers_at = found->metadata_at + pairs(m, header, 2, &found->buffers);
    found->is_compressed = member(m, header, 3) != 0;
}

/* Returns 0 or why the metadata of a message, which lies inside, cannot be read. */
static int64_t read_message(metadata *m, message *found)
{
    table root = table_at(m, offset(m, 0));
    int64_t version = number(m, &root, 0, 2);
    if (!m->broken && version != 3 && version != 4) /* V4 and V5, alike for the types that are read */
        return VERSION;
    table header = child(m, &root, 2);
    found->kind = number(m, &root, 1, 1);
    found->header_at = header.at;
    found->body_bytes = number(m, &root, 3, 8);
    if (found->kind == DICTIONARY) {
        table batch = child(m, &header, 1);
        found->dictionary = number(m, &header, 0, 8);
        found->is_delta = number(m, &header, 2, 1);
        read_batch(m, &batch, found);
    } else if (found->kind == BATCH) {
        read_batch(m, &header, found);
    }
    return m->broken ? BROKEN : 0;
}

/* Find the messages of a stream: write the first `room` of them to `found` and return how many there are, at most `most`.
 * Less than 0: minus the fault of the one at `at`. */
SLIMCTR_API int64_t slimctr_arrow_messages(const uint8_t *bytes, int64_t size, message *found, int64_t room, int64_t most,
                                           int64_t *at)
{
    *at = 0;
    for (int64_t count = 0;; count++) {
        if (size - *at < 8)
            return -NO_END;
        if ((uint32_t)load_32(bytes + *at) != CONTINUATION)
            return -NO_MESSAGE;
        int64_t start = *at + 8, length = load_32(bytes + *at + 4);
        if (length == 0) {
            *at = start;
            return start == size ? count : -BEHIND_END;
        }
        if (length < 0 || length > size - start)
            return -PASSES_END;
        if (count == most)
            return -MANY;
        metadata m = {bytes + start, length, 0};
        message read = {.metadata_at = start, .metadata_bytes = length, .body_at = start + length};
        int64_t fault = read_message(&m, &read);
        if (fault)
            return -fault;
        if (read.body_bytes < 0 || read.body_bytes > size - read.body_at)
            return -BODY_PASSES_END;
        if (count < room)
            found[count] = read;
        *at = read.body_at + read.body_bytes;
    }
}

/* Copy the nodes and buffers of a batch, each two numbers in `bytes`, to `nodes` and `places`, which count from the start of
 * the stream and end with an empty one. `outer` nodes have the length of the batch; `nullable` are pairs of a node and the
 * buffer that lists its missing cells; the caller vouches for the numbers of both. Returns 0 or a fault. */
SLIMCTR_API int64_t slimctr_arrow_batch(const uint8_t *bytes, int64_t size, int64_t nodes_at, int64_t node_count,
                                        int64_t buffers_at, int64_t buffer_count, int64_t body_at, int64_t body_bytes,
                                        int64_t length, int64_t max_length, const int64_t *outer, int64_t outer_count,
                                        const int64_t *nullable, int64_t nullable_count, int64_t *nodes, place *places)
{
    metadata m = {bytes, size, 0};
    if (!has(&m, nodes_at, 16 * node_count) || !has(&m, buffers_at, 16 * buffer_count) || !has(&m, body_at, body_bytes))
        return BAD_CALL;
    if (length < 0)
        return LONG;
    for (int64_t i = 0; i < 2 * node_count; i++) {
        nodes[i] = load_64(bytes + nodes_at + 8 * i);
        if (nodes[i] < 0 || nodes[i] > max_length)
            return LONG;
    }
    for (int64_t i = 0; i < buffer_count; i++) {
        int64_t at = load_64(bytes + buffers_at + 16 * i), taken = load_64(bytes + buffers_at + 16 * i + 8);
        if (at < 0 || at > body_bytes || taken < 0 || taken > body_bytes - at)
            return OUTSIDE;
        places[i].at = body_at + at;
        places[i].bytes = taken;
    }
    places[buffer_count].at = places[buffer_count].bytes = 0;
    for (int64_t i = 0; i < outer_count; i++)
        if (nodes[2 * outer[i]] != length)
            return UNEQUAL;
    for (int64_t i = 0; i < nullable_count; i++)
        if (nodes[2 * nullable[2 * i] + 1] > 0 && places[nullable[2 * i + 1]].bytes == 0)
            return UNLISTED;
    return 0;
}
