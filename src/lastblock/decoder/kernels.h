/* What all files of kernels are made of: lanes, activations, softmax, turned halves, borrowed threads.
 *
 * Knows no Python and no torch.
 */
#ifndef LASTBLOCK_KERNELS_H
#define LASTBLOCK_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__GNUC__) && defined(__x86_64__)
#define CAN_BUILD 1

#include <immintrin.h>
#include <stdatomic.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

/* Multiplications that a part of a product is at least to have: less than some tens of microseconds
 * are not worth waking a thread for. */
enum { WORTH = 1 << 20 };

typedef void (*Part)(const void *work, int64_t part, int64_t parts);

/* ``part`` of each number below ``parts``, side by side if there are threads; of these always the
 * same number is asked for, as the library ends those that are not. */
__attribute__((visibility("hidden"))) void share(Part part, const void *work, int64_t parts,
                                                   int64_t threads);

static inline int64_t up_to(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* The first n of 16 lanes; all of them, or none. */
INLINE __mmask16 lanes(int64_t n)
{
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* 2^t to a unit in the last place or two: 2^floor(t) times a polynomial of what is left, found by Remez'
 * exchange, of a relative error of 7e-9. */
INLINE __m512 power_of_2(__m512 t)
{
    const __m512 left = _mm512_reduce_ps(t, 9); /* t - floor(t) */
    __m512 p = _mm512_set1_ps(2.1702255681e-4f);
    p = _mm512_fmadd_ps(p, left, _mm512_set1_ps(1.2439687747e-3f));
    p = _mm512_fmadd_ps(p, left, _mm512_set1_ps(9.678841007e-3f));
    p = _mm512_fmadd_ps(p, left, _mm512_set1_ps(5.5483341978e-2f));
    p = _mm512_fmadd_ps(p, left, _mm512_set1_ps(2.4022983628e-1f));
    p = _mm512_fmadd_ps(p, left, _mm512_set1_ps(6.9314698384e-1f));
    p = _mm512_fmadd_ps(p, left, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);
}

/* e^(times x). Its exponent is rounded like any number, so that the relative error grows with it, to 1e-6
 * at 20 and 4e-6 at 88. Sigmoids and shares, which are at most 1, are no less exact for it. */
INLINE __m512 exponential(__m512 x, const float times)
{
    return power_of_2(_mm512_mul_ps(x, _mm512_set1_ps(times * 1.44269504f)));
}

/* An activation is x * sigmoid(within x): SiLU; or GELU by its tanh formula. */
enum { NO_ACTIVATION = 0, SILU = 1, GELU = 2 };
#define TANH 1.5957691216f /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715f

INLINE __m512 within(__m512 x, const int activation)
{
    if (activation != GELU)
        return x;
    const __m512 cubic = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(CUBIC));
    return _mm512_mul_ps(_mm512_fmadd_ps(cubic, x, x), _mm512_set1_ps(TANH));
}

/* So much below the largest score a share is nothing beside it: e^-64 is 1.6e-28. Shares much smaller
 * still, less than float32's usual form holds, would be multiplied a hundred times slower by Intel's
 * processors. */
#define NOTHING -64.0f

/* Scores of keys ``low`` to ``high``, of which ``from`` to ``to`` are seen -> e^(score - largest),
 * nought where not seen or next to nothing; returned is what their sum divides 1 into. ``low`` is
 * taken down to a multiple of 16. */
INLINE float softened(float *scores, int64_t low, int64_t high, int64_t from, int64_t to)
{
    const __m512 least = _mm512_set1_ps(-__builtin_inff());
    __m512 largest = least, sum = _mm512_setzero_ps();
    low = low / 16 * 16;
#define SEEN(j) (lanes(to - (j)) & ~lanes(from - (j)))
    for (int64_t j = low; j < high; j += 16)
        largest = _mm512_max_ps(_mm512_mask_loadu_ps(least, SEEN(j), scores + j), largest);
    const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (int64_t j = low; j < high; j += 16) {
        const __m512 below = _mm512_sub_ps(_mm512_maskz_loadu_ps(SEEN(j), scores + j), most);
        const __mmask16 some =
            _mm512_mask_cmp_ps_mask(SEEN(j), below, _mm512_set1_ps(NOTHING), _CMP_NLT_UQ);
        const __m512 e = _mm512_maskz_mov_ps(some, exponential(below, 1));
        sum = _mm512_add_ps(sum, e);
        _mm512_mask_storeu_ps(scores + j, lanes(high - j), e);
    }
#undef SEEN
    return 1 / _mm512_reduce_add_ps(sum);
}

/* One token's part of one head, turned by its position (``cos``, ``sin``: none, or that token's) or
 * turned back, and multiplied by a number. */
INLINE void turned(const float *x, int64_t dim, const float *cos, const float *sin, float by,
                   float *to, const int back)
{
    const int64_t half = dim / 2;
    const __m512 all = _mm512_set1_ps(by);
    for (int64_t i = 0; i < half; i += 16) {
        const __mmask16 some = lanes(half - i);
        __m512 low = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + i), all);
        __m512 high = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + half + i), all);
        if (cos) {
            __m512 cos_low = _mm512_maskz_loadu_ps(some, cos + i);
            __m512 cos_high = _mm512_maskz_loadu_ps(some, cos + half + i);
            __m512 sin_low = _mm512_maskz_loadu_ps(some, sin + i);
            __m512 sin_high = _mm512_maskz_loadu_ps(some, sin + half + i);
            __m512 first = _mm512_mul_ps(low, cos_low), last = _mm512_mul_ps(high, cos_high);
            if (back) {
                first = _mm512_fmadd_ps(high, sin_high, first);
                last = _mm512_fnmadd_ps(low, sin_low, last);
            } else {
                first = _mm512_fnmadd_ps(high, sin_low, first);
                last = _mm512_fmadd_ps(low, sin_high, last);
            }
            low = first;
            high = last;
        }
        _mm512_mask_storeu_ps(to + i, some, low);
        _mm512_mask_storeu_ps(to + half + i, some, high);
    }
}

#endif
#endif
