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
 */
#ifndef SLIMCTR_KEYS_H
#define SLIMCTR_KEYS_H

#include "kernels.h"

#define MISSING INT64_MIN
#define BLOCK 64

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
static inline void probe_block(const key_table *table, int64_t field, const uint64_t *hashes, int64_t n, int32_t *rows)
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
static inline void encode_block(const key_table *table, key_run *run, int64_t done, int64_t n, const uint64_t *hashes,
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

#endif
