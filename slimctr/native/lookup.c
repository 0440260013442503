/* Row lookup: one call reads the rows of every table for a batch and writes the stored matrix (B, W) in float32.
 *
 * The codecs and their arithmetic are those of docs/artifact-format.md: float32, the product rounded before the
 * addition (the build sets -ffp-contract=off). Nothing is allocated and nothing but the output is written, so
 * calls may run side by side.
 *
 * Work goes block by block: the records of the next block are found and prefetched, then those of this one are
 * decoded, so that memory and arithmetic overlap. A block is some rows of one table, or of several tables where the
 * batch is small. A row is decoded in chunks of 64 elements: codes are unpacked into bytes, then bytes become
 * floats. The loops are plain, so that the compiler vectorises them in each clone of the entry point; the usual
 * widths are constants to it. */
#include "codes.h"
#include "kernels.h"

#include <string.h>

enum { CHUNK = 64, BLOCK = 64, PREFETCH_ROWS = 8, CACHE_LINE = 64 };
enum codec { FLOAT32, FLOAT16, INT8_ROW, PLANES, STREAM, QUOTIENT_REMAINDER, MASKED_FLOAT32, MASKED_FLOAT16 };
enum pooling { SINGLE, MEAN, SUM };

struct segment {
    const uint8_t *records;
    int64_t start_row, rows, record_bytes;
    int32_t bits, scale_row;               /* scale_row: which row of the table's scales and minimums it uses */
};

struct table {
    const struct segment *segments;
    const uint8_t *end;                    /* one past the last byte of the codes */
    const float *scales, *minimums;        /* (rows, dim); NULL when each record ends with its own two */
    int64_t rows;
    int32_t segment_count, codec, dim, column;
    int32_t source, pooling;               /* column of `ids`, or index of the bag when pooled */
    int32_t divisor, multiplies;           /* of quotients and remainders, whose rows follow each other */
};

struct bag {
    const int32_t *values, *offsets;
    int64_t count;
};

struct record {
    const uint8_t *bytes;
    const struct segment *segment;
    int32_t bits, repeats;                 /* repeats: every row of the block reads this record */
    const uint8_t *remainder;
};

#include "masked.h"

INLINE struct record locate(const struct table *table, int codec, int32_t id) {
    const struct segment *segment = table->segments;
    int64_t row = (uint32_t)id < (uint64_t)table->rows ? id : 0;
    if (codec == QUOTIENT_REMAINDER) {
        int64_t quotients = (table->rows + table->divisor - 1) / table->divisor;
        return (struct record){segment->records + row / table->divisor * segment->record_bytes, segment, 0, 0,
                               segment->records + (quotients + row % table->divisor) * segment->record_bytes};
    }
    if (codec == MASKED_FLOAT32 || codec == MASKED_FLOAT16) return locate_masked(table, row);
    int place = 0;  /* counted without branches: rows of all segments come in no order */
    for (int next = 1; next < table->segment_count; next++) place += row >= table->segments[next].start_row;
    segment += place;
    return (struct record){segment->records + (row - segment->start_row) * segment->record_bytes, segment,
                           segment->bits, 0, 0};
}

/* Without branches for records of a cache line or less, which may straddle two. */
INLINE void prefetch(struct record record) {
    int64_t bytes = record.segment->record_bytes;
    __builtin_prefetch(record.bytes);
    for (int64_t at = CACHE_LINE; at < bytes; at += CACHE_LINE) __builtin_prefetch(record.bytes + at);
    __builtin_prefetch(record.bytes + bytes - (bytes > 0));
    if (record.remainder) __builtin_prefetch(record.remainder);
}

/* Write elements start .. start+count of one row to `out`; `start` is a multiple of CHUNK. */
INLINE void decode_chunk(const struct table *table, struct record record, int codec, int dim, int start, int count,
                         float *restrict out) {
    uint8_t unpacked[CHUNK], flip = 0;
    const uint8_t *codes = unpacked;
    if (codec == FLOAT32) {
        memcpy(out, record.bytes + (size_t)start * sizeof(float), (size_t)count * sizeof(float));
        return;
    }
    if (codec == QUOTIENT_REMAINDER) {
        float other[CHUNK];
        memcpy(out, record.bytes + (size_t)start * sizeof(float), (size_t)count * sizeof(float));
        memcpy(other, record.remainder + (size_t)start * sizeof(float), (size_t)count * sizeof(float));
        if (table->multiplies)
            for (int i = 0; i < count; i++) out[i] *= other[i];
        else
            for (int i = 0; i < count; i++) out[i] += other[i];
        return;
    }
    if (codec == MASKED_FLOAT32 || codec == MASKED_FLOAT16) {
        decode_masked(table, record, codec == MASKED_FLOAT32 ? 4 : 2, start, count, out);
        return;
    }
    if (codec == FLOAT16) {
        for (int i = 0; i < count; i++) out[i] = half_to_float(load_u16(record.bytes + 2 * (start + i)));
        return;
    }
    if (codec == INT8_ROW) {
        codes = record.bytes + start;
        flip = 0x80;  /* signed c as unsigned c + 128 */
    } else if (codec == PLANES && dim <= 8 && table->scales) {
        unpack_planes(record.bytes, table->end, record.bits, 1, start, count, unpacked);
    } else if (record.bits == 0) {
        memset(out, 0, (size_t)count * sizeof(float));
        return;
    } else if (codec == PLANES) {
        unpack_planes(record.bytes, table->end, record.bits, (dim + 7) / 8, start, count, unpacked);
    } else if (record.bits == 8) {
        codes = record.bytes + start;
    } else {
        unpack_stream(record.bytes, table->end, record.bits, start, count, unpacked);
    }
    int done = count / 8 * 8;
    if (table->scales) {
        size_t at = (size_t)record.segment->scale_row * (size_t)dim + (size_t)start;
        const float *scales = table->scales + at, *minimums = table->minimums + at;
        int32_t keep = codec == PLANES && !record.bits ? 0 : -1;
        for (int i = 0; i < done; i += 8) {
            floats8 scale, minimum;
            memcpy(&scale, scales + i, sizeof scale);
            memcpy(&minimum, minimums + i, sizeof minimum);
            dequantize8(codes + i, flip, &scale, &minimum, keep, out + i);
        }
        for (int i = done; i < count; i++) out[i] = keep ? scales[i] * (float)(codes[i] ^ flip) + minimums[i] : 0.0f;
    } else {
        const uint8_t *tail = record.bytes + record.segment->record_bytes - 4;
        float scale = half_to_float(load_u16(tail)), minimum = half_to_float(load_u16(tail + 2));
        floats8 scales = EIGHT(scale), minimums = EIGHT(minimum);
        for (int i = 0; i < done; i += 8) dequantize8(codes + i, flip, &scales, &minimums, -1, out + i);
        for (int i = done; i < count; i++) out[i] = scale * (float)(codes[i] ^ flip) + minimum;
    }
}

INLINE void decode_row(const struct table *table, struct record record, int codec, int dim, float *restrict out) {
    for (int start = 0; start < dim; start += CHUNK)
        decode_chunk(table, record, codec, dim, start, dim - start < CHUNK ? dim - start : CHUNK, out + start);
}

INLINE void add_row(const struct table *table, struct record record, int codec, float *restrict out) {
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
    for (int64_t row = 0; row < distinct; row++) decode_row(table, found[row], codec, dim, out + row * width);
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
            if (at == first)
                decode_row(table, locate(table, codec, bag->values[at]), codec, table->dim, out);
            else
                add_row(table, locate(table, codec, bag->values[at]), codec, out);
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

/* One instance per codec, so that the choice of codec leaves the inner loops. */
#define FOR_CODEC(table, statement)                                     \
    switch ((enum codec)(table)->codec) {                               \
        case FLOAT32: statement(FLOAT32); break;                        \
        case FLOAT16: statement(FLOAT16); break;                        \
        case INT8_ROW: statement(INT8_ROW); break;                      \
        case PLANES: statement(PLANES); break;                          \
        case STREAM: statement(STREAM); break;                          \
        case QUOTIENT_REMAINDER: statement(QUOTIENT_REMAINDER); break;  \
        case MASKED_FLOAT32: statement(MASKED_FLOAT32); break;          \
        case MASKED_FLOAT16: statement(MASKED_FLOAT16); break;          \
    }

/* Whether a block asks one row of a table for all of its instances: the context of a slate. */
INLINE int is_constant(const int32_t *ids, int64_t rows, int64_t singles) {
    if (rows < 2 || ids[0] != ids[singles] || ids[0] != ids[(rows - 1) * singles]) return 0;
    int32_t differs = 0;
    for (int64_t row = 1; row < rows; row++) differs |= ids[row * singles] ^ ids[0];
    return !differs;
}

/* Find the records of rows start .. start+rows of tables first .. stop, one table after the other. */
INLINE void find_block(const struct table *tables, int64_t first, int64_t stop, const int32_t *ids, int64_t rows,
                       int64_t singles, struct record *found) {
    for (int64_t index = first; index < stop; index++, found += rows) {
        const struct table *table = &tables[index];
        if (table->pooling != SINGLE) continue;
        if (is_constant(ids + table->source, rows, singles)) {
            found[0] = locate(table, table->codec, ids[table->source]);
            found[0].repeats = 1;
            prefetch(found[0]);
            continue;
        }
        for (int64_t row = 0; row < rows; row++) {
            found[row] = locate(table, table->codec, ids[row * singles + table->source]);
            prefetch(found[row]);
        }
    }
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
