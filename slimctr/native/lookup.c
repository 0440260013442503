/* Row lookup: one call reads the rows of every table for a batch and writes the stored matrix (B, W) in float32.
 *
 * The codecs and their arithmetic are those of docs/artifact-format.md: float32, the product rounded before the
 * addition (the build sets -ffp-contract=off). Nothing is allocated and nothing but the output is written, so
 * calls may run side by side.
 *
 * Work goes block by block: the records of the next block are found and prefetched, then those of this one are
 * decoded, so that memory and arithmetic overlap. A block is some rows of one table, or of several tables where the
 * batch is small. Eight codes at a time are unpacked into integers, which become floats. Vectors are spelled in the
 * compiler's own terms, so that each clone of the entry point has them in its instructions; the usual widths are
 * constants to it. */
#include "codes.h"
#include "kernels.h"
#include "records.h"

#include <string.h>

enum { CHUNK = 64, PREFETCH_ROWS = 8 };

struct bag {
    const int32_t *values, *offsets;
    int64_t count;
};

/* Codes start .. start+count of a packed row, 1 to 8 of them; what follows those is of no meaning. */
INLINE words8 read_codes(const struct table *table, const struct record *record, int codec, int dim, int start,
                         int count) {
    if (codec == PLANES) return read_planes(record->bytes, table->end, record->bits, (dim + 7) / 8, start / 8);
    if (codec != INT8_ROW && record->bits != 8)
        return split_stream(load_word(record->bytes + start / 8 * record->bits, table->end), record->bits);
    const uint8_t *bytes = record->bytes + start;
    return split_stream(load_word(bytes, count == 8 ? bytes + 8 : table->end), 8);
}

/* Write scale * code + minimum of elements start .. start+count, the product rounded before the addition; zeros for
 * planes of 0 bits, which come among others too often to be a branch. */
INLINE void dequantize(const struct table *table, const struct record *record, int codec, int dim, int start, int count,
                       float *restrict out) {
    int32_t keep = codec != PLANES || record->bits ? -1 : 0, flip = codec == INT8_ROW ? 0x80 : 0;
    if (codec == INT8_ROW || !table->scales) {
        const uint8_t *tail = record->bytes + record->segment->record_bytes - 4;
        float scale = half_to_float(load_u16(tail)), minimum = half_to_float(load_u16(tail + 2));
        floats8 scales = EIGHT(scale), minimums = EIGHT(minimum);
        for (int i = 0; i < count; i += 8) {
            int some = count - i < 8 ? count - i : 8;
            ints8 codes = (ints8)read_codes(table, record, codec, dim, start + i, some) ^ flip;
            store_floats(scales * __builtin_convertvector(codes, floats8) + minimums, some, out + i);
        }
        return;
    }
    size_t at = (size_t)record->segment->scale_row * (size_t)dim + (size_t)start;
    const float *scales = table->scales + at, *minimums = table->minimums + at;
    if (dim == 1 && codec == STREAM) {
        *out = *scales * (float)(*record->bytes & ((1 << record->bits) - 1)) + *minimums;
        return;
    }
    for (int i = 0; i < count; i += 8) {
        int some = count - i < 8 ? count - i : 8;
        ints8 codes = (ints8)read_codes(table, record, codec, dim, start + i, some);
        floats8 scale = load_floats(scales + i, some), minimum = load_floats(minimums + i, some);
        floats8 values = scale * __builtin_convertvector(codes, floats8) + minimum;
        store_floats((floats8)((ints8)values & keep), some, out + i);
    }
}

/* Write elements start .. start+count of one row to `out`; `start` is a multiple of CHUNK. */
INLINE void decode_chunk(const struct table *table, const struct record *record, int codec, int dim, int start,
                         int count, float *restrict out) {
    if (codec == FLOAT32) {
        memcpy(out, record->bytes + (size_t)start * sizeof(float), (size_t)count * sizeof(float));
    } else if (codec == QUOTIENT_REMAINDER) {
        float other[CHUNK];
        memcpy(out, record->bytes + (size_t)start * sizeof(float), (size_t)count * sizeof(float));
        memcpy(other, record->remainder + (size_t)start * sizeof(float), (size_t)count * sizeof(float));
        if (table->multiplies)
            for (int i = 0; i < count; i++) out[i] *= other[i];
        else
            for (int i = 0; i < count; i++) out[i] += other[i];
    } else if (codec == MASKED_FLOAT32 || codec == MASKED_FLOAT16) {
        decode_masked(table, *record, codec == MASKED_FLOAT32 ? 4 : 2, start, count, out);
    } else if (codec == FLOAT16) {
        for (int i = 0; i < count; i++) out[i] = half_to_float(load_u16(record->bytes + 2 * (start + i)));
    } else if (codec != INT8_ROW && record->bits == 0 && (codec == STREAM || !table->scales)) {
        memset(out, 0, (size_t)count * sizeof(float));
    } else {
        dequantize(table, record, codec, dim, start, count, out);
    }
}

INLINE void decode_row(const struct table *table, const struct record *record, int codec, int dim, float *restrict out) {
    for (int start = 0; start < dim; start += CHUNK)
        decode_chunk(table, record, codec, dim, start, dim - start < CHUNK ? dim - start : CHUNK, out + start);
}

INLINE void add_row(const struct table *table, const struct record *record, int codec, float *restrict out) {
    float chunk[CHUNK];
    for (int start = 0; start < table->dim; start += CHUNK) {
        int count = table->dim - start < CHUNK ? table->dim - start : CHUNK;
        decode_chunk(table, record, codec, table->dim, start, count, chunk);
        for (int i = 0; i < count; i++) out[start + i] += chunk[i];
    }
}

INLINE void decode_rows(const struct table *table, const struct record *found, int64_t rows, int codec, int dim,
                        float *restrict out, int64_t width) {
    int64_t distinct = found->repeats ? 1 : rows;
    for (int64_t row = 0; row < distinct; row++) decode_row(table, &found[row], codec, dim, out + row * width);
    for (int64_t row = distinct; row < rows; row++) memcpy(out + row * width, out, (size_t)dim * sizeof(float));
}

/* Rows are added in the order of the bag, starting from the first; an empty bag reads as zeros. */
INLINE void lookup_bag(const struct table *table, int codec, const struct bag *bag, int64_t batch, float *out,
                       int64_t width) {
    out += table->column;
    for (int64_t row = 0; row < batch; row++, out += width) {
        int32_t first = bag->offsets[row], stop = bag->offsets[row + 1];
        if (first == stop) {
            memset(out, 0, (size_t)table->dim * sizeof(float));
            continue;
        }
        for (int32_t at = first; at < stop; at++) {
            if (at + PREFETCH_ROWS < bag->count) prefetch(locate(table, codec, bag->values[at + PREFETCH_ROWS]));
            struct record record = locate(table, codec, bag->values[at]);
            if (at == first)
                decode_row(table, &record, codec, table->dim, out);
            else
                add_row(table, &record, codec, out);
        }
        if (table->pooling == MEAN) {
            float count = (float)(stop - first);
            for (int i = 0; i < table->dim; i++) out[i] /= count;
        }
    }
}

static int well_formed(const struct bag *bag, int64_t batch) {
    if (bag->offsets[0] != 0 || bag->offsets[batch] != bag->count) return 0;
    for (int64_t row = 0; row < batch; row++)
        if (bag->offsets[row] > bag->offsets[row + 1]) return 0;
    return 1;
}

#define DECODE(codec)                                                              \
    switch (table->dim) {                                                          \
        case 1: decode_rows(table, found, rows, codec, 1, to, width); break;       \
        case 8: decode_rows(table, found, rows, codec, 8, to, width); break;       \
        case 16: decode_rows(table, found, rows, codec, 16, to, width); break;     \
        case 32: decode_rows(table, found, rows, codec, 32, to, width); break;     \
        default: decode_rows(table, found, rows, codec, table->dim, to, width);    \
    }

INLINE void decode_block(const struct table *tables, int64_t first, int64_t stop, const struct record *found,
                         int64_t rows, float *out, int64_t width) {
    for (int64_t index = first; index < stop; index++, found += rows) {
        const struct table *table = &tables[index];
        float *to = out + table->column;
        if (table->pooling == SINGLE) FOR_CODEC(table, DECODE)
    }
}

#define POOL(codec) lookup_bag(table, codec, &bags[table->source], batch, out, width)

SLIMCTR_CLONES
static void lookup_tables(const struct table *tables, int64_t table_count, const int32_t *ids, int64_t batch,
                          int64_t singles, const struct bag *bags, float *out, int64_t width) {
    struct record found[2][BLOCK];
    int64_t most_rows = batch < BLOCK ? batch : BLOCK, step = most_rows ? BLOCK / most_rows : 1;
    for (int64_t start = 0; start < batch; start += most_rows) {
        int64_t rows = batch - start < most_rows ? batch - start : most_rows;
        const int32_t *some = ids + start * singles;
        find_block(tables, 0, step < table_count ? step : table_count, some, rows, singles, found[0]);
        for (int64_t first = 0, turn = 0; first < table_count; first += step, turn ^= 1) {
            int64_t next = first + step < table_count ? first + step : table_count;
            int64_t stop = next + step < table_count ? next + step : table_count;
            find_block(tables, next, stop, some, rows, singles, found[turn ^ 1]);
            decode_block(tables, first, next, found[turn], rows, out + start * width, width);
        }
    }
    for (int64_t index = 0; index < table_count; index++) {
        const struct table *table = &tables[index];
        if (table->pooling != SINGLE) FOR_CODEC(table, POOL)
    }
}

/* Fill out (batch, width) from ids (batch, singles) and the bags. Returns 0, or 1 + index of a malformed bag,
 * in which case nothing was written. */
SLIMCTR_API int32_t slimctr_lookup(const struct table *tables, int64_t table_count, const int32_t *ids,
                                   int64_t batch, int64_t singles, const struct bag *bags, int64_t bag_count,
                                   float *out, int64_t width) {
    for (int64_t bag = 0; bag < bag_count; bag++)
        if (!well_formed(&bags[bag], batch)) return (int32_t)bag + 1;
    lookup_tables(tables, table_count, ids, batch, singles, bags, out, width);
    return 0;
}

/* Widen `count` half-precision numbers: the conversion that the codecs use, exposed for its exhaustive test. */
SLIMCTR_API void slimctr_widen(const uint8_t *halves, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) out[i] = half_to_float(load_u16(halves + 2 * i));
}
