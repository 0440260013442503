/* Rows of encoded ids as they come from outside: -1 is missing, any other id outside its table is out of vocabulary.
 *
 * No function allocates or keeps state.
 */
#include <string.h>

#include "kernels.h"

/* ids (rows, columns) little-endian int64, which need no alignment; column c has limits[c] rows, its missing value reads
 * absent_rows[c]. Writes out (rows, columns) and adds to missing[c] and unlisted[c]. */
SLIMCTR_CLONES SLIMCTR_API void slimctr_known_rows(const uint8_t *ids, int64_t rows, int64_t columns,
                                                   const int64_t *restrict limits, const int32_t *restrict absent_rows,
                                                   int32_t *restrict out, int64_t *restrict missing,
                                                   int64_t *restrict unlisted)
{
    for (int64_t r = 0; r < rows; r++, ids += 8 * columns, out += columns)
        for (int64_t c = 0; c < columns; c++) {
            int64_t id;
            memcpy(&id, ids + 8 * c, sizeof id);
            int64_t known = (id >= 0) & (id < limits[c]) ? id : 0;
            int64_t absent = id == -1;
            out[c] = absent ? absent_rows[c] : (int32_t)known;
            missing[c] += absent;
            unlisted[c] += (known == 0) & !absent;
        }
}
