/* Runs a network of linear maps and elementwise steps over a batch: what slimctr/native/network.py describes.
 *
 * A block of rows goes through all steps before the next one starts, so that what lies between two factors of a layer
 * stays in the cache. Every sum is taken in one order whatever the size of the batch: a row scores the same bits alone
 * and among others. Products and sums are fused (FMA). Nothing is allocated and nothing but `scratch` and `logits` is
 * written, so calls may run side by side.
 *
 * Needs AVX2 and FMA; `slimctr_network_runs_here` says whether this machine has them. */
#include "kernels.h"

enum kind { LINEAR, DOT, ADD, SUBTRACT, MULTIPLY, RELU, SUM, SUM_PRODUCTS, COPY };
enum place { SCRATCH, STORED, CONSTANT };

/* A value: element i of row r lies at r * row_stride + i * element_stride. */
struct operand {
    const float *constant;
    int32_t place, buffer;                 /* buffer: where it begins in scratch, in floats of every row of a block */
    int32_t row_stride, element_stride;
    int32_t start;                         /* first float of the row */
};

struct step {
    struct operand a, b, out;
    const float *weights, *bias;           /* LINEAR: panels of 16 columns, the last of 8 if those do; DOT: (inputs) */
    int32_t kind, inputs, outputs, relu;   /* SUM: `inputs` values of `outputs` elements each */
};

#if defined(__x86_64__) && (defined(__AVX2__) || !defined(SLIMCTR_ONE_INSTRUCTION_SET))
#include <cpuid.h>
#include <immintrin.h>

#define FAST __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) FAST

enum { LANES = 8, PANEL = 16, TILE_ROWS = 6, PANELS_AT_ONCE = 4 };

SLIMCTR_API int64_t slimctr_network_runs_here(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_FMA) || !(c & bit_OSXSAVE)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6) return 0;          /* the system saves the registers of 256 bits */
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

INLINE void store(float *out, __m256 sum, int relu) {
    _mm256_storeu_ps(out, relu ? _mm256_max_ps(_mm256_setzero_ps(), sum) : sum);  /* this order keeps a NaN */
}

/* `rows` rows of 8 * vectors columns; both are constants to the compiler, so that the sums stay in registers. */
INLINE void tile(const float *a, int64_t a_stride, const float *panel, const float *bias, int64_t inputs, int relu,
                 float *out, int64_t out_stride, int rows, int vectors) {
    __m256 sums[TILE_ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = _mm256_loadu_ps(bias + LANES * v);
    for (int64_t k = 0; k < inputs; k++, panel += LANES * vectors) {
        __m256 weights[2];
        for (int v = 0; v < vectors; v++) weights[v] = _mm256_loadu_ps(panel + LANES * v);
        for (int r = 0; r < rows; r++) {
            __m256 value = _mm256_broadcast_ss(a + r * a_stride + k);
            for (int v = 0; v < vectors; v++) sums[r][v] = _mm256_fmadd_ps(value, weights[v], sums[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(out + r * out_stride + LANES * v, sums[r][v], relu);
}

/* One row of several panels at once: the sums of a single panel would wait for each other. */
INLINE void row_of_panels(const float *a, const float *panels, const float *bias, int64_t inputs, int relu, float *out) {
    __m256 sums[PANELS_AT_ONCE][2];
    for (int p = 0; p < PANELS_AT_ONCE; p++)
        for (int v = 0; v < 2; v++) sums[p][v] = _mm256_loadu_ps(bias + PANEL * p + LANES * v);
    for (int64_t k = 0; k < inputs; k++) {
        __m256 value = _mm256_broadcast_ss(a + k);
        for (int p = 0; p < PANELS_AT_ONCE; p++)
            for (int v = 0; v < 2; v++)
                sums[p][v] = _mm256_fmadd_ps(value, _mm256_loadu_ps(panels + (p * inputs + k) * PANEL + LANES * v), sums[p][v]);
    }
    for (int p = 0; p < PANELS_AT_ONCE; p++)
        for (int v = 0; v < 2; v++) store(out + PANEL * p + LANES * v, sums[p][v], relu);
}

#define TILE(rows) tile(a, a_stride, panel, bias, inputs, relu, out, out_stride, rows, vectors)

INLINE void panel_rows(const float *a, int64_t a_stride, const float *panel, const float *bias, int64_t inputs, int relu,
                       float *out, int64_t out_stride, int64_t rows, int vectors) {
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS, a += TILE_ROWS * a_stride, out += TILE_ROWS * out_stride) TILE(TILE_ROWS);
    switch (rows) {
        case 1: TILE(1); break;
        case 2: TILE(2); break;
        case 3: TILE(3); break;
        case 4: TILE(4); break;
        case 5: TILE(5); break;
    }
}

FAST static void linear(const struct step *step, const float *a, int64_t a_stride, float *out, int64_t out_stride,
                        int64_t rows) {
    const float *panel = step->weights, *bias = step->bias;
    int64_t inputs = step->inputs, left = step->outputs;
    for (; rows == 1 && left >= PANELS_AT_ONCE * PANEL; left -= PANELS_AT_ONCE * PANEL) {
        row_of_panels(a, panel, bias, inputs, step->relu, out);
        panel += PANELS_AT_ONCE * PANEL * inputs;
        bias += PANELS_AT_ONCE * PANEL;
        out += PANELS_AT_ONCE * PANEL;
    }
    for (; left > LANES; left -= PANEL, panel += PANEL * inputs, bias += PANEL, out += PANEL)
        panel_rows(a, a_stride, panel, bias, inputs, step->relu, out, out_stride, rows, 2);
    if (left > 0) panel_rows(a, a_stride, panel, bias, inputs, step->relu, out, out_stride, rows, 1);
}

INLINE float sum_lanes(__m256 first, __m256 second, __m256 third, __m256 fourth) {
    float lanes[LANES];
    _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(first, second), _mm256_add_ps(third, fourth)));
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

FAST static float dot(const float *a, const float *b, int64_t count) {
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            sums[j] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + LANES * j), _mm256_loadu_ps(b + i + LANES * j), sums[j]);
    for (; i + LANES <= count; i += LANES) sums[0] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), sums[0]);
    float sum = sum_lanes(sums[0], sums[1], sums[2], sums[3]);
    for (; i < count; i++) sum += a[i] * b[i];
    return sum;
}

FAST static float total(const float *a, int64_t count) {
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int j = 0; j < 4; j++) sums[j] = _mm256_add_ps(_mm256_loadu_ps(a + i + LANES * j), sums[j]);
    for (; i + LANES <= count; i += LANES) sums[0] = _mm256_add_ps(_mm256_loadu_ps(a + i), sums[0]);
    float sum = sum_lanes(sums[0], sums[1], sums[2], sums[3]);
    for (; i < count; i++) sum += a[i];
    return sum;
}

#define ELEMENTWISE(value)                                                                     \
    if (step->b.element_stride)                                                                \
        for (int64_t i = 0; i < count; i++) { float x = a[i], y = b[i]; out[i] = (value); }    \
    else {                                                                                     \
        float y = b[0];                                                                        \
        for (int64_t i = 0; i < count; i++) { float x = a[i]; out[i] = (value); }              \
    }                                                                                          \
    break

FAST static void step_of_row(const struct step *step, const float *a, const float *b, float *restrict out) {
    int64_t count = step->outputs;
    switch ((enum kind)step->kind) {
        case DOT: out[0] = step->bias[0] + dot(a, step->weights, step->inputs); break;
        case ADD: ELEMENTWISE(x + y);
        case SUBTRACT: ELEMENTWISE(x - y);
        case MULTIPLY: ELEMENTWISE(x * y);
        case RELU:
            for (int64_t i = 0; i < count; i++) out[i] = a[i] < 0 ? 0 : a[i];
            break;
        case SUM:
            if (count == 1) {
                out[0] = total(a, step->inputs);
                break;
            }
            for (int64_t i = 0; i < count; i++) out[i] = a[i];
            for (int64_t group = 1; group < step->inputs; group++)
                for (int64_t i = 0; i < count; i++) out[i] += a[group * count + i];
            break;
        case SUM_PRODUCTS: out[0] = dot(a, b, step->inputs); break;
        case COPY:
            for (int64_t i = 0; i < count; i++) out[i] = a[i];
            break;
        case LINEAR: break;
    }
}

INLINE const float *start_of(const struct operand *operand, const float *stored, const float *scratch, int64_t block_rows) {
    switch ((enum place)operand->place) {
        case SCRATCH: return scratch + operand->buffer * block_rows + operand->start;
        case STORED: return stored + operand->start;
        case CONSTANT: break;
    }
    return operand->constant;
}

/* Logits (batch) of `stored` (batch, width), `block_rows` rows at a time. `scratch` holds what the steps address, times
 * `block_rows`; the last step writes one float a row. */
FAST SLIMCTR_API void slimctr_run_network(const struct step *steps, int64_t step_count, const float *stored,
                                          int64_t width, int64_t batch, float *scratch, int64_t block_rows,
                                          float *logits) {
    for (int64_t done = 0; done < batch; done += block_rows, stored += block_rows * width) {
        int64_t rows = batch - done < block_rows ? batch - done : block_rows;
        for (const struct step *step = steps; step < steps + step_count; step++) {
            const float *a = start_of(&step->a, stored, scratch, block_rows);
            const float *b = start_of(&step->b, stored, scratch, block_rows);
            int is_last = step == steps + step_count - 1;
            float *out = is_last ? logits + done : scratch + step->out.buffer * block_rows + step->out.start;
            int64_t out_stride = is_last ? 1 : step->out.row_stride;
            if (step->kind == LINEAR) {
                linear(step, a, step->a.row_stride, out, out_stride, rows);
                continue;
            }
            for (int64_t row = 0; row < rows; row++)
                step_of_row(step, a + row * step->a.row_stride, b + row * step->b.row_stride, out + row * out_stride);
        }
    }
}

#else

SLIMCTR_API int64_t slimctr_network_runs_here(void) { return 0; }

SLIMCTR_API void slimctr_run_network(const struct step *steps, int64_t step_count, const float *stored, int64_t width,
                                     int64_t batch, float *scratch, int64_t block_rows, float *logits) {
    (void)steps, (void)step_count, (void)stored, (void)width, (void)batch, (void)scratch, (void)block_rows, (void)logits;
}

#endif
