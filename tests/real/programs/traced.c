/* Allocates and frees under mtrace(), and prints address and size of what it leaves behind. */
#include <mcheck.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 200 };

static void *blocks[COUNT];
static size_t sizes[COUNT];

int main(void)
{
    unsigned state = 1;
    void *spare;

    setvbuf(stdout, NULL, _IONBF, 0);
    mtrace();
    for (int i = 0; i < 5000; i++) {
        state = state * 1103515245 + 12345;
        unsigned slot = (state >> 16) % COUNT;
        size_t size = (state >> 8) % 3000;
        if (!blocks[slot])
            blocks[slot] = i % 3 ? malloc(sizes[slot] = size) : calloc(1, sizes[slot] = size);
        else if (i % 2)
            blocks[slot] = realloc(blocks[slot], sizes[slot] = size + 1);
        else {
            free(blocks[slot]);
            blocks[slot] = NULL;
        }
    }
    spare = aligned_alloc(256, 512);
    free(spare);
    spare = realloc(blocks[0], (size_t)1 << 62); /* fails, and changes nothing */
    muntrace();
    for (int i = 0; i < COUNT; i++)
        if (blocks[i])
            printf("%lx %zx\n", (unsigned long)blocks[i], sizes[i]);
    return 0;
}
