/* A bump allocator that tells kmemleak_core of every block. */
#ifndef ARENA_H
#define ARENA_H

#include "kmemleak_core.h"

typedef struct arena arena;

/* An arena of so many bytes; NULL if there is no memory. The two pointers are what
 * kmemleak_core.attach(detector) has as .api and .handle; NULL, NULL: nobody is told. */
arena *arena_create(size_t size, const kmemleak_api *api, kmemleak_detector *detector);
void arena_destroy(arena *a);

/* A zeroed block, or NULL. Any thread may call. */
void *arena_alloc(arena *a, size_t size);
/* Like arena_alloc(), for a block that stays until the end on purpose. */
void *arena_alloc_permanent(arena *a, size_t size);
/* Like arena_alloc(), for bytes that are no pointers: text, pixels. */
void *arena_alloc_data(arena *a, size_t size);
void arena_free(arena *a, void *block);

/* Eight words that the program keeps its pointers in: the roots. */
void **arena_roots(arena *a);

#endif
