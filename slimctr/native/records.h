/* Where the rows of a table lie: the record of an id, and the records of a block of rows, found and prefetched. */
#ifndef SLIMCTR_RECORDS_H
#define SLIMCTR_RECORDS_H

#include "codes.h"

enum { BLOCK = 64, CACHE_LINE = 64, MANY_ROWS = 16 };
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

struct record {
    const uint8_t *bytes;
    const struct segment *segment;
    int32_t bits, repeats;                 /* repeats: every row of the block reads this record */
    const uint8_t *remainder;
};

#include "masked.h"

INLINE struct record record_of(const struct segment *segment, int64_t row) {
    return (struct record){segment->records + (row - segment->start_row) * segment->record_bytes, segment,
                           segment->bits, 0, 0};
}

/* An id outside of its table reads row 0. */
INLINE int64_t row_of(const struct table *table, int32_t id) { return (uint32_t)id < (uint64_t)table->rows ? id : 0; }

INLINE struct record locate(const struct table *table, int codec, int32_t id) {
    const struct segment *segment = table->segments;
    int64_t row = row_of(table, id);
    if (codec == QUOTIENT_REMAINDER) {
        int64_t quotients = (table->rows + table->divisor - 1) / table->divisor;
        return (struct record){segment->records + row / table->divisor * segment->record_bytes, segment, 0, 0,
                               segment->records + (quotients + row % table->divisor) * segment->record_bytes};
    }
    if (codec == MASKED_FLOAT32 || codec == MASKED_FLOAT16) return locate_masked(table, row);
    int place = 0;  /* counted without branches: rows of all segments come in no order */
    for (int next = 1; next < table->segment_count; next++) place += row >= segment[next].start_row;
    return record_of(segment + place, row);
}

/* Without branches for records of a cache line or less, which may straddle two. */
INLINE void prefetch(struct record record) {
    int64_t bytes = record.segment->record_bytes;
    __builtin_prefetch(record.bytes);
    for (int64_t at = CACHE_LINE; at < bytes; at += CACHE_LINE) __builtin_prefetch(record.bytes + at);
    __builtin_prefetch(record.bytes + bytes - (bytes > 0));
    if (record.remainder) __builtin_prefetch(record.remainder);
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

/* The segments of up to BLOCK rows at once: each start is compared with eight rows in a vector. */
INLINE void find_in_segments(const struct table *table, const int32_t *ids, int64_t count, int64_t singles,
                             struct record *found) {
    int32_t rows[BLOCK] = {0}, places[BLOCK] = {0};
    for (int64_t i = 0; i < count; i++) rows[i] = (int32_t)row_of(table, ids[i * singles]);
    for (int next = 1; next < table->segment_count; next++) {
        int32_t start = (int32_t)table->segments[next].start_row;
        for (int i = 0; i < BLOCK; i++) places[i] += rows[i] >= start;
    }
    for (int64_t i = 0; i < count; i++) {
        found[i] = record_of(&table->segments[places[i]], rows[i]);
        prefetch(found[i]);
    }
}

INLINE void find_rows(const struct table *table, int codec, const int32_t *ids, int64_t count, int64_t singles,
                      struct record *found) {
    if (count >= MANY_ROWS && (codec == PLANES || codec == STREAM) && table->segment_count > 1) {
        find_in_segments(table, ids, count, singles, found);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        found[i] = locate(table, codec, ids[i * singles]);
        prefetch(found[i]);
    }
}

#define FIND(codec) find_rows(table, codec, some, rows, singles, found)

/* Find the records of rows start .. start+rows of tables first .. stop, one table after the other. */
INLINE void find_block(const struct table *tables, int64_t first, int64_t stop, const int32_t *ids, int64_t rows,
                       int64_t singles, struct record *found) {
    for (int64_t index = first; index < stop; index++, found += rows) {
        const struct table *table = &tables[index];
        const int32_t *some = ids + table->source;
        if (table->pooling != SINGLE) continue;
        if (is_constant(some, rows, singles)) {
            found[0] = locate(table, table->codec, *some);
            found[0].repeats = 1;
            prefetch(found[0]);
        } else {
            FOR_CODEC(table, FIND)
        }
    }
}

#endif
