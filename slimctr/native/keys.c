/* Key hashing and vocabulary probe. Normative: every artifact depends on these bits.
 *
 * hash(key, seed), all arithmetic modulo 2^64:
 *     h = 0xcbf29ce484222325 XOR seed
 *     for each byte b of the key: h = (h XOR b) * 0x100000001b3        (64-bit FNV-1a)
 *     h = (h XOR h >> 30) * 0xbf58476d1ce4e5b9                          (the finaliser of splitmix64)
 *     h = (h XOR h >> 27) * 0x94d049bb133111eb
 *     h = h XOR h >> 31
 * An integer is the key of its decimal digits, so 42 and "42" are one key. The missing value is the key of no bytes.
 *
 * Listed field: with n = buckets[f+1] - buckets[f], bucket = buckets[f] + ((h >> 32) * n >> 32) and fingerprint =
 *     h mod 2^32; entries directory[bucket] .. directory[bucket+1]-1 hold (fingerprint, row). No match, or n = 0: row 0.
 * Hashed field: row = 1 + h mod hash_rows[f].
 *
 * No function allocates or keeps state.
 */
#include "kernels.h"

#define MISSING INT64_MIN
#define BLOCK 64
#define OK (-1)
#define BAD_RUN (-2)

typedef struct {
    int64_t fields;
    const uint64_t *seeds;     /* (F) */
    const int64_t *hash_rows;  /* (F) 0 = listed field */
    const int64_t *buckets;    /* (F+1) first bucket of each field */
    const uint32_t *directory; /* (buckets[F] + 1) first entry of each bucket */
    const uint32_t *entries;   /* (n, 2) fingerprint, row */
} key_table;

/* Consecutive keys of one field; key j writes rows[out_start + j * out_stride]. The last two are results. */
typedef struct {
    int64_t field, keys, out_start, out_stride, missing, unlisted;
} key_run;

static inline uint64_t hash_key(const uint8_t *key, int64_t length, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325u ^ seed;
    for (int64_t i = 0; i < length; i++)
        h = (h ^ key[i]) * 0x100000001b3u;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    return h ^ (h >> 31);
}

static inline uint64_t hash_integer(int64_t value, uint64_t seed)
{
    uint8_t digits[20];
    int at = 20;
    if (value == MISSING)
        return hash_key(digits, 0, seed);
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do
        digits[--at] = (uint8_t)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0)
        digits[--at] = '-';
    return hash_key(digits + at, 20 - at, seed);
}

static inline uint64_t bucket_of(const key_table *table, int64_t field, uint64_t hash)
{
    uint64_t first = (uint64_t)table->buckets[field], count = (uint64_t)table->buckets[field + 1] - first;
    return first + ((hash >> 32) * count >> 32);
}

/* Rows of one block of hashes. Both prefetch passes overlap the cache misses of a large vocabulary. */
static void probe_block(const key_table *table, int64_t field, const uint64_t *hashes, int64_t n, int32_t *rows)
{
    int64_t hash_rows = table->hash_rows[field];
    if (hash_rows > 0) {
        for (int64_t i = 0; i < n; i++)
            rows[i] = (int32_t)(1 + hashes[i] % (uint64_t)hash_rows);
        return;
    }
    if (table->buckets[field] == table->buckets[field + 1]) {
        for (int64_t i = 0; i < n; i++)
            rows[i] = 0;
        return;
    }
    uint64_t buckets[BLOCK];
    for (int64_t i = 0; i < n; i++) {
        buckets[i] = bucket_of(table, field, hashes[i]);
        __builtin_prefetch(table->directory + buckets[i]);
    }
    for (int64_t i = 0; i < n; i++)
        __builtin_prefetch(table->entries + 2 * (size_t)table->directory[buckets[i]]);
    for (int64_t i = 0; i < n; i++) {
        uint32_t fingerprint = (uint32_t)hashes[i];
        uint32_t last = table->directory[buckets[i] + 1];
        rows[i] = 0;
        for (uint32_t e = table->directory[buckets[i]]; e < last; e++)
            if (table->entries[2 * (size_t)e] == fingerprint) {
                rows[i] = (int32_t)table->entries[2 * (size_t)e + 1];
                break;
            }
    }
}

/* Look one block of a run up: write its rows, count the missing keys and the present ones without a row. */
static void encode_block(const key_table *table, key_run *run, int64_t done, int64_t n, const uint64_t *hashes,
                         const uint8_t *is_missing, int32_t *out)
{
    int32_t rows[BLOCK];
    probe_block(table, run->field, hashes, n, rows);
    for (int64_t i = 0; i < n; i++) {
        out[run->out_start + (done + i) * run->out_stride] = rows[i];
        run->missing += is_missing[i];
        run->unlisted += rows[i] == 0 && !is_missing[i];
    }
}

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
        hashes[i] = hash_key(data + starts[i], ends[i] - starts[i], seed);
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
                hashes[i] = hash_key(data + starts[key], ends[key] - starts[key], table->seeds[run->field]);
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
                hashes[i] = hash_key(data + span[0], span[1] - span[0], table->seeds[run.field]);
                is_missing[i] = span[1] == span[0];
            }
            encode_block(table, &run, done, n, hashes, is_missing, out);
        }
        missing[run.field] = run.missing;
        unlisted[run.field] = run.unlisted;
    }
    return OK;
}
