/* Probabilities of logits. */
#include <math.h>

#include "kernels.h"

/* Below it expf(-logit) would overflow; the probability is 6e-39 there. */
#define LEAST_LOGIT (-88.0f)

/* Write the probability of each logit, NaN for NaN; return whether all logits are finite. */
SLIMCTR_API int64_t slimctr_probabilities(const float *logits, int64_t count, float *out)
{
    int64_t is_finite = 1;
    for (int64_t i = 0; i < count; i++) {
        float logit = logits[i];
        is_finite &= isfinite(logit) != 0;
        out[i] = 1.0f / (1.0f + expf(-(logit < LEAST_LOGIT ? LEAST_LOGIT : logit)));
    }
    return is_finite;
}
