/* Key hashing and vocabulary probe. Normative: every artifact depends on these bits.
 *
 * hash(key, seed), all arithmetic modulo 2^64:
 *     h = 0xcbf29ce484222325 XOR seed
 *     for each byte b of the key: h = (h XOR b) * 0x100000001b3        (64-bit FNV-1a)
 *     h = (h XOR h >> 30) * 0xbf58476d1ce4e5b9                          (the finaliser of splitmix64)
 *     h = (h XOR h >> 27) * 0x94d049bb133111eb
 *     h = h XOR h >> 31
 * An integer is the key of its decimal digits, so 42 and "42" are one key. The missing value is the key of no bytes. Text
 * in another form of such a value has the key of the value (see `hash_cell`).
 *
 * Listed field: with n = buckets[f+1] - buckets[f], bucket = buckets[f] + ((h >> 32) * n >> 32) and fingerprint =
 *     h mod 2^32; entries directory[bucket] .. directory[bucket+1]-1 hold (fingerprint, row). No match, or n = 0: row 0.
 * Hashed field: row = 1 + h mod hash_rows[f].
 */
#ifndef SLIMCTR_KEYS_H
#define SLIMCTR_KEYS_H

#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernels.h"

#define MISSING INT64_MIN
#define BLOCK 64
#define COMPARED 8
#define FNV_PRIME 0x100000001b3u

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

static inline uint64_t finish_hash(uint64_t h)
{
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    return h ^ (h >> 31);
}

static inline uint64_t hash_key(const uint8_t *key, int64_t length, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325u ^ seed;
    for (int64_t i = 0; i < length; i++)
        h = (h ^ key[i]) * FNV_PRIME;
    return finish_hash(h);
}

#define AHEAD(n)                                                                                                      \
    {(n) > 0 ? FNV_PRIME : 1, (n) > 1 ? FNV_PRIME : 1, (n) > 2 ? FNV_PRIME : 1, (n) > 3 ? FNV_PRIME : 1,               \
     (n) > 4 ? FNV_PRIME : 1, (n) > 5 ? FNV_PRIME : 1, (n) > 6 ? FNV_PRIME : 1, (n) > 7 ? FNV_PRIME : 1}
static const uint64_t FACTORS[9][8] = {AHEAD(0), AHEAD(1), AHEAD(2), AHEAD(3), AHEAD(4),
                                       AHEAD(5), AHEAD(6), AHEAD(7), AHEAD(8)};

static inline uint64_t hash_word(uint64_t word, int bytes, const uint64_t *factors, uint64_t h)
{
    for (int i = 0; i < bytes; i++, word >>= 8)
        h = (h ^ (word & 0xff)) * factors[i];
    return finish_hash(h);
}

/* The same hash of a key whose buffer ends at `end`. Four or eight bytes are taken without a loop over the length, those
 * behind the key as 0 times 1: the end of a loop would be mispredicted, and the processor works on several keys at a
 * time. */
static inline uint64_t hash_short(const uint8_t *key, int64_t length, const uint8_t *end, uint64_t seed)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (end - key >= 8 && length <= 8) {
        const uint64_t *factors = FACTORS[length];
        uint64_t h = 0xcbf29ce484222325u ^ seed, word;
        memcpy(&word, key, 8);
        word &= length == 8 ? UINT64_MAX : ((uint64_t)1 << 8 * length) - 1;
        return length > 4 ? hash_word(word, 8, factors, h) : hash_word(word, 4, factors, h);
    }
#else
    (void)end;
#endif
    return hash_key(key, length, seed);
}

/* Whether text is the decimal form of a whole number. */
static inline int is_whole(const uint8_t *text, int64_t length)
{
    if (length > 0 && *text == '-')
        text++, length--;
    if (length < 1 || (length > 1 && *text == '0'))
        return 0;
    for (int64_t i = 0; i < length; i++)
        if (text[i] < '0' || text[i] > '9')
            return 0;
    return 1;
}

static const uint8_t TRUE_TEXT[8] = "true", FALSE_TEXT[8] = "false";

static inline uint64_t hash_boolean(int value, uint64_t seed)
{
    return value ? hash_short(TRUE_TEXT, 4, TRUE_TEXT + 8, seed) : hash_short(FALSE_TEXT, 5, FALSE_TEXT + 8, seed);
}

/* The hash of the key of a text: the text itself, but for what files without types make of numbers and booleans. A whole
 * number with a fraction of zeros is the number ("3.0" and "3.00" are 3), "-0" is 0, "True" and "TRUE" are true. */
static inline uint64_t hash_cell(const uint8_t *text, int64_t length, const uint8_t *end, uint64_t seed)
{
    if (length > 1 && text[length - 1] == '0') {
        int64_t at = length - 1;
        while (at > 0 && text[at] == '0')
            at--;
        if (text[at] == '.' && is_whole(text, at))
            length = at;
        if (length == 2 && text[0] == '-' && text[1] == '0')
            text++, length = 1;
    } else if (length == 4 && text[0] == 'T') {
        if (!memcmp(text, "True", 4) || !memcmp(text, "TRUE", 4))
            return hash_boolean(1, seed);
    } else if (length == 5 && text[0] == 'F') {
        if (!memcmp(text, "False", 5) || !memcmp(text, "FALSE", 5))
            return hash_boolean(0, seed);
    }
    return hash_short(text, length, end, seed);
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

/* A bit for each of COMPARED entries that has the fingerprint. */
static inline uint32_t equal_entries(const uint32_t *entries, uint32_t fingerprint)
{
#if defined(__SSE2__)
    __m128i wanted = _mm_set1_epi32((int)fingerprint), same[2];
    for (int i = 0; i < 2; i++, entries += 8) {
        __m128 low = _mm_castsi128_ps(_mm_loadu_si128((const __m128i *)entries));
        __m128 high = _mm_castsi128_ps(_mm_loadu_si128((const __m128i *)(entries + 4)));
        same[i] = _mm_cmpeq_epi32(_mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0))), wanted);
    }
    return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(same[0], same[1]), _mm_setzero_si128()));
#else
    uint32_t bits = 0;
    for (int i = 0; i < COMPARED; i++)
        bits |= (uint32_t)(entries[2 * i] == fingerprint) << i;
    return bits;
#endif
}

/* Row of the first of entries first .. last - 1 with a fingerprint, 0 if none has it; there are `count` in all. Where in
 * its bucket a key lies no branch foretells: as many as most buckets have are compared at a time. */
static inline uint32_t find_entry(const uint32_t *entries, size_t count, size_t first, size_t last, uint32_t fingerprint)
{
    if (count - first >= COMPARED) {
        size_t size = last - first;
        uint32_t bits = equal_entries(entries + 2 * first, fingerprint);
        bits &= size < COMPARED ? ((uint32_t)1 << size) - 1 : ((uint32_t)1 << COMPARED) - 1;
        if (bits)
            return entries[2 * (first + (size_t)__builtin_ctz(bits)) + 1];
        first += COMPARED;
    }
    for (; first < last; first++)
        if (entries[2 * first] == fingerprint)
            return entries[2 * first + 1];
    return 0;
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
    size_t count = table->directory[table->buckets[table->fields]];
    for (int64_t i = 0; i < n; i++) {
        buckets[i] = bucket_of(table, field, hashes[i]);
        __builtin_prefetch(table->directory + buckets[i]);
    }
    for (int64_t i = 0; i < n; i++)
        __builtin_prefetch(table->entries + 2 * (size_t)table->directory[buckets[i]]);
    for (int64_t i = 0; i < n; i++) {
        uint32_t first = table->directory[buckets[i]], last = table->directory[buckets[i] + 1];
        rows[i] = (int32_t)find_entry(table->entries, count, first, last, (uint32_t)hashes[i]);
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
