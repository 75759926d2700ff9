/* A main arena that is not one piece.
 *
 * "foreign": the program calls sbrk itself between allocations.
 * "blocked": something is mapped right after the heap, so it grows by mmap (non-contiguous).
 * "none":    sbrk never gives anything. */
#include "known.h"
#include <sys/mman.h>

enum { BLOCKS = 3000 };
static void *volatile kept[BLOCKS];

static void *block_the_way(void)
{
    uintptr_t end = ((uintptr_t)sbrk(0) + 4095) & ~(uintptr_t)4095;
    void *wall = mmap((void *)end, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return wall;
}

static NOINLINE void allocate(int foreign, int wall)
{
    uint64_t random = 88172645463325252ULL;
    for (int i = 0; i < BLOCKS; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        size_t size = 16 + random % 3000;
        if (i % 10 == 0)
            lose("block", size);
        else
            kept[i] = known("held", "block", size);
        if (foreign && i % 500 == 250) {
            /* Odd lengths too: malloc has to align what it gets afterwards. */
            char *own = sbrk(foreign + i);
            memset(own, 0x41, (size_t)(foreign + i));
        }
        if (wall && i == 500)
            block_the_way();
    }
    for (int i = 3; i < BLOCKS; i += 7)
        if (kept[i]) {
            say("freed", "block", kept[i], 0);
            free(kept[i]);
            kept[i] = NULL;
        }
}

int main(int count, char **arguments)
{
    const char *how = count > 1 ? arguments[1] : "";
    if (!strcmp(how, "none"))
        block_the_way();
    allocate(!strcmp(how, "foreign") ? 4099 : 0, !strcmp(how, "blocked"));
    ready();
}
