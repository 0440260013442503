/* From the bytes of a record to float32, eight elements at a time: unpacking, dequantization, half precision. */
#ifndef SLIMCTR_CODES_H
#define SLIMCTR_CODES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "artifacts are little-endian and read in place"
#endif

/* A helper that is not inlined would not be compiled for the clone's instruction set. */
#define INLINE static inline __attribute__((always_inline))

/* Eight elements at a time, spelled as vectors: compilers unroll a loop of eight before they would vectorise it, and
 * widen bytes to integers one by one. */
typedef uint32_t words8 __attribute__((vector_size(32)));
typedef int32_t ints8 __attribute__((vector_size(32)));
typedef float floats8 __attribute__((vector_size(32)));
#define EIGHT(value) {value, value, value, value, value, value, value, value}

INLINE uint16_t load_u16(const uint8_t *bytes) {
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* Exact for all 65,536 patterns, without denormal operands: flush-to-zero modes do not change the result. Masks in
 * place of conditions, so that a loop of it vectorises. */
INLINE float half_to_float(uint16_t half) {
    uint32_t magnitude = half & 0x7fffu, bits, small_bits;
    uint32_t is_small = (uint32_t)((int32_t)(magnitude - 0x0400u) >> 31);
    uint32_t is_special = (uint32_t)((int32_t)(0x7bffu - magnitude) >> 31);
    float small = (float)(int32_t)magnitude * 0x1p-24f, value;
    memcpy(&small_bits, &small, sizeof bits);
    bits = (magnitude << 13) + 0x38000000u + (is_special & 0x38000000u);
    bits = (small_bits & is_small) | (bits & ~is_small) | (uint32_t)(half & 0x8000u) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Eight bytes, zeros in place of those from `end` on. */
INLINE uint64_t load_word(const uint8_t *bytes, const uint8_t *end) {
    uint64_t word = 0;
    if (end - bytes >= (ptrdiff_t)sizeof word)
        memcpy(&word, bytes, sizeof word);
    else
        for (int byte = 0; byte < end - bytes; byte++) word |= (uint64_t)bytes[byte] << (8 * byte);
    return word;
}

/* The lowest 2 * `half` bits, up to all 64. */
INLINE uint64_t lowest_bits(uint64_t word, int half) { return word & ~(~(uint64_t)0 << half << half); }

/* Eight codes of `bits` bits each, 1 to 8 of them, that follow each other. */
INLINE words8 split_stream(uint64_t packed, int bits) {
    uint32_t low = (uint32_t)packed, high = (uint32_t)(packed >> 4 * bits);
    words8 halves = {low, low, low, low, high, high, high, high}, place = {0, 1, 2, 3, 0, 1, 2, 3};
    return halves >> place * (uint32_t)bits & ((1u << bits) - 1);
}

/* Eight codes out of eight planes, a byte to a plane: code i is made of bit i of every byte. */
INLINE words8 gather_planes(uint64_t planes) {
    words8 low = EIGHT((uint32_t)planes), high = EIGHT((uint32_t)(planes >> 32)), lane = {0, 1, 2, 3, 4, 5, 6, 7};
    words8 codes = (low >> lane & 0x01010101u) | (high >> lane & 0x01010101u) << 4;
    codes |= codes >> 7;
    codes |= codes >> 14;
    return codes & 0xffu;
}

/* The same out of four planes of two bytes, of which codes are made by the first or the `second` one. */
INLINE words8 gather_pairs(uint64_t planes, int second) {
    words8 low = EIGHT((uint32_t)planes), high = EIGHT((uint32_t)(planes >> 32)), lane = {0, 1, 2, 3, 4, 5, 6, 7};
    lane += 8 * (uint32_t)second;
    words8 codes = (low >> lane & 0x00010001u) | (high >> lane & 0x00010001u) << 2;
    return (codes | codes >> 15) & 0xfu;
}

/* Codes 8 * group .. of a record whose planes have `plane_bytes` bytes each. Widths change from row to row: where rows
 * are of one or two bytes to a plane, all planes are read at once, because a loop over them would be mispredicted. */
INLINE words8 read_planes(const uint8_t *record, const uint8_t *end, int bits, int plane_bytes, int group) {
    if (plane_bytes == 1) return gather_planes(lowest_bits(load_word(record, end), 4 * bits));
    if (plane_bytes == 2) {
        int low = bits < 4 ? bits : 4;
        words8 codes = gather_pairs(lowest_bits(load_word(record, end), 8 * low), group);
        if (bits > 4) codes |= gather_pairs(lowest_bits(load_word(record + 8, end), 8 * (bits - 4)), group) << 4;
        return codes;
    }
    uint64_t planes = 0;
    for (int plane = 0; plane < bits; plane++)
        planes |= (uint64_t)record[group + plane * plane_bytes] << (8 * plane);
    return gather_planes(planes);
}

/* `count` floats, 1 to 8 of them, and zeros behind them. */
INLINE floats8 load_floats(const float *from, int count) {
    floats8 floats = EIGHT(0);
    if (count == 8)
        memcpy(&floats, from, sizeof floats);
    else
        for (int i = 0; i < count; i++) floats[i] = from[i];
    return floats;
}

INLINE void store_floats(floats8 floats, int count, float *to) {
    if (count == 8)
        memcpy(to, &floats, sizeof floats);
    else
        for (int i = 0; i < count; i++) to[i] = floats[i];
}

#endif
