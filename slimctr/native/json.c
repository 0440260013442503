/* Finds the values of a JSON table without making objects of them: where each one starts and ends in the text.
 *
 * Reads {"columns": {name: [value, ...], ...}, ...} or {"instances": [{name: value, ...}, ...], ...}, whose rows may be
 * called "candidates" too, and skips every other member. It accepts less than JSON does and nothing more: what it does
 * not read is left to a general reader, which also words the errors. Not read: escapes, control characters, exponents,
 * columns of different lengths, a name twice in an object, rows that bring new names, rows of many fields in orders of
 * their own, more than MAX_COLUMNS names. The caller vouches for valid UTF-8.
 *
 * No function allocates or keeps state.
 */
#include <string.h>

#include "kernels.h"

#define OK (-1)
#define NOT_READ (-2)
#define MAX_COLUMNS 1024
#define MAX_NAME_BYTES 32768
#define MAX_DEPTH 8
#define MAX_DIGITS 15 /* an integer of more may be beyond what JSON readers agree on */
#define MAX_FINITE_DIGITS 300
#define SEARCH_FACTOR 4 /* names compared per byte of text where rows are of another order: 40 shuffled fields */

/* A string without its quotes, any other value as written; null is 0, 0: no value starts at byte 0. */
typedef struct {
    int32_t start, end;
} span;

typedef struct {
    int64_t member_start, member_end; /* the value of "columns", "instances" or "candidates" */
    int64_t by_rows;                  /* 1: value of row r, column c at r * columns + c; 0: at c * rows + r */
    int64_t rows, columns;
    int64_t name_bytes, other_columns;
} table;

typedef struct {
    const uint8_t *text, *end;
    span names[MAX_COLUMNS];
    uint8_t *other; /* (MAX_COLUMNS) whether a column holds anything but strings, integers and null */
    span *values;
    int64_t capacity, searches;
} reader;

static inline const uint8_t *blank(const uint8_t *p, const uint8_t *end)
{
    while (p < end && *p <= ' ' && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

/* Each function below returns the byte behind what it read, or NULL. */

#define EVERY(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The high bit of the first byte of `word` that is below `limit`, at most 0x80; bits above that one mean nothing. */
static inline uint64_t below(uint64_t word, uint8_t limit)
{
    return (word - EVERY(limit)) & ~word & EVERY(0x80);
}

static inline const uint8_t *string(const uint8_t *p, const uint8_t *end)
{
    if (p == end || *p != '"')
        return NULL;
    p++;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Eight bytes at a time: most strings end in the first eight, at a place no branch could foretell. */
    for (uint64_t word; end - p >= 8; p += 8) {
        memcpy(&word, p, 8);
        uint64_t stops = below(word ^ EVERY('"'), 1) | below(word ^ EVERY('\\'), 1) | below(word, 0x20);
        if (stops) {
            p += __builtin_ctzll(stops) >> 3;
            return *p == '"' ? p + 1 : NULL;
        }
    }
#endif
    for (; p < end && *p != '"'; p++)
        if (*p < 0x20 || *p == '\\')
            return NULL;
    return p < end ? p + 1 : NULL;
}

static inline const uint8_t *digits(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *first = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p > first ? p : NULL;
}

static inline const uint8_t *number(const uint8_t *p, const uint8_t *end, int *is_key)
{
    int negative = *p == '-';
    const uint8_t *first = p += negative;
    if (!(p = digits(p, end)) || (*first == '0' && p - first > 1) || p - first > MAX_FINITE_DIGITS)
        return NULL;
    *is_key = p - first <= MAX_DIGITS && !(negative && *first == '0');
    if (p < end && *p == '.') {
        *is_key = 0;
        if (!(p = digits(p + 1, end)))
            return NULL;
    }
    return p < end && (*p == 'e' || *p == 'E') ? NULL : p;
}

static inline const uint8_t *word(const uint8_t *p, const uint8_t *end, const char *letters, size_t length)
{
    return (size_t)(end - p) >= length && memcmp(p, letters, length) == 0 ? p + length : NULL;
}

static const uint8_t *anything(const uint8_t *p, const uint8_t *end, int depth);

static const uint8_t *nested(const uint8_t *p, const uint8_t *end, int depth)
{
    int is_object = *p == '{';
    uint8_t close = is_object ? '}' : ']';
    if (depth == MAX_DEPTH)
        return NULL;
    p = blank(p + 1, end);
    if (p < end && *p == close)
        return p + 1;
    for (;;) {
        if (is_object) {
            if (!(p = string(p, end)) || (p = blank(p, end)) == end || *p != ':')
                return NULL;
            p = blank(p + 1, end);
        }
        if (!(p = anything(p, end, depth + 1)) || (p = blank(p, end)) == end)
            return NULL;
        if (*p == close)
            return p + 1;
        if (*p != ',')
            return NULL;
        p = blank(p + 1, end);
    }
}

static const uint8_t *anything(const uint8_t *p, const uint8_t *end, int depth)
{
    int is_key;
    if (p == end)
        return NULL;
    switch (*p) {
    case '"':
        return string(p, end);
    case '{':
    case '[':
        return nested(p, end, depth);
    case 't':
        return word(p, end, "true", 4);
    case 'f':
        return word(p, end, "false", 5);
    case 'n':
        return word(p, end, "null", 4);
    default:
        return number(p, end, &is_key);
    }
}

static inline const uint8_t *value(const reader *r, const uint8_t *p, span *found, uint8_t *other)
{
    const uint8_t *behind;
    int is_key = 0, quotes = 0;
    if (p == r->end)
        return NULL;
    if (*p == '"') {
        behind = string(p, r->end);
        is_key = quotes = 1;
    } else if (*p == '-' || (*p >= '0' && *p <= '9')) {
        behind = number(p, r->end, &is_key);
    } else if (*p == 'n') {
        found->start = found->end = 0;
        return word(p, r->end, "null", 4);
    } else {
        behind = anything(p, r->end, 2);
    }
    if (!behind)
        return NULL;
    *other |= !is_key;
    found->start = (int32_t)(p + quotes - r->text);
    found->end = (int32_t)(behind - quotes - r->text);
    return behind;
}

static inline int is_name(const reader *r, span name, const uint8_t *text, int64_t length)
{
    return name.end - name.start == length && memcmp(r->text + name.start, text, (size_t)length) == 0;
}

/* Column of a name, `expected` if it is that one; `columns` for a name that is none of them, -1 to give up. */
static int64_t column_of(reader *r, const uint8_t *text, int64_t length, int64_t expected, int64_t columns)
{
    if (expected < columns && is_name(r, r->names[expected], text, length))
        return expected;
    for (int64_t c = 0; c < columns; c++) {
        if (r->searches-- == 0)
            return -1;
        if (is_name(r, r->names[c], text, length))
            return c;
    }
    return columns;
}

/* A name and its colon: the byte of the value, and the name in `found`. */
static inline const uint8_t *member(const reader *r, const uint8_t *p, span *found)
{
    const uint8_t *behind = string(p, r->end);
    if (!behind)
        return NULL;
    found->start = (int32_t)(p + 1 - r->text);
    found->end = (int32_t)(behind - 1 - r->text);
    p = blank(behind, r->end);
    return p < r->end && *p == ':' ? blank(p + 1, r->end) : NULL;
}

static const uint8_t *read_columns(reader *r, const uint8_t *p, table *t)
{
    p = blank(p + 1, r->end);
    for (;;) {
        span name;
        int64_t row = 0;
        span *column = r->values + t->columns * t->rows;
        int64_t room = r->capacity - t->columns * t->rows;
        if (t->columns == MAX_COLUMNS || !(p = member(r, p, &name)) || p == r->end || *p != '[')
            return NULL;
        if (column_of(r, r->text + name.start, name.end - name.start, t->columns, t->columns) != t->columns)
            return NULL;
        r->names[t->columns] = name;
        r->other[t->columns] = 0;
        p = blank(p + 1, r->end);
        do {
            if (row == room || !(p = value(r, p, column + row, r->other + t->columns)))
                return NULL;
            row++;
            p = blank(p, r->end);
        } while (p < r->end && *p == ',' && (p = blank(p + 1, r->end)));
        if (p == r->end || *p != ']' || (t->columns && row != t->rows))
            return NULL;
        t->rows = row;
        t->columns++;
        p = blank(p + 1, r->end);
        if (p < r->end && *p == '}')
            return p + 1;
        if (p == r->end || *p != ',')
            return NULL;
        p = blank(p + 1, r->end);
    }
}

static const uint8_t *read_row(reader *r, const uint8_t *p, table *t)
{
    span *row = r->values + t->rows * t->columns;
    int64_t expected = 0;
    if (p == r->end || *p != '{' || t->columns > r->capacity - t->rows * t->columns)
        return NULL;
    for (int64_t c = 0; c < t->columns; c++)
        row[c].start = -1;
    p = blank(p + 1, r->end);
    while (p < r->end && *p != '}') {
        span name;
        if (!(p = member(r, p, &name)))
            return NULL;
        int64_t c = column_of(r, r->text + name.start, name.end - name.start, expected, t->columns);
        if (c == t->columns && t->rows == 0 && c < MAX_COLUMNS && c < r->capacity) {
            r->names[c] = name;
            r->other[c] = 0;
            t->columns++;
        } else if (c < 0 || c == t->columns || row[c].start != -1) {
            return NULL;
        }
        if (!(p = value(r, p, row + c, r->other + c)))
            return NULL;
        expected = c + 1;
        p = blank(p, r->end);
        if (p == r->end || *p != ',')
            break;
        p = blank(p + 1, r->end);
        if (p < r->end && *p == '}')
            return NULL;
    }
    if (p == r->end || *p != '}')
        return NULL;
    for (int64_t c = 0; c < t->columns; c++)
        if (row[c].start == -1)
            row[c].start = row[c].end = 0;
    t->rows++;
    return p + 1;
}

static const uint8_t *read_rows(reader *r, const uint8_t *p, table *t)
{
    p = blank(p + 1, r->end);
    for (;;) {
        if (!(p = read_row(r, p, t)) || t->columns == 0)
            return NULL;
        p = blank(p, r->end);
        if (p < r->end && *p == ']')
            return p + 1;
        if (p == r->end || *p != ',')
            return NULL;
        p = blank(p + 1, r->end);
    }
}

/* Write the names, each with a quote behind it, to `out` and count them and the columns with other values. */
static int finish(const reader *r, table *t, uint8_t *out)
{
    for (int64_t c = 0; c < t->columns; c++) {
        int64_t length = r->names[c].end - r->names[c].start;
        if (t->name_bytes + length + 1 > MAX_NAME_BYTES)
            return NOT_READ;
        memcpy(out + t->name_bytes, r->text + r->names[c].start, (size_t)length);
        out[t->name_bytes + length] = '"';
        t->name_bytes += length + 1;
        t->other_columns += r->other[c];
    }
    return OK;
}

/* Fill `t`, `names` (MAX_NAME_BYTES), `other` (MAX_COLUMNS) and `values` (capacity). Returns OK or NOT_READ. */
SLIMCTR_API int64_t slimctr_scan_json(const uint8_t *text, int64_t bytes, table *t, uint8_t *names, uint8_t *other,
                                      span *values, int64_t capacity)
{
    reader r;
    r.text = text, r.end = text + bytes, r.other = other;
    r.values = values, r.capacity = capacity, r.searches = SEARCH_FACTOR * bytes;
    memset(t, 0, sizeof *t);
    if (bytes > INT32_MAX)
        return NOT_READ;
    const uint8_t *p = blank(text, r.end);
    if (p == r.end || *p != '{')
        return NOT_READ;
    p = blank(p + 1, r.end);
    for (;;) {
        span name;
        if (!(p = member(&r, p, &name)) || p == r.end)
            return NOT_READ;
        int is_columns = is_name(&r, name, (const uint8_t *)"columns", 7);
        int is_rows = is_name(&r, name, (const uint8_t *)"instances", 9) ||
                      is_name(&r, name, (const uint8_t *)"candidates", 10);
        if ((is_columns || is_rows) && t->rows)
            return NOT_READ; /* other readers take the last of two members of one name */
        if ((is_columns && *p == '{') || (is_rows && *p == '[')) {
            t->by_rows = is_rows;
            t->member_start = p - text;
            p = is_rows ? read_rows(&r, p, t) : read_columns(&r, p, t);
            t->member_end = p ? p - text : 0;
        } else {
            p = anything(p, r.end, 1);
        }
        if (!p || (p = blank(p, r.end)) == r.end)
            return NOT_READ;
        if (*p == '}')
            return t->rows && blank(p + 1, r.end) == r.end ? finish(&r, t, names) : NOT_READ;
        if (*p != ',')
            return NOT_READ;
        p = blank(p + 1, r.end);
    }
}
