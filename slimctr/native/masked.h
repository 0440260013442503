/* Rows of tables that keep single values behind masks: blocks of an offset and 16 masks, then the values kept.
 * Included by records.h, whose names it uses. */
#ifndef SLIMCTR_MASKED_H
#define SLIMCTR_MASKED_H

enum { MASKED_BLOCK_ROWS = 16, MASKED_OFFSET_BYTES = 4 };

INLINE int64_t set_bits(const uint8_t *bytes, int64_t count) {
    int64_t total = 0;
    for (; count >= 8; bytes += 8, count -= 8) {
        uint64_t eight;
        memcpy(&eight, bytes, sizeof eight);
        total += __builtin_popcountll(eight);
    }
    for (; count > 0; bytes++, count--) total += __builtin_popcount(*bytes);
    return total;
}

/* The mask of a row, and in `remainder` the block it lies in. */
INLINE struct record locate_masked(const struct table *table, int64_t row) {
    const struct segment *segment = table->segments;
    int64_t block_bytes = MASKED_OFFSET_BYTES + MASKED_BLOCK_ROWS * segment->record_bytes;
    const uint8_t *block = segment->records + row / MASKED_BLOCK_ROWS * block_bytes;
    return (struct record){
        block + MASKED_OFFSET_BYTES + row % MASKED_BLOCK_ROWS * segment->record_bytes, segment, 0, 0, block};
}

/* One chunk of at most 64 elements, whose mask bits fill one word. The index was checked when the table was opened;
 * values past the end still read as zeros, because the file may have changed since. */
INLINE void decode_masked(const struct table *table, struct record record, int value_bytes, int start, int count,
                          float *restrict out) {
    const uint8_t *bits = record.bytes + start / 8, *masks = record.remainder + MASKED_OFFSET_BYTES;
    int64_t blocks = (table->rows + MASKED_BLOCK_ROWS - 1) / MASKED_BLOCK_ROWS;
    const uint8_t *value =
        record.segment->records + blocks * MASKED_OFFSET_BYTES + table->rows * record.segment->record_bytes;
    uint64_t kept = 0;
    uint32_t offset;
    memset(out, 0, (size_t)count * sizeof(float));
    for (int byte = 0; byte < (count + 7) / 8; byte++) kept |= (uint64_t)bits[byte] << (8 * byte);
    if (count < 64) kept &= ((uint64_t)1 << count) - 1;
    memcpy(&offset, record.remainder, sizeof offset);
    int64_t first = offset + set_bits(masks, bits - masks);
    if ((first + __builtin_popcountll(kept)) * value_bytes > table->end - value) return;
    value += first * value_bytes;
    for (; kept; kept &= kept - 1, value += value_bytes) {
        float *element = out + __builtin_ctzll(kept);
        if (value_bytes == (int)sizeof(float))
            memcpy(element, value, sizeof(float));
        else
            *element = half_to_float(load_u16(value));
    }
}

#endif
