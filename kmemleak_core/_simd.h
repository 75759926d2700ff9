/* Filters words: of a run of words, which have a value in [low, low + span]?
 *
 * Every level gives the same answer, here in plain C and beside it in _simd_*.h; which one runs is
 * chosen at import by what the processor can do, or by KMEMLEAK_SIMD, so that one machine can test
 * them all. Functions carry their instruction set as an attribute: the rest of the extension stays
 * baseline code.
 */
#ifndef KMEMLEAK_SIMD_H
#define KMEMLEAK_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A run is at most this long; results need room for KML_SLACK entries more than the run has words,
 * since vectors are stored whole. */
#define KML_PIECE 512
#define KML_SLACK 16

typedef struct {
    uint64_t low;   /* smallest value wanted */
    uint64_t span;  /* largest value wanted, less low; the range may wrap around */
    uint64_t mask;  /* applied to each word first */
    uint32_t step;  /* bytes from one word's start to the next: 1, 2, 4 or 8 */
    int word_size;  /* 4 or 8 */
    int swapped;    /* words are in the other byte order */
} kml_filter;

/* Writes value and position (in words of the run) of each word that passes, in order; returns how
 * many. The run begins anywhere, aligned or not; nothing past its last word is read. */
typedef size_t (*kml_filter_function)(const kml_filter *f, const uint8_t *p, size_t count,
                                      uint64_t *values, uint32_t *positions);

#define KML_INLINE static inline __attribute__((always_inline))

KML_INLINE uint64_t kml_load_word(const uint8_t *p, int word_size, int swapped) {
    if (word_size == 8) {
        uint64_t value;
        memcpy(&value, p, 8);
        return swapped ? __builtin_bswap64(value) : value;
    }
    uint32_t value;
    memcpy(&value, p, 4);
    return swapped ? __builtin_bswap32(value) : value;
}

/* The value of the word at p, as the filter sees it; p need not be aligned. */
static inline uint64_t kml_load(const kml_filter *f, const uint8_t *p) {
    return kml_load_word(p, f->word_size, f->swapped) & f->mask;
}

KML_INLINE size_t kml_scalar_loop(const kml_filter *f, const uint8_t *p, size_t from, size_t until,
                                  uint64_t *values, uint32_t *positions, int word_size,
                                  int swapped) {
    const uint64_t low = f->low, span = f->span, mask = f->mask;
    const size_t step = f->step;
    size_t found = 0;
    p += from * step;
    _Pragma("GCC unroll 4") for (size_t i = from; i < until; i++, p += step) {
        uint64_t value = kml_load_word(p, word_size, swapped) & mask;
        /* Always written, kept only if it passes: a branch would be mispredicted. */
        values[found] = value;
        positions[found] = (uint32_t)i;
        found += value - low <= span;
    }
    return found;
}

/* Filters words [from, until) of the run at p; results go to the arrays' starts. */
static inline size_t kml_scalar_part(const kml_filter *f, const uint8_t *p, size_t from,
                                     size_t until, uint64_t *values, uint32_t *positions) {
    if (f->word_size == 8) {
        return f->swapped ? kml_scalar_loop(f, p, from, until, values, positions, 8, 1)
                          : kml_scalar_loop(f, p, from, until, values, positions, 8, 0);
    }
    return f->swapped ? kml_scalar_loop(f, p, from, until, values, positions, 4, 1)
                      : kml_scalar_loop(f, p, from, until, values, positions, 4, 0);
}

static inline size_t kml_filter_scalar(const kml_filter *f, const uint8_t *p, size_t count,
                                       uint64_t *values, uint32_t *positions) {
    return kml_scalar_part(f, p, 0, count, values, positions);
}

/* Whether the mask takes bits from words of this size. */
static inline int kml_is_masked(const kml_filter *f) {
    return f->word_size == 8 ? f->mask != UINT64_MAX : (uint32_t)f->mask != UINT32_MAX;
}

/* What a filter means for 4-byte words in 32-bit lanes: v - low <= span modulo 2**32; false if no
 * word can pass. */
static inline int kml_narrow(const kml_filter *f, uint32_t *low, uint32_t *span) {
    const uint64_t most = UINT32_MAX, last = f->low + f->span;
    uint64_t from = f->low, to = last;
    if (last < from) { /* The range wraps around: it ends where the words begin. */
        if (from > most) from = 0;
        if (to > most) to = most;
    } else if (from > most) {
        return 0;
    } else if (to > most) {
        to = most;
    }
    *low = (uint32_t)from;
    *span = (uint32_t)(to - from);
    return 1;
}

/* The vector loops leave out blocks in which no word passes, until so many pass in one: in the rest
 * of the run that branch would be mispredicted too often. */
#define KML_MANY 2

/* Each form of words has a function of its own, in which `kernel` knows the form as constants. */
#define KML_FORM(code, kernel, name, ...) \
    code static size_t name(const kml_filter *f, const uint8_t *p, size_t count, \
                            uint64_t *values, uint32_t *positions) { \
        return kernel(f, p, count, values, positions, __VA_ARGS__); \
    }
/* As they are, masked, swapped or both. */
#define KML_FORMS(code, kernel, name, ...) \
    KML_FORM(code, kernel, name##_plain, __VA_ARGS__, 0, 0) \
    KML_FORM(code, kernel, name##_masked, __VA_ARGS__, 0, 1) \
    KML_FORM(code, kernel, name##_swapped, __VA_ARGS__, 1, 0) \
    KML_FORM(code, kernel, name##_both, __VA_ARGS__, 1, 1)
#define KML_ROW(name) {{name##_plain, name##_masked}, {name##_swapped, name##_both}}
/* By word size, log2 of the step, swapped, masked. */
#define KML_TABLE(name) \
    {{KML_ROW(name##_4_1), KML_ROW(name##_4_2), KML_ROW(name##_4_4), KML_ROW(name##_4_8)}, \
     {KML_ROW(name##_8_1), KML_ROW(name##_8_2), KML_ROW(name##_8_4), KML_ROW(name##_8_8)}}

static inline kml_filter_function kml_form_of(const kml_filter *f,
                                              const kml_filter_function forms[2][4][2][2]) {
    return forms[f->word_size == 8][__builtin_ctz(f->step)][f->swapped != 0][kml_is_masked(f)];
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include "_simd_avx2.h"
#include "_simd_avx512.h"
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)
#include "_simd_neon.h"
#endif

typedef struct {
    const char *name;
    kml_filter_function filter;
} kml_level;

/* The levels this processor has, best first; the last, scalar, is always there. */
static inline const kml_level *kml_find_level(size_t index) {
    static const kml_level scalar = {"scalar", kml_filter_scalar};
#if defined(KML_AVX2)
    static const kml_level avx2 = {"avx2", kml_filter_avx2};
    static const kml_level avx512 = {"avx512", kml_filter_avx512};
    __builtin_cpu_init();
    if (kml_has_avx512() && index-- == 0) return &avx512;
    if (kml_has_avx2() && index-- == 0) return &avx2;
#elif defined(KML_NEON)
    static const kml_level neon = {"neon", kml_filter_neon};
    if (index-- == 0) return &neon;
#endif
    return index == 0 ? &scalar : NULL;
}

/* The name of the level with this index, best first; NULL after the last. */
static inline const char *kml_level_name(size_t index) {
    const kml_level *level = kml_find_level(index);
    return level ? level->name : NULL;
}

/* The best level this processor has, unless one is named; NULL for a name it does not have. */
static inline kml_filter_function kml_choose(const char *wanted, const char **chosen) {
    const kml_level *level;
    for (size_t i = 0; (level = kml_find_level(i)); i++) {
        if (!*wanted || !strcmp(wanted, level->name)) {
            *chosen = level->name;
            return level->filter;
        }
    }
    return NULL;
}

#endif
