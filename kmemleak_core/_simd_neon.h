/* The word filter for AArch64 with NEON; included by _simd.h.
 *
 * Blocks of words of which none passes are rejected, whatever the step: a block's bytes are
 * compared once for each shift by a step. Two lanes are too few to gain from more than that: the
 * words of other blocks go through the plain loop.
 */
#define KML_NEON 1
#include <arm_neon.h>

/* Filters a run whose words start lanes of `lane` bytes. */
KML_INLINE size_t kml_neon_sweep(const kml_filter *f, const uint8_t *p, size_t count,
                                 uint64_t *values, uint32_t *positions, size_t lane, size_t step,
                                 size_t size, int swapped, int masked) {
    const size_t shifts = lane / step, block = 8 / shifts * 16 / step;
    /* Words narrower than their lane: after the last one there is nothing to fill it. */
    const size_t limit = size < lane && count ? count - 1 : count;
    uint32_t low = 0, span = 0;
    if (lane == 4 && !kml_narrow(f, &low, &span)) return 0;
    const uint64x2_t wide_low = vdupq_n_u64(f->low), wide_span = vdupq_n_u64(f->span);
    const uint32x4_t narrow_low = vdupq_n_u32(low), narrow_span = vdupq_n_u32(span);
    const uint64_t narrow_mask = f->mask & UINT32_MAX;
    const uint8x16_t mask = vreinterpretq_u8_u64(vdupq_n_u64(
        size == 8 ? f->mask : lane == 8 ? narrow_mask : narrow_mask << 32 | narrow_mask));
    size_t i = 0, found = 0;
    while (i + block <= limit) {
        uint8x16_t any = vdupq_n_u8(0);
        for (size_t k = 0; k < 8; k++) {
            uint8x16_t word = vld1q_u8(p + i * step + k / shifts * 16 + k % shifts * step);
            if (swapped) word = size == 8 ? vrev64q_u8(word) : vrev32q_u8(word);
            if (masked || size < lane) word = vandq_u8(word, mask);
            if (lane == 8) {
                uint64x2_t distance = vsubq_u64(vreinterpretq_u64_u8(word), wide_low);
                any = vorrq_u8(any, vreinterpretq_u8_u64(vcleq_u64(distance, wide_span)));
            } else {
                uint32x4_t distance = vsubq_u32(vreinterpretq_u32_u8(word), narrow_low);
                any = vorrq_u8(any, vreinterpretq_u8_u32(vcleq_u32(distance, narrow_span)));
            }
        }
        const size_t first = i;
        i += block;
        if (vmaxvq_u32(vreinterpretq_u32_u8(any)) == 0) continue;
        size_t hits = kml_scalar_part(f, p, first, i, values + found, positions + found);
        found += hits;
        if (hits >= KML_MANY) break;
    }
    return found + kml_scalar_part(f, p, i, count, values + found, positions + found);
}

KML_FORMS(, kml_neon_sweep, kml_neon_4_1, 4, 1, 4)
KML_FORMS(, kml_neon_sweep, kml_neon_4_2, 4, 2, 4)
KML_FORMS(, kml_neon_sweep, kml_neon_4_4, 4, 4, 4)
KML_FORMS(, kml_neon_sweep, kml_neon_4_8, 8, 8, 4)
KML_FORMS(, kml_neon_sweep, kml_neon_8_1, 8, 1, 8)
KML_FORMS(, kml_neon_sweep, kml_neon_8_2, 8, 2, 8)
KML_FORMS(, kml_neon_sweep, kml_neon_8_4, 8, 4, 8)
KML_FORMS(, kml_neon_sweep, kml_neon_8_8, 8, 8, 8)

static size_t kml_filter_neon(const kml_filter *f, const uint8_t *p, size_t count,
                              uint64_t *values, uint32_t *positions) {
    static const kml_filter_function forms[2][4][2][2] = KML_TABLE(kml_neon);
    return kml_form_of(f, forms)(f, p, count, values, positions);
}
