/* Cuts the list or object of a JSON text into pieces of a few members each, so that a reader which holds a lock for as
 * long as it reads can read one piece at a time. Looks at brackets, quotes, commas and colons only: whatever is wrong
 * inside of a piece its reader finds.
 *
 * The function does not allocate and keeps no state.
 */
#include "kernels.h"

#define NOT_CLOSED (-1)
#define NO_MEMBER (-2)
#define NO_ROOM (-3)

/* Bytes start .. end - 1 without blanks around; of a single member of an object also where its colon and its value are. */
typedef struct {
    int64_t start, end, colon, value, is_single;
} piece;

typedef struct {
    piece *out;
    int64_t room, count;
    piece group; /* members that are not written yet; start < 0: none */
} pieces;

static int flush(pieces *p)
{
    if (p->group.start < 0)
        return 1;
    if (p->count == p->room)
        return 0;
    p->out[p->count++] = p->group;
    p->group.start = -1;
    return 1;
}

static int add(pieces *p, piece member, int64_t limit)
{
    int is_large = member.end - member.start > limit;
    if (p->group.start >= 0 && (is_large || member.end - p->group.start > limit) && !flush(p))
        return 0;
    if (p->group.start >= 0) {
        p->group.end = member.end;
        p->group.is_single = 0;
        return 1;
    }
    p->group = member;
    p->group.is_single = is_large;
    return is_large ? flush(p) : 1;
}

/* Cut the container that opens at byte `open` of a text into pieces of at most `limit` bytes, members above it alone.
 * `close` becomes the byte that closes it. Returns the number of pieces or a fault. */
SLIMCTR_API int64_t slimctr_json_pieces(const uint8_t *text, int64_t bytes, int64_t open, int64_t limit, piece *out,
                                        int64_t room, int64_t *close)
{
    const piece none = {-1, -1, -1, -1, 0};
    pieces found = {out, room, 0, none};
    piece member = none;
    int64_t depth = 1, commas = 0;
    for (int64_t at = open + 1; at < bytes; at++) {
        uint8_t byte = text[at];
        if (byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t')
            continue;
        int is_close = byte == ']' || byte == '}';
        if (depth == 1 && (byte == ',' || is_close)) {
            if (member.start >= 0) {
                if (!add(&found, member, limit))
                    return NO_ROOM;
            } else if (!is_close || commas) {
                return NO_MEMBER;
            }
            if (is_close) {
                *close = at;
                return flush(&found) ? found.count : NO_ROOM;
            }
            commas++;
            member = none;
            continue;
        }
        if (member.start < 0)
            member.start = at;
        if (member.colon >= 0 && member.value < 0)
            member.value = at;
        if (byte == '"') {
            for (at++; at < bytes && text[at] != '"'; at++)
                at += text[at] == '\\';
            if (at >= bytes)
                return NOT_CLOSED;
        } else if (byte == ':' && depth == 1 && member.colon < 0) {
            member.colon = at;
        } else {
            depth += (byte == '[' || byte == '{') - is_close;
        }
        member.end = at + 1;
    }
    return NOT_CLOSED;
}
