/* Rows of keys: in text with offsets, integers, and spans of a JSON text; `keys.h` has hash and probe.
 *
 * No function allocates or keeps state.
 */
#include "keys.h"

#define OK (-1)
#define BAD_RUN (-2)

/* Whether the runs cover `keys` keys of known fields and write only inside out[0 .. out_size-1]. Clears their counts. */
static int runs_fit(const key_table *table, key_run *runs, int64_t run_count, int64_t keys, int64_t out_size)
{
    for (key_run *run = runs; run < runs + run_count; run++) {
        run->missing = run->unlisted = 0;
        if (run->field < 0 || run->field >= table->fields || run->keys < 0 || run->keys > keys)
            return 0;
        keys -= run->keys;
        if (run->keys == 0)
            continue;
        if (run->out_start < 0 || run->out_start >= out_size || run->out_stride < 1)
            return 0;
        if (run->keys - 1 > (out_size - 1 - run->out_start) / run->out_stride)
            return 0;
    }
    return keys == 0;
}

/* Hash keys data[starts[i] .. ends[i]-1] with one seed. Returns OK, or the first key that leaves `data`. */
SLIMCTR_API int64_t slimctr_hash_text(const uint8_t *data, int64_t bytes, const int64_t *starts, const int64_t *ends,
                                      int64_t keys, uint64_t seed, uint64_t *hashes)
{
    for (int64_t i = 0; i < keys; i++) {
        if (starts[i] < 0 || ends[i] < starts[i] || ends[i] > bytes)
            return i;
        hashes[i] = hash_cell(data + starts[i], ends[i] - starts[i], data + bytes, seed);
    }
    return OK;
}

/* Rows of text keys, run after run. Returns OK, BAD_RUN, or the first key that leaves `data`. */
SLIMCTR_API int64_t slimctr_encode_text(const key_table *table, const uint8_t *data, int64_t bytes,
                                        const int64_t *starts, const int64_t *ends, int64_t keys, key_run *runs,
                                        int64_t run_count, int32_t *out, int64_t out_size)
{
    uint64_t hashes[BLOCK];
    uint8_t is_missing[BLOCK];
    int64_t key = 0;
    if (!runs_fit(table, runs, run_count, keys, out_size))
        return BAD_RUN;
    for (key_run *run = runs; run < runs + run_count; run++)
        for (int64_t done = 0; done < run->keys; done += BLOCK) {
            int64_t n = run->keys - done < BLOCK ? run->keys - done : BLOCK;
            for (int64_t i = 0; i < n; i++, key++) {
                if (starts[key] < 0 || ends[key] < starts[key] || ends[key] > bytes)
                    return key;
                hashes[i] = hash_cell(data + starts[key], ends[key] - starts[key], data + bytes, table->seeds[run->field]);
                is_missing[i] = ends[key] == starts[key];
            }
            encode_block(table, run, done, n, hashes, is_missing, out);
        }
    return OK;
}

/* Rows of integer keys, run after run; INT64_MIN is the missing value. Returns OK or BAD_RUN. */
SLIMCTR_API int64_t slimctr_encode_integers(const key_table *table, const int64_t *values, int64_t keys, key_run *runs,
                                            int64_t run_count, int32_t *out, int64_t out_size)
{
    uint64_t hashes[BLOCK];
    uint8_t is_missing[BLOCK];
    if (!runs_fit(table, runs, run_count, keys, out_size))
        return BAD_RUN;
    for (key_run *run = runs; run < runs + run_count; run++)
        for (int64_t done = 0; done < run->keys; done += BLOCK) {
            int64_t n = run->keys - done < BLOCK ? run->keys - done : BLOCK;
            for (int64_t i = 0; i < n; i++, values++) {
                hashes[i] = hash_integer(*values, table->seeds[run->field]);
                is_missing[i] = *values == MISSING;
            }
            encode_block(table, run, done, n, hashes, is_missing, out);
        }
    return OK;
}

/* Where the keys of one field lie and where their rows go. */
typedef struct {
    int64_t field, column, out_start;
} span_column;

/* Rows of `rows` text keys of each column: key j is data[spans[at][0] .. spans[at][1]-1], at = column * column_stride +
 * j * row_stride; its row goes to out[out_start + j * out_stride]. Counts go to missing[field] and unlisted[field].
 * Returns OK, BAD_RUN, or the first key, counted through the columns, that leaves `data`. */
SLIMCTR_API int64_t slimctr_encode_spans(const key_table *table, const uint8_t *data, int64_t bytes,
                                         const int32_t *spans, int64_t span_count, int64_t column_stride,
                                         int64_t row_stride, int64_t rows, const span_column *columns,
                                         int64_t column_count, int32_t *out, int64_t out_stride, int64_t out_size,
                                         int64_t *missing, int64_t *unlisted)
{
    uint64_t hashes[BLOCK];
    uint8_t is_missing[BLOCK];
    for (int64_t c = 0; c < column_count; c++) {
        key_run run = {columns[c].field, rows, columns[c].out_start, out_stride, 0, 0};
        int64_t first = columns[c].column * column_stride;
        if (!runs_fit(table, &run, 1, rows, out_size) || first < 0 || row_stride < 1 || first >= span_count ||
            (rows - 1) * row_stride >= span_count - first)
            return BAD_RUN;
        const int32_t *span = spans + 2 * first;
        for (int64_t done = 0; done < rows; done += BLOCK) {
            int64_t n = rows - done < BLOCK ? rows - done : BLOCK;
            for (int64_t i = 0; i < n; i++, span += 2 * row_stride) {
                if (span[0] < 0 || span[1] < span[0] || span[1] > bytes)
                    return c * rows + done + i;
                hashes[i] = hash_cell(data + span[0], span[1] - span[0], data + bytes, table->seeds[run.field]);
                is_missing[i] = span[1] == span[0];
            }
            encode_block(table, &run, done, n, hashes, is_missing, out);
        }
        missing[run.field] = run.missing;
        unlisted[run.field] = run.unlisted;
    }
    return OK;
}
