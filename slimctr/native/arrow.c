/* Rows of the keys in Arrow columns: text, booleans and numbers, as they are or behind a dictionary, with or without nulls.
 *
 * A column is untrusted: every place is checked against the bytes before it is read, every offset and index against what
 * it leads to. Places need no alignment.
 *
 * No function allocates or keeps state.
 */
#include "arrow.h"
#include "keys.h"

#define OK (-1)
#define MAX_INTEGER ((INT64_C(1) << 53) - 1)

/* Reasons of a refusal; the last five concern one cell. */
enum { BAD_RUN = 1, OUTSIDE, BAD_INDEX, BAD_OFFSETS, NOT_UTF8, TOO_LARGE, NO_VALUE, TOO_MUCH, FRACTION };

/* Integer types have the number of their bytes, negative when unsigned. */
enum { NO_TYPE = 0, TEXT_32 = 32, TEXT_64 = 64, BOOLEAN = 101, TEXT_VIEWS = 128, FLOAT_32 = 132, FLOAT_64 = 164 };

/* A view is the length of a text (4 bytes), and the text itself if it has 12 bytes or less, padded; else its first 4 bytes,
 * the number of the buffer that has it and the place in that. */
enum { VIEW_BYTES = 16, INLINE_BYTES = 12 };

/* Cells first .. first + cells - 1 of a column. `nulls` and `entry_nulls` are bits, 0 = missing, or nothing. Where
 * index_type is not NO_TYPE, a cell is the number of an entry; else it is the entry of its own number. Views lie in
 * `offsets`; their texts in the buffers views_start .. views_start + views - 1 of those that all columns share. */
typedef struct {
    int64_t field, type, index_type, required, first, cells, entries, out_start, out_stride, row, views_start, views;
    place nulls, indices, entry_nulls, offsets, data;
} arrow_cells;

typedef struct {
    int64_t reason, cell;
} refusal;

static inline int has(place p, int64_t count, int64_t width)
{
    return p.bytes / width >= count;
}

static inline int is_set(const uint8_t *bytes, place bits, int64_t i)
{
    return bits.bytes == 0 || (bytes[bits.at + (i >> 3)] >> (i & 7) & 1);
}

/* An integer of a type; what is beyond int64 becomes INT64_MAX, which is beyond every limit. */
static inline int64_t load_integer(const uint8_t *bytes, place p, int64_t type, int64_t i)
{
    int64_t width = type < 0 ? -type : type;
    const uint8_t *at = bytes + p.at + i * width;
    uint16_t short_value;
    switch (width) {
    case 1:
        return type < 0 ? (int64_t)*at : (int64_t)(int8_t)*at;
    case 2:
        memcpy(&short_value, at, 2);
        return type < 0 ? (int64_t)short_value : (int64_t)(int16_t)short_value;
    case 4:
        return type < 0 ? (int64_t)(uint32_t)load_32(at) : load_32(at);
    default:
        return type < 0 && load_64(at) < 0 ? INT64_MAX : load_64(at);
    }
}

static inline double load_float(const uint8_t *bytes, place p, int64_t type, int64_t i)
{
    float single;
    double number;
    if (type == FLOAT_32) {
        memcpy(&single, bytes + p.at + 4 * i, 4);
        return single;
    }
    memcpy(&number, bytes + p.at + 8 * i, 8);
    return number;
}

static int is_utf8(const uint8_t *p, int64_t length)
{
    const uint8_t *end = p + length;
    while (p < end) {
        if (*p < 0x80) {
            p++;
            continue;
        }
        int more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
        if (*p < 0xc2 || *p > 0xf4 || end - p <= more)
            return 0;
        /* No overlong form, no surrogate, nothing beyond U+10FFFF. */
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
            (*p == 0xf4 && p[1] > 0x8f))
            return 0;
        for (p++; more > 0; more--, p++)
            if ((*p & 0xc0) != 0x80)
                return 0;
    }
    return 1;
}

static inline int has_high_bytes(const uint8_t *p, int64_t length)
{
    uint8_t all = 0;
    for (int64_t i = 0; i < length; i++)
        all |= p[i];
    return all >> 7;
}

static int is_type(int64_t type, int is_index)
{
    int64_t width = type < 0 ? -type : type;
    int is_other = type == TEXT_32 || type == TEXT_64 || type == TEXT_VIEWS || type == BOOLEAN || type == FLOAT_32 ||
                   type == FLOAT_64;
    return (!is_index && is_other) || width == 1 || width == 2 || width == 4 || width == 8;
}

/* Whether every buffer lies in the bytes and holds what its cells or entries need. Returns 0 or a reason. */
static int64_t check(const arrow_cells *c, int64_t bytes, int64_t buffers)
{
    const place *places[] = {&c->nulls, &c->indices, &c->entry_nulls, &c->offsets, &c->data};
    for (int i = 0; i < 5; i++)
        if (places[i]->at < 0 || places[i]->bytes < 0 || places[i]->at > bytes || places[i]->bytes > bytes - places[i]->at)
            return OUTSIDE;
    if (c->type == NO_TYPE)
        return 0;
    if (!is_type(c->type, 0) || (c->index_type != NO_TYPE && !is_type(c->index_type, 1)) || c->first < 0 ||
        c->entries < 0 || c->entries >= INT64_MAX / 8)
        return BAD_RUN;
    int64_t end = c->first + c->cells, width = c->index_type < 0 ? -c->index_type : c->index_type;
    if (end < c->first || (c->nulls.bytes && !has(c->nulls, end / 8 + (end % 8 > 0), 1)))
        return OUTSIDE;
    if (width ? !has(c->indices, end, width) : end > c->entries)
        return OUTSIDE;
    if (c->entries == 0) /* an empty column may come without offsets */
        return 0;
    if (c->entry_nulls.bytes && !has(c->entry_nulls, (c->entries + 7) / 8, 1))
        return OUTSIDE;
    if (c->type == TEXT_32 || c->type == TEXT_64)
        return has(c->offsets, c->entries + 1, c->type / 8) ? 0 : OUTSIDE;
    if (c->type == TEXT_VIEWS) {
        if (c->views_start < 0 || c->views < 0 || c->views_start > buffers || c->views > buffers - c->views_start)
            return BAD_RUN;
        return has(c->offsets, c->entries, VIEW_BYTES) ? 0 : OUTSIDE;
    }
    if (c->type == BOOLEAN)
        return has(c->data, (c->entries + 7) / 8, 1) ? 0 : OUTSIDE;
    if (c->type == FLOAT_32 || c->type == FLOAT_64)
        return has(c->data, c->entries, c->type == FLOAT_32 ? 4 : 8) ? 0 : OUTSIDE;
    return has(c->data, c->entries, c->type < 0 ? -c->type : c->type) ? 0 : OUTSIDE;
}

/* The text of a view, and the end of the buffer that it lies in; NULL when it does not lie in one. */
static inline const uint8_t *text_of(const uint8_t *view, const arrow_cells *c, const uint8_t *bytes, const place *buffers,
                                     int64_t length, const uint8_t **end)
{
    if (length <= INLINE_BYTES) {
        *end = view + VIEW_BYTES;
        return view + 4;
    }
    int64_t number = load_32(view + 8), at = load_32(view + 12);
    if (number < 0 || number >= c->views)
        return NULL;
    place buffer = buffers[c->views_start + number];
    if (at < 0 || at > buffer.bytes || length > buffer.bytes - at)
        return NULL;
    *end = bytes + buffer.at + buffer.bytes;
    return bytes + buffer.at + at;
}

/* The hash of one cell, and whether it is missing. `text_left` is what of all text may still be read. Returns 0 or a
 * reason. */
static inline int64_t read_cell(const arrow_cells *c, const uint8_t *bytes, const place *buffers, int64_t cell, uint64_t seed, int high,
                                uint64_t *hash, uint8_t *is_missing, int64_t *text_left)
{
    int64_t entry = cell;
    *is_missing = c->type == NO_TYPE || !is_set(bytes, c->nulls, cell);
    if (!*is_missing && c->index_type != NO_TYPE) {
        entry = load_integer(bytes, c->indices, c->index_type, cell);
        if (entry < 0 || entry >= c->entries)
            return BAD_INDEX;
    }
    if (!*is_missing)
        *is_missing = !is_set(bytes, c->entry_nulls, entry);
    if (!*is_missing && (c->type == TEXT_32 || c->type == TEXT_64)) {
        const uint8_t *offset = bytes + c->offsets.at + entry * (c->type / 8);
        int64_t start = c->type == TEXT_32 ? load_32(offset) : load_64(offset);
        int64_t stop = c->type == TEXT_32 ? load_32(offset + 4) : load_64(offset + 8);
        if (start < 0 || stop < start || stop > c->data.bytes)
            return BAD_OFFSETS;
        const uint8_t *key = bytes + c->data.at + start;
        if ((*text_left -= stop - start) < 0)
            return TOO_MUCH;
        if (high && !is_utf8(key, stop - start))
            return NOT_UTF8;
        *hash = hash_cell(key, stop - start, bytes + c->data.at + c->data.bytes, seed);
        *is_missing = stop == start;
    } else if (!*is_missing && c->type == TEXT_VIEWS) {
        const uint8_t *view = bytes + c->offsets.at + entry * VIEW_BYTES, *end;
        int64_t length = load_32(view);
        const uint8_t *key = length < 0 ? NULL : text_of(view, c, bytes, buffers, length, &end);
        if (!key)
            return BAD_OFFSETS;
        if ((*text_left -= length) < 0)
            return TOO_MUCH;
        if (!is_utf8(key, length))
            return NOT_UTF8;
        *hash = hash_cell(key, length, end, seed);
        *is_missing = length == 0;
    } else if (!*is_missing && c->type == BOOLEAN) {
        *hash = hash_boolean(bytes[c->data.at + entry / 8] >> (entry & 7) & 1, seed);
    } else if (!*is_missing) {
        int64_t value;
        if (c->type == FLOAT_32 || c->type == FLOAT_64) {
            double number = load_float(bytes, c->data, c->type, entry);
            if (!(number >= -MAX_INTEGER && number <= MAX_INTEGER))
                return number - number == 0 ? TOO_LARGE : FRACTION;
            value = (int64_t)number;
            if ((double)value != number)
                return FRACTION;
        } else
            value = load_integer(bytes, c->data, c->type, entry);
        if (value > MAX_INTEGER || value < -MAX_INTEGER)
            return TOO_LARGE;
        *hash = hash_integer(value, seed);
    }
    if (*is_missing) {
        if (c->required)
            return NO_VALUE;
        *hash = hash_integer(MISSING, seed);
    }
    return 0;
}

/* What read_cell does for cells of ASCII text none of which is missing by a bit: returns how many of `n` it did, all but
 * from the first one on that is refused. */
static inline int64_t plain_text(const arrow_cells *c, const uint8_t *bytes, int64_t done, int64_t n, uint64_t seed,
                                 uint64_t *hashes, uint8_t *is_missing, int64_t *text_left)
{
    const uint8_t *offsets = bytes + c->offsets.at + 4 * (c->first + done), *text = bytes + c->data.at;
    for (int64_t i = 0; i < n; i++) {
        int64_t start = load_32(offsets + 4 * i), stop = load_32(offsets + 4 * i + 4);
        if (start < 0 || stop < start || stop > c->data.bytes || stop - start > *text_left)
            return i;
        *text_left -= stop - start;
        hashes[i] = hash_cell(text + start, stop - start, text + c->data.bytes, seed);
        is_missing[i] = stop == start;
    }
    return n;
}

static int lie_inside(const place *buffers, int64_t count, int64_t bytes)
{
    for (int64_t i = 0; i < count; i++)
        if (buffers[i].at < 0 || buffers[i].bytes < 0 || buffers[i].at > bytes || buffers[i].bytes > bytes - buffers[i].at)
            return 0;
    return 1;
}

/* Write the rows of all cells and add to missing[field] and unlisted[field]; at most `text_left` bytes of text are
 * read. Returns OK, or the number of the first columns[] that is refused, and why in `why`. */
SLIMCTR_API int64_t slimctr_encode_arrow(const key_table *table, const uint8_t *bytes, int64_t size,
                                         const place *buffers, int64_t buffer_count, const arrow_cells *columns,
                                         int64_t count, int32_t *out, int64_t out_size, int64_t *missing, int64_t *unlisted, int64_t text_left, refusal *why)
{
    uint64_t hashes[BLOCK];
    uint8_t is_missing[BLOCK];
    const arrow_cells *checked = NULL;
    int high = 0;
    why->cell = -1;
    why->reason = OUTSIDE;
    if (!lie_inside(buffers, buffer_count, size))
        return 0;
    for (int64_t number = 0; number < count; number++) {
        const arrow_cells *c = columns + number;
        why->cell = -1;
        why->reason = BAD_RUN;
        if (c->cells == 0)
            continue;
        if (c->field < 0 || c->field >= table->fields || c->cells < 0 || c->out_start < 0 || c->out_stride < 1 ||
            c->out_start >= out_size || c->cells - 1 > (out_size - 1 - c->out_start) / c->out_stride)
            return number;
        if ((why->reason = check(c, size, buffer_count)))
            return number;
        /* The bags of one column come one after another: their text is looked through once. */
        if (!checked || checked->data.at != c->data.at || checked->data.bytes != c->data.bytes) {
            if ((c->type == TEXT_32 || c->type == TEXT_64)) {
                high = has_high_bytes(bytes + c->data.at, c->data.bytes);
                checked = c;
            }
        }
        key_run run = {c->field, c->cells, c->out_start, c->out_stride, 0, 0};
        int plain = c->type == TEXT_32 && c->index_type == NO_TYPE && !c->nulls.bytes && !c->entry_nulls.bytes &&
                    !c->required && !high;
        for (int64_t done = 0; done < c->cells; done += BLOCK) {
            int64_t n = c->cells - done < BLOCK ? c->cells - done : BLOCK;
            int64_t i = plain ? plain_text(c, bytes, done, n, table->seeds[run.field], hashes, is_missing, &text_left) : 0;
            for (; i < n; i++) {
                why->cell = c->first + done + i;
                why->reason = read_cell(c, bytes, buffers, why->cell, table->seeds[run.field], high, hashes + i, is_missing + i,
                                        &text_left);
                if (why->reason)
                    return number;
            }
            encode_block(table, &run, done, n, hashes, is_missing, out);
        }
        missing[run.field] += run.missing;
        unlisted[run.field] += run.unlisted;
    }
    return OK;
}

/* Copy the records of a plan to `out` as those of one batch: of `cells` cells that start at row `row` and at `out_start` of the
 * rows. `buffers` (count, 4) say which of `places` hold nulls, indices, offsets and data of a record; less than 0 is none.
 * Returns OK, or the number of the first record whose buffers are not among the places. */
SLIMCTR_API int64_t slimctr_arrow_cells(const arrow_cells *plan, const int64_t *buffers, int64_t count, const place *places,
                                        int64_t place_count, int64_t cells, int64_t out_start, int64_t row,
                                        arrow_cells *out)
{
    const place none = {0, 0};
    for (int64_t i = 0; i < count; i++) {
        place found[4];
        for (int64_t k = 0; k < 4; k++) {
            int64_t buffer = buffers[4 * i + k];
            if (buffer >= place_count)
                return i;
            found[k] = buffer < 0 ? none : places[buffer];
        }
        out[i] = plan[i];
        out[i].cells = out[i].entries = cells;
        out[i].out_start += out_start;
        out[i].row = row;
        out[i].nulls = found[0];
        out[i].indices = found[1];
        out[i].offsets = found[2];
        out[i].data = found[3];
    }
    return OK;
}
