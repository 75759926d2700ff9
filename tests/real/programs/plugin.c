/* A library that allocates; `unload` is not called: its data stays mapped. */
#include "known.h"

static void *volatile kept;

void plug(void);
void plug(void)
{
    kept = known("held", "plugin-data", 120);
    lose("plugin", 120);
    for (int i = 0; i < 50; i++)
        lose("plugin", 16 + 40 * (size_t)i);
}
