/* Filters words: of a run of words, which have a value in [low, low + span]?
 *
 * Every variant gives the same answer; which one runs is chosen at import by what the processor
 * can do, or by KMEMLEAK_SIMD, so that one machine can test them all. Functions carry their
 * instruction set as an attribute: the rest of the extension stays baseline code.
 */
#ifndef KMEMLEAK_SIMD_H
#define KMEMLEAK_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define KML_X86 1
#include <immintrin.h>
#endif

/* A run is at most this long; results need room for KML_PIECE + KML_SLACK entries. */
#define KML_PIECE 512
#define KML_SLACK 4

typedef struct {
    uint64_t low;   /* smallest value wanted */
    uint64_t span;  /* largest value wanted, less low */
    uint64_t mask;  /* applied to each word first */
    uint32_t step;  /* bytes from one word's start to the next */
    int word_size;  /* 4 or 8 */
    int swapped;    /* words are in the other byte order */
} kml_filter;

static inline void kml_prefetch(const void *address) { __builtin_prefetch(address, 0, 3); }

/* The value of the word at p, as the filter sees it; p need not be aligned. */
static inline uint64_t kml_load(const kml_filter *f, const uint8_t *p) {
    uint64_t value;
    if (f->word_size == 8) {
        memcpy(&value, p, 8);
        if (f->swapped) value = __builtin_bswap64(value);
    } else {
        uint32_t half;
        memcpy(&half, p, 4);
        value = f->swapped ? __builtin_bswap32(half) : half;
    }
    return value & f->mask;
}

/* Writes value and position (in words of the run) of each word that passes; returns how many. */
typedef size_t (*kml_filter_function)(const kml_filter *f, const uint8_t *p, size_t count,
                                      uint64_t *values, uint32_t *positions);

static size_t kml_filter_scalar(const kml_filter *f, const uint8_t *p, size_t count,
                                uint64_t *values, uint32_t *positions) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++, p += f->step) {
        uint64_t value = kml_load(f, p);
        values[found] = value;
        positions[found] = (uint32_t)i;
        found += value - f->low <= f->span;
    }
    return found;
}

#ifdef KML_X86
/* For each 4-bit set of lanes: which 32-bit halves to move to the front. */
static const uint32_t kml_lanes[16][8] __attribute__((aligned(32))) = {
    {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {2, 3, 0, 1, 4, 5, 6, 7},
    {0, 1, 2, 3, 4, 5, 6, 7}, {4, 5, 0, 1, 2, 3, 6, 7}, {0, 1, 4, 5, 2, 3, 6, 7},
    {2, 3, 4, 5, 0, 1, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {6, 7, 0, 1, 2, 3, 4, 5},
    {0, 1, 6, 7, 2, 3, 4, 5}, {2, 3, 6, 7, 0, 1, 4, 5}, {0, 1, 2, 3, 6, 7, 4, 5},
    {4, 5, 6, 7, 0, 1, 2, 3}, {0, 1, 4, 5, 6, 7, 2, 3}, {2, 3, 4, 5, 6, 7, 0, 1},
    {0, 1, 2, 3, 4, 5, 6, 7},
};

__attribute__((target("avx2,popcnt"))) static size_t
kml_filter_avx2(const kml_filter *f, const uint8_t *p, size_t count, uint64_t *values,
                uint32_t *positions) {
    if (f->word_size != 8 || f->step != 8) return kml_filter_scalar(f, p, count, values, positions);
    const __m256i sign = _mm256_set1_epi64x(INT64_MIN);
    const __m256i low = _mm256_set1_epi64x((int64_t)f->low);
    const __m256i span = _mm256_xor_si256(_mm256_set1_epi64x((int64_t)f->span), sign);
    const __m256i mask = _mm256_set1_epi64x((int64_t)f->mask);
    const __m256i swap = _mm256_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8,
                                          7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
    size_t found = 0, i = 0;
    for (; i + 16 <= count; i += 16) {
        __m256i word[4], outside[4];
        for (int k = 0; k < 4; k++) {
            word[k] = _mm256_loadu_si256((const __m256i *)(p + (i + 4 * k) * 8));
            if (f->swapped) word[k] = _mm256_shuffle_epi8(word[k], swap);
            word[k] = _mm256_and_si256(word[k], mask);
            __m256i distance = _mm256_xor_si256(_mm256_sub_epi64(word[k], low), sign);
            outside[k] = _mm256_cmpgt_epi64(distance, span);
        }
        __m256i all = _mm256_and_si256(_mm256_and_si256(outside[0], outside[1]),
                                       _mm256_and_si256(outside[2], outside[3]));
        if (_mm256_movemask_epi8(all) == -1) continue;
        for (int k = 0; k < 4; k++) {
            unsigned inside = ~(unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(outside[k])) & 15;
            __m256i lanes = _mm256_load_si256((const __m256i *)kml_lanes[inside]);
            _mm256_storeu_si256((__m256i *)(values + found),
                                _mm256_permutevar8x32_epi32(word[k], lanes));
            /* A lane's number is half that of its low 32-bit half. */
            __m256i evens = _mm256_permutevar8x32_epi32(
                _mm256_srli_epi32(lanes, 1), _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
            __m128i at = _mm_add_epi32(_mm256_castsi256_si128(evens),
                                       _mm_set1_epi32((int)(i + 4 * (size_t)k)));
            _mm_storeu_si128((__m128i *)(positions + found), at);
            found += (size_t)__builtin_popcount(inside);
        }
    }
    size_t tail = kml_filter_scalar(f, p + i * 8, count - i, values + found, positions + found);
    for (size_t k = 0; k < tail; k++) positions[found + k] += (uint32_t)i;
    return found + tail;
}
#endif

/* The best level this processor has, unless one is named; NULL for a name it does not have. */
static inline kml_filter_function kml_choose(const char *wanted, const char **chosen) {
#ifdef KML_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
    if (avx2 && (!*wanted || !strcmp(wanted, "avx2"))) {
        *chosen = "avx2";
        return kml_filter_avx2;
    }
#endif
    if (*wanted && strcmp(wanted, "scalar")) return NULL;
    *chosen = "scalar";
    return kml_filter_scalar;
}

#endif
