/* Records and cells of delimited text: RFC 4180 quotes or none; a line ends with LF, CR LF or a lone CR.
 *
 * No function allocates or keeps state.
 */
#include <string.h>

#include "kernels.h"

#define OK 0
#define LONG 1

/* Why a record is no row. */
enum { CELLS = 1, TEXT_BEHIND_QUOTE, OPEN_QUOTE };

typedef struct {
    const uint8_t *end; /* of what is there */
    int is_final;       /* nothing follows `end` */
    uint8_t delimiter;
    int is_quoted;
    uint8_t is_stop[256]; /* ends a cell that stands in no quotes */
} reader;

/* Written for each record that is no row: `lines` it covers, `cells` it has, as far as these are known. */
typedef struct {
    int64_t line, reason, cells, lines;
} fault;

typedef struct {
    int64_t consumed, rows, faults, lines;
} progress;

/* Bytes of the line end at p: 0 for none, -1 when only what follows tells. */
static inline int line_end(const reader *r, const uint8_t *p)
{
    if (*p == '\n')
        return 1;
    if (*p != '\r')
        return 0;
    if (p + 1 < r->end)
        return p[1] == '\n' ? 2 : 1;
    return r->is_final ? 1 : -1;
}

static int64_t count_lines(const uint8_t *p, const uint8_t *end)
{
    int64_t lines = 0;
    for (; p < end; p++)
        lines += *p == '\n' || (*p == '\r' && !(p + 1 < end && p[1] == '\n'));
    return lines;
}

/* The start of the next line, or NULL when what is there does not show it. */
static const uint8_t *next_line(const reader *r, const uint8_t *p)
{
    for (; p < r->end; p++) {
        int bytes = line_end(r, p);
        if (bytes < 0)
            return NULL;
        if (bytes)
            return p + bytes;
    }
    return r->is_final ? r->end : NULL;
}

/* The quote that closes the cell whose text starts at p, or NULL; `*doubled` when the text holds doubled quotes. */
static const uint8_t *closing_quote(const reader *r, const uint8_t *p, int *doubled)
{
    while ((p = memchr(p, '"', (size_t)(r->end - p)))) {
        if (p + 1 == r->end)
            return r->is_final ? p : NULL;
        if (p[1] != '"')
            return p;
        *doubled = 1;
        p += 2;
    }
    return NULL;
}

/* Split the records of data[0 .. bytes-1] into `columns` cells each, until none is whole or `rows` or `faults` of them are
 * written. Cell c of a row is the text spans[row][c]: first byte, byte behind; the latter is stored as its complement where
 * the text holds doubled quotes. lines[row] is the number of line ends before the row. A line without anything is left out.
 * Returns OK, or LONG for a record beyond `limit` bytes: then `found` tells what stands before it.
 *
 * A quote that is not closed within `limit` bytes is taken for a stray one: its line is no row, and the next line starts a
 * record. */
SLIMCTR_API int64_t slimctr_split_records(const uint8_t *data, int64_t bytes, int64_t is_final, int64_t delimiter,
                                          int64_t is_quoted, int64_t columns, int64_t limit, int64_t rows,
                                          int64_t fault_count, int32_t *spans, int64_t *lines, fault *faults,
                                          progress *found)
{
    reader r = {data + bytes, is_final != 0, (uint8_t)delimiter, is_quoted != 0, {0}};
    r.is_stop['\n'] = r.is_stop['\r'] = r.is_stop[r.delimiter] = 1;
    const uint8_t *start = data;
    memset(found, 0, sizeof *found);
    while (start < r.end && found->rows < rows && found->faults < fault_count) {
        int32_t *cells = spans + 2 * columns * found->rows;
        const uint8_t *p = start;
        int64_t cell = 0, reason = 0;
        int is_whole = 0, has_quotes = 0;
        while (!is_whole && !reason) {
            const uint8_t *first = p, *stop;
            int doubled = 0;
            if (r.is_quoted && p < r.end && *p == '"') {
                first = p + 1;
                stop = closing_quote(&r, first, &doubled);
                if (!stop || stop - start > limit) {
                    if (r.is_final || r.end - start > limit)
                        reason = OPEN_QUOTE;
                    break;
                }
                has_quotes = 1;
                p = stop + 1;
                if (p < r.end && *p != r.delimiter && *p != '\n' && *p != '\r') {
                    reason = TEXT_BEHIND_QUOTE;
                    break;
                }
            } else {
                while (p < r.end && !r.is_stop[*p])
                    p++;
                stop = p;
            }
            if (p == r.end && !r.is_final)
                break;
            if (cell < columns) {
                cells[2 * cell] = (int32_t)(first - data);
                cells[2 * cell + 1] = doubled ? ~(int32_t)(stop - data) : (int32_t)(stop - data);
            }
            cell++;
            if (p < r.end && *p == r.delimiter) {
                p++;
                continue;
            }
            int ending = p < r.end ? line_end(&r, p) : 0;
            if (ending < 0)
                break;
            p += ending;
            is_whole = 1;
        }
        if (reason) {
            const uint8_t *next;
            if (reason == OPEN_QUOTE)
                next = r.is_final && r.end - start <= limit ? r.end : next_line(&r, start);
            else
                next = next_line(&r, p);
            if (next) {
                int64_t covered = count_lines(start, next);
                int64_t shown = covered + (next > start && next[-1] != '\n' && next[-1] != '\r');
                faults[found->faults++] = (fault){found->lines, reason, 0, shown};
                found->lines += covered;
                start = next;
                continue;
            }
        }
        if (!is_whole) {
            found->consumed = start - data;
            return r.end - start > limit ? LONG : OK;
        }
        if (p - start > limit) {
            found->consumed = start - data;
            return LONG;
        }
        int64_t covered = has_quotes ? count_lines(start, p) : 1;
        if (cell == columns)
            lines[found->rows++] = found->lines;
        else if (cell != 1 || (*start != '\n' && *start != '\r'))
            faults[found->faults++] = (fault){found->lines, CELLS, cell, covered};
        found->lines += covered;
        start = p;
    }
    found->consumed = start - data;
    return OK;
}

/* Copy one column of `rows` spans (stride apart) to `text`, doubled quotes as one, and write where each ends to
 * offsets[1 .. rows]. Returns the bytes written; `text` has room for all spans. */
SLIMCTR_API int64_t slimctr_gather_cells(const uint8_t *data, const int32_t *spans, int64_t stride, int64_t rows,
                                         uint8_t *text, int32_t *offsets)
{
    uint8_t *out = text;
    offsets[0] = 0;
    for (int64_t row = 0; row < rows; row++, spans += 2 * stride) {
        int32_t first = spans[0], stop = spans[1];
        if (stop >= 0) {
            memcpy(out, data + first, (size_t)(stop - first));
            out += stop - first;
        } else
            for (const uint8_t *p = data + first, *end = data + ~stop; p < end; p++) {
                *out++ = *p;
                p += *p == '"';
            }
        offsets[row + 1] = (int32_t)(out - text);
    }
    return out - text;
}
