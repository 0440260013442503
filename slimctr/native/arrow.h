/* Shared by the kernels that read Arrow streams: numbers without alignment, places of bytes. */
#ifndef SLIMCTR_ARROW_H
#define SLIMCTR_ARROW_H

#include <string.h>

#include "kernels.h"

/* Bytes at .. at + bytes - 1. */
typedef struct {
    int64_t at, bytes;
} place;

static inline int64_t load_16(const uint8_t *p)
{
    int16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline int64_t load_32(const uint8_t *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline int64_t load_64(const uint8_t *p)
{
    int64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

#endif
