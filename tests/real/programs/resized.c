/* Blocks of their own mapping that realloc has grown, shrunk and moved (mremap). */
#include "known.h"

static void *volatile kept[64];

static NOINLINE void one(int number, size_t from, size_t to, int keep)
{
    void *block = fill(malloc(from), from);
    /* A neighbour in the way, now and then. */
    if (number % 2)
        lose("neighbour", 150000);
    block = fill(realloc(block, to), to);
    say(keep ? "held" : "lost", "resized", block, to);
    if (keep)
        kept[number] = block;
}

int main(void)
{
    static const size_t sizes[] = {100, 140000, 300000, 1000000, 5000000};
    int number = 0;
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 5; b++)
            if (a != b)
                for (int keep = 0; keep < 2; keep++)
                    one(number++, sizes[a], sizes[b], keep);
    ready();
}
