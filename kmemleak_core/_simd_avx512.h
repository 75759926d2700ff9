/* The word filter for x86-64 with AVX-512; included by _simd.h after _simd_avx2.h.
 *
 * Its own are words that follow one another; other steps are AVX2's. Words that pass are
 * compressed in a register and stored whole: many processors are slow to compress to memory.
 */
#define KML_AVX512_CODE __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,popcnt")))
#define KML_AVX512_INLINE KML_AVX512_CODE KML_INLINE

static inline int kml_has_avx512(void) {
    return kml_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
}

/* Stores the lanes of `word` that pass and their positions; returns how many. */
KML_AVX512_INLINE size_t kml_avx512_keep(__m512i word, __mmask16 inside, size_t at,
                                         uint64_t *values, uint32_t *positions, size_t size) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i places = _mm512_add_epi32(_mm512_set1_epi32((int)at), lanes);
    if (size == 8) {
        __m256i few = _mm512_castsi512_si256(places);
        _mm512_storeu_si512(values, _mm512_maskz_compress_epi64((__mmask8)inside, word));
        _mm256_storeu_si256((__m256i *)positions,
                            _mm256_maskz_compress_epi32((__mmask8)inside, few));
    } else {
        __m512i kept = _mm512_maskz_compress_epi32(inside, word);
        _mm512_storeu_si512(values, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(kept)));
        _mm512_storeu_si512(values + 8, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(kept, 1)));
        _mm512_storeu_si512(positions, _mm512_maskz_compress_epi32(inside, places));
    }
    return (size_t)__builtin_popcount(inside);
}

KML_AVX512_INLINE size_t kml_avx512_aligned(const kml_filter *f, const uint8_t *p, size_t count,
                                            uint64_t *values, uint32_t *positions, size_t size,
                                            int swapped, int masked) {
    const size_t several = 64 / size, block = 4 * several;
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_load_si128((const __m128i *)(size == 8 ? kml_pairs[3][0][1] : kml_swap_4)));
    __m512i top, span, mask;
    if (size == 8) {
        top = _mm512_set1_epi64((int64_t)(f->low + f->span));
        span = _mm512_set1_epi64((int64_t)f->span);
        mask = _mm512_set1_epi64((int64_t)f->mask);
    } else {
        uint32_t low, width;
        if (!kml_narrow(f, &low, &width)) return 0;
        top = _mm512_set1_epi32((int32_t)(low + width));
        span = _mm512_set1_epi32((int32_t)width);
        mask = _mm512_set1_epi32((int32_t)f->mask);
    }
#define KML_INSIDE(word) \
    (size == 8 ? _mm512_cmple_epu64_mask(_mm512_sub_epi64(top, word), span) \
               : _mm512_cmple_epu32_mask(_mm512_sub_epi32(top, word), span))
    size_t i = 0, found = 0, busy = 0;
    for (; i + block <= count; i += block) {
        __m512i word[4];
        __mmask16 inside[4];
        for (size_t k = 0; k < 4; k++) {
            word[k] = _mm512_loadu_si512(p + i * size + k * 64);
            if (swapped) word[k] = _mm512_shuffle_epi8(word[k], order);
            if (masked) word[k] = _mm512_and_si512(word[k], mask);
            inside[k] = KML_INSIDE(word[k]);
        }
        if (!busy && !(inside[0] | inside[1] | inside[2] | inside[3])) continue;
        const size_t before = found;
        for (size_t k = 0; k < 4; k++) {
            found += kml_avx512_keep(word[k], inside[k], i + k * several, values + found,
                                     positions + found, size);
        }
        busy |= found - before >= KML_MANY;
    }
    for (; i < count; i += several) {
        /* Lanes past the run's end are not read. */
        __mmask16 lanes = (__mmask16)((1u << (count - i < several ? count - i : several)) - 1);
        __m512i word = size == 8 ? _mm512_maskz_loadu_epi64((__mmask8)lanes, p + i * 8)
                                 : _mm512_maskz_loadu_epi32(lanes, p + i * 4);
        if (swapped) word = _mm512_shuffle_epi8(word, order);
        if (masked) word = _mm512_and_si512(word, mask);
        found += kml_avx512_keep(word, lanes & KML_INSIDE(word), i, values + found,
                                 positions + found, size);
    }
#undef KML_INSIDE
    return found;
}

KML_FORMS(KML_AVX512_CODE, kml_avx512_aligned, kml_avx512_4, 4)
KML_FORMS(KML_AVX512_CODE, kml_avx512_aligned, kml_avx512_8, 8)

static size_t kml_filter_avx512(const kml_filter *f, const uint8_t *p, size_t count,
                                uint64_t *values, uint32_t *positions) {
    static const kml_filter_function forms[2][2][2] = {KML_ROW(kml_avx512_4),
                                                       KML_ROW(kml_avx512_8)};
    if (f->step != (uint32_t)f->word_size) return kml_filter_avx2(f, p, count, values, positions);
    return forms[f->word_size == 8][f->swapped != 0][kml_is_masked(f)](f, p, count, values,
                                                                       positions);
}
