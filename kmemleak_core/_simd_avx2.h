/* The word filter for x86-64 with AVX2; included by _simd.h.
 *
 * Blocks of words of which none passes are rejected with a branch; the words of any other block are
 * compared, moved to the front of their vector and stored without one, in order.
 */
#define KML_AVX2 1
#include <immintrin.h>

#define KML_AVX2_CODE __attribute__((target("avx2,popcnt")))
#define KML_AVX2_INLINE KML_AVX2_CODE KML_INLINE

static inline int kml_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}

/* For each 4-bit set of lanes that pass: their numbers, and those of their 32-bit halves. */
typedef struct {
    uint32_t lanes[4];
    uint16_t halves[8];
} kml_kept;

#define KML_KEPT(a, b, c, d) \
    {{a, b, c, d}, {2 * a, 2 * a + 1, 2 * b, 2 * b + 1, 2 * c, 2 * c + 1, 2 * d, 2 * d + 1}}
static const kml_kept kml_kept_of[16] __attribute__((aligned(32))) = {
    KML_KEPT(0, 0, 0, 0), KML_KEPT(0, 0, 0, 0), KML_KEPT(1, 0, 0, 0),
    KML_KEPT(0, 1, 0, 0), KML_KEPT(2, 0, 0, 0), KML_KEPT(0, 2, 0, 0),
    KML_KEPT(1, 2, 0, 0), KML_KEPT(0, 1, 2, 0), KML_KEPT(3, 0, 0, 0),
    KML_KEPT(0, 3, 0, 0), KML_KEPT(1, 3, 0, 0), KML_KEPT(0, 1, 3, 0),
    KML_KEPT(2, 3, 0, 0), KML_KEPT(0, 2, 3, 0), KML_KEPT(1, 2, 3, 0),
    KML_KEPT(0, 1, 2, 3),
};

/* Byte shuffles that make two 64-bit words of 16 bytes, by log2 of the step between the two, by
 * word size and by whether they are swapped. */
#define KML_8(a) (a), (a) + 1, (a) + 2, (a) + 3, (a) + 4, (a) + 5, (a) + 6, (a) + 7
#define KML_8_SWAPPED(a) (a) + 7, (a) + 6, (a) + 5, (a) + 4, (a) + 3, (a) + 2, (a) + 1, (a)
#define KML_4(a) (a), (a) + 1, (a) + 2, (a) + 3, 128, 128, 128, 128
#define KML_4_SWAPPED(a) (a) + 3, (a) + 2, (a) + 1, (a), 128, 128, 128, 128
#define KML_PAIR(step) \
    {{{KML_8(0), KML_8(step)}, {KML_8_SWAPPED(0), KML_8_SWAPPED(step)}}, \
     {{KML_4(0), KML_4(step)}, {KML_4_SWAPPED(0), KML_4_SWAPPED(step)}}}
static const uint8_t kml_pairs[4][2][2][16] __attribute__((aligned(16))) = {
    KML_PAIR(1), KML_PAIR(2), KML_PAIR(4), KML_PAIR(8),
};
/* The same for four 4-byte words that only change their byte order. */
static const uint8_t kml_swap_4[16] __attribute__((aligned(16))) = {
    3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
};

/* What a filter means in lanes of `size` bytes. A word passes if its distance from the top of the
 * range is less than the range's width; less half of what a lane holds, both compare as if they had
 * no sign. The distance is taken from the top so that the word can be an operand in memory. */
typedef struct {
    __m256i top, width, mask, order;
} kml_avx2_lanes;

/* False if the lanes cannot tell: no word passes, or every word. */
KML_AVX2_INLINE int kml_avx2_spread(const kml_filter *f, size_t size, const uint8_t *order,
                                    kml_avx2_lanes *lanes) {
    const uint64_t half = (uint64_t)1 << 63;
    uint32_t low, span;
    lanes->order = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)order));
    if (size == 8) {
        lanes->top = _mm256_set1_epi64x((int64_t)(f->low + f->span + half));
        lanes->width = _mm256_set1_epi64x((int64_t)(f->span + 1 + half));
        lanes->mask = _mm256_set1_epi64x((int64_t)f->mask);
        return f->span != UINT64_MAX;
    }
    if (!kml_narrow(f, &low, &span)) return 0;
    lanes->top = _mm256_set1_epi32((int32_t)(low + span + (uint32_t)(half >> 32)));
    lanes->width = _mm256_set1_epi32((int32_t)(span + 1 + (uint32_t)(half >> 32)));
    lanes->mask = _mm256_set1_epi32((int32_t)f->mask);
    return span != UINT32_MAX;
}

/* Loads the words of one vector, as the filter sees them. */
KML_AVX2_INLINE __m256i kml_avx2_load(const uint8_t *p, const kml_avx2_lanes *lanes, int swapped,
                                      int masked) {
    __m256i word = _mm256_loadu_si256((const __m256i *)p);
    if (swapped) word = _mm256_shuffle_epi8(word, lanes->order);
    return masked ? _mm256_and_si256(word, lanes->mask) : word;
}

KML_AVX2_INLINE __m256i kml_avx2_inside(__m256i word, const kml_avx2_lanes *lanes, size_t size) {
    return size == 8 ? _mm256_cmpgt_epi64(lanes->width, _mm256_sub_epi64(lanes->top, word))
                     : _mm256_cmpgt_epi32(lanes->width, _mm256_sub_epi32(lanes->top, word));
}

/* Stores those of four words that pass and their positions; returns how many. */
KML_AVX2_INLINE size_t kml_avx2_keep(__m256i word, unsigned inside, __m128i at, uint64_t *values,
                                     uint32_t *positions) {
    const kml_kept *kept = &kml_kept_of[inside];
    __m128i lanes = _mm_load_si128((const __m128i *)kept->lanes);
    __m256i halves = _mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)kept->halves));
    _mm256_storeu_si256((__m256i *)values, _mm256_permutevar8x32_epi32(word, halves));
    _mm_storeu_si128((__m128i *)positions, _mm_add_epi32(lanes, at));
    return (size_t)__builtin_popcount(inside);
}

/* The same for a whole vector, of its lanes that are wanted; `at` moves on by four. */
KML_AVX2_INLINE size_t kml_avx2_keep_all(__m256i word, __m256i inside, unsigned wanted, __m128i *at,
                                         uint64_t *values, uint32_t *positions, size_t size) {
    const __m128i four = _mm_set1_epi32(4);
    if (size == 8) {
        unsigned bits = (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(inside));
        size_t found = kml_avx2_keep(word, bits & wanted, *at, values, positions);
        *at = _mm_add_epi32(*at, four);
        return found;
    }
    unsigned bits = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(inside)) & wanted;
    __m256i first = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(word));
    __m256i second = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(word, 1));
    size_t found = kml_avx2_keep(first, bits & 15, *at, values, positions);
    *at = _mm_add_epi32(*at, four);
    found += kml_avx2_keep(second, bits >> 4, *at, values + found, positions + found);
    *at = _mm_add_epi32(*at, four);
    return found;
}

/* Shorter runs are left to the plain loop; no less than a vector of words. */
#define KML_AVX2_LEAST 8

/* Filters a run of at least one vector of words that follow one another. */
KML_AVX2_INLINE size_t kml_avx2_aligned(const kml_filter *f, const uint8_t *p, size_t count,
                                        uint64_t *values, uint32_t *positions, size_t size,
                                        int swapped, int masked) {
    const size_t several = 32 / size, block = 4 * several;
    kml_avx2_lanes lanes;
    const uint8_t *order = size == 8 ? kml_pairs[3][0][1] : kml_swap_4;
    if (!kml_avx2_spread(f, size, order, &lanes)) {
        return kml_filter_scalar(f, p, count, values, positions);
    }
    size_t i = 0, found = 0, busy = 0;
    for (; i + block <= count; i += block) {
        __m256i word[4], inside[4];
        for (size_t k = 0; k < 4; k++) {
            word[k] = kml_avx2_load(p + i * size + k * 32, &lanes, swapped, masked);
            inside[k] = kml_avx2_inside(word[k], &lanes, size);
        }
        __m256i any = _mm256_or_si256(_mm256_or_si256(inside[0], inside[1]),
                                      _mm256_or_si256(inside[2], inside[3]));
        if (!busy && _mm256_testz_si256(any, any)) continue;
        const size_t before = found;
        __m128i at = _mm_set1_epi32((int)i);
        for (size_t k = 0; k < 4; k++) {
            found += kml_avx2_keep_all(word[k], inside[k], ~0u, &at, values + found,
                                       positions + found, size);
        }
        busy |= found - before >= KML_MANY;
    }
    while (i < count) {
        /* The last vector ends where the run does: some of its words were done before. */
        size_t from = i + several <= count ? i : count - several;
        __m128i at = _mm_set1_epi32((int)from);
        __m256i word = kml_avx2_load(p + from * size, &lanes, swapped, masked);
        __m256i inside = kml_avx2_inside(word, &lanes, size);
        found += kml_avx2_keep_all(word, inside, ~0u << (i - from), &at, values + found,
                                   positions + found, size);
        i = from + several;
    }
    return found;
}

/* Words of any step, as the exact loop takes them: by 16 bytes for two, so that some words have to
 * follow a four of them. */
typedef struct {
    kml_avx2_lanes lanes;
    const kml_filter *f;
    const uint8_t *p;
    size_t limit; /* fours end here at the latest */
} kml_avx2_run;

/* Filters words [from, until) of a run, four at a time and without a branch. */
KML_AVX2_CODE static size_t kml_avx2_exact(const kml_avx2_run *run, size_t from, size_t until,
                                           uint64_t *values, uint32_t *positions) {
    const kml_avx2_lanes lanes = run->lanes;
    const size_t step = run->f->step, limit = until < run->limit ? until : run->limit;
    const uint8_t *q = run->p + from * step;
    __m128i at = _mm_set1_epi32((int)from);
    size_t i = from, found = 0;
    for (; i + 4 <= limit; i += 4, q += 4 * step) {
        __m128i first = _mm_loadu_si128((const __m128i *)q);
        __m128i second = _mm_loadu_si128((const __m128i *)(q + 2 * step));
        __m256i word = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
        word = _mm256_and_si256(_mm256_shuffle_epi8(word, lanes.order), lanes.mask);
        __m256i inside = kml_avx2_inside(word, &lanes, 8);
        found += kml_avx2_keep_all(word, inside, ~0u, &at, values + found, positions + found, 8);
    }
    if (i == until) return found;
    return found + kml_scalar_part(run->f, run->p, i, until, values + found, positions + found);
}

/* Filters a run with any other step: a block's bytes are compared once for each shift by a step,
 * and if no word passes at any, the block is done. */
KML_AVX2_INLINE size_t kml_avx2_shifted(const kml_filter *f, const uint8_t *p, size_t count,
                                        uint64_t *values, uint32_t *positions, size_t lane,
                                        size_t step, size_t size, int swapped, int masked) {
    const size_t shifts = lane / step, loads = shifts < 4 ? 4 : shifts;
    const size_t block = loads / shifts * 32 / step;
    kml_avx2_lanes lanes;
    kml_avx2_run run = {.f = f, .p = p};
    const uint8_t *order = lane == 8 ? kml_pairs[3][size == 4][swapped] : kml_swap_4;
    if (count < block || !kml_avx2_spread(f, lane, order, &lanes)) {
        return kml_filter_scalar(f, p, count, values, positions);
    }
    kml_avx2_spread(f, 8, kml_pairs[__builtin_ctz((unsigned)step)][size == 4][swapped], &run.lanes);
    run.limit = count - (15 - size) / step;
    /* Words narrower than their lane: after the last one there is nothing to fill it. */
    const size_t limit = count - (size < lane);
    size_t i = 0, found = 0;
    while (i + block <= limit) {
        __m256i any = _mm256_setzero_si256();
        for (size_t k = 0; k < loads; k++) {
            const uint8_t *q = p + i * step + k / shifts * 32 + k % shifts * step;
            __m256i word = kml_avx2_load(q, &lanes, swapped || size < lane, masked);
            any = _mm256_or_si256(any, kml_avx2_inside(word, &lanes, lane));
        }
        const size_t first = i;
        i += block;
        if (_mm256_testz_si256(any, any)) continue;
        size_t hits = kml_avx2_exact(&run, first, i, values + found, positions + found);
        found += hits;
        if (hits >= KML_MANY) break;
    }
    return found + kml_avx2_exact(&run, i, count, values + found, positions + found);
}

KML_FORMS(KML_AVX2_CODE, kml_avx2_shifted, kml_avx2_4_1, 4, 1, 4)
KML_FORMS(KML_AVX2_CODE, kml_avx2_shifted, kml_avx2_4_2, 4, 2, 4)
KML_FORMS(KML_AVX2_CODE, kml_avx2_aligned, kml_avx2_4_4, 4)
KML_FORMS(KML_AVX2_CODE, kml_avx2_shifted, kml_avx2_8_1, 8, 1, 8)
KML_FORMS(KML_AVX2_CODE, kml_avx2_shifted, kml_avx2_8_2, 8, 2, 8)
KML_FORMS(KML_AVX2_CODE, kml_avx2_shifted, kml_avx2_8_4, 8, 4, 8)
KML_FORMS(KML_AVX2_CODE, kml_avx2_aligned, kml_avx2_8_8, 8)
KML_FORMS(KML_AVX2_CODE, kml_avx2_shifted, kml_avx2_4_8, 8, 8, 4)

static size_t kml_filter_avx2(const kml_filter *f, const uint8_t *p, size_t count,
                              uint64_t *values, uint32_t *positions) {
    static const kml_filter_function forms[2][4][2][2] = KML_TABLE(kml_avx2);
    /* So few cost less one by one than it costs to spread the filter over lanes. */
    if (count < KML_AVX2_LEAST) return kml_filter_scalar(f, p, count, values, positions);
    return kml_form_of(f, forms)(f, p, count, values, positions);
}
