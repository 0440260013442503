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

/* Eight elements at a time, spelled as vectors: compilers unroll a loop of eight before they would vectorise it. */
typedef uint8_t bytes8 __attribute__((vector_size(8)));
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

/* Transpose a matrix of 8 by 8 bits, a byte to a row (Warren, Hacker's Delight, 7-3). */
INLINE uint64_t transpose_bits(uint64_t x) {
    uint64_t t;
    t = (x ^ x >> 7) & 0x00aa00aa00aa00aau, x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000cccc0000ccccu, x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000f0f0f0f0u, x ^= t ^ t << 28;
    return x;
}

/* Move bits 0, 2, 4 and 6 of every byte to its lower half. */
INLINE uint64_t squeeze_bits(uint64_t x) {
    x &= 0x5555555555555555u;
    x = (x | x >> 1) & 0x3333333333333333u;
    return (x | x >> 2) & 0x0f0f0f0f0f0f0f0fu;
}

/* Eight elements are one byte of every plane; transposed, they are one byte of every element. Rows of at most eight
 * elements are read at once: widths change from row to row, and a loop over planes would be mispredicted. So are rows
 * of sixteen and at most four bits, whose two groups of eight alternate. */
INLINE void unpack_planes(const uint8_t *record, const uint8_t *end, int bits, int plane_bytes, int start, int count,
                          uint8_t *codes) {
    if (plane_bytes == 2 && bits <= 4 && end - record >= (ptrdiff_t)sizeof(uint64_t)) {
        uint64_t planes, pair[2];
        memcpy(&planes, record, sizeof planes);
        planes = transpose_bits(planes & ~(~(uint64_t)0 << 8 * bits << 8 * bits));
        pair[0] = squeeze_bits(planes);
        pair[1] = squeeze_bits(planes >> 1);
        memcpy(codes, pair, sizeof pair);
        return;
    }
    for (int group = 0; group < (count + 7) / 8; group++) {
        const uint8_t *from = record + start / 8 + group;
        uint64_t planes = 0;
        if (plane_bytes == 1 && end - from >= (ptrdiff_t)sizeof planes) {
            memcpy(&planes, from, sizeof planes);
            planes &= ~(~(uint64_t)0 << 4 * bits << 4 * bits);
        } else {
            for (int plane = 0; plane < bits; plane++)
                planes |= (uint64_t)from[plane * plane_bytes] << (8 * plane);
        }
        planes = transpose_bits(planes);
        memcpy(codes + 8 * group, &planes, sizeof planes);
    }
}

/* Eight elements of b bits fill b bytes, so each group starts at a byte. */
INLINE void unpack_stream(const uint8_t *record, const uint8_t *end, int bits, int start, int count, uint8_t *codes) {
    for (int group = 0; group < (count + 7) / 8; group++) {
        const uint8_t *from = record + (start / 8 + group) * bits;
        uint64_t packed = 0;
        if (end - from >= (ptrdiff_t)sizeof packed)
            memcpy(&packed, from, sizeof packed);
        else
            for (int byte = 0; byte < end - from; byte++) packed |= (uint64_t)from[byte] << (8 * byte);
        for (int i = 0; i < 8; i++) codes[8 * group + i] = (uint8_t)((packed >> (i * bits)) & ((1u << bits) - 1));
    }
}

/* Write scale * (code ^ flip) + minimum of eight elements, or zeros where `keep` is 0 and not -1. */
INLINE void dequantize8(const uint8_t *codes, uint8_t flip, const floats8 *scale, const floats8 *minimum, int32_t keep,
                        float *out) {
    bytes8 bytes, flips = EIGHT(flip);
    ints8 kept = EIGHT(keep);
    memcpy(&bytes, codes, sizeof bytes);
    floats8 value = *scale * __builtin_convertvector(__builtin_convertvector(bytes ^ flips, ints8), floats8);
    value = (floats8)((ints8)(value + *minimum) & kept);
    memcpy(out, &value, sizeof value);
}

#endif
