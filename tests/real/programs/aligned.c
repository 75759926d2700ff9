/* memalign, posix_memalign and aligned_alloc: small and mmapped, held and lost. */
#include "known.h"

static void *volatile kept[256];
static int used;

static NOINLINE void *block(int how, size_t alignment, size_t size)
{
    void *made = NULL;
    if (how == 0)
        return memalign(alignment, size);
    if (how == 1)
        return posix_memalign(&made, alignment, size) ? NULL : made;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static NOINLINE void one(int how, size_t alignment, size_t size, int keep)
{
    static const char *const names[] = {"memalign", "posix_memalign", "aligned_alloc"};
    char name[80];
    void *made = fill(block(how, alignment, size), size);
    snprintf(name, sizeof name, "%s-%zu", names[how], alignment);
    say(keep ? "held" : "lost", name, made, size);
    if (keep)
        kept[used++] = made;
}

int main(void)
{
    static const size_t alignments[] = {32, 64, 256, 4096, 65536, 2 << 20};
    static const size_t sizes[] = {40, 5000, 200000, 1000000};
    for (int how = 0; how < 3; how++)
        for (int a = 0; a < 6; a++)
            for (int s = 0; s < 4; s++)
                for (int keep = 0; keep < 2; keep++)
                    if (how < 2 || alignments[a] <= 65536)
                        one(how, alignments[a], sizes[s], keep);
    ready();
}
