/* The calls that embed the detector are the lines with `a->leak`. */
#include "arena.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ROOTS = 8, ALIGNMENT = 16, CLASSES = 64 };

struct arena {
    const kmemleak_api *leak;
    kmemleak_detector *detector;
    pthread_mutex_t lock;
    char *memory;
    size_t size, used;
    /* Freed blocks by size, linked through their first word. Nobody scans them: they are not
     * tracked. */
    void *freed[CLASSES];
    void *roots[ROOTS];
};

/* Each block has its size before it. */
typedef union header {
    size_t size;
    char aligned[ALIGNMENT];
} header;

arena *arena_create(size_t size, const kmemleak_api *api, kmemleak_detector *detector) {
    if (api != NULL && (api->version < KMEMLEAK_API_VERSION || api->size < sizeof *api)) return NULL;
    arena *a = calloc(1, sizeof *a);
    if (a == NULL) return NULL;
    a->memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (a->memory == NULL || pthread_mutex_init(&a->lock, NULL)) {
        free(a->memory);
        free(a);
        return NULL;
    }
    a->size = size;
    a->leak = api;
    a->detector = detector;
    return a;
}

void arena_destroy(arena *a) {
    pthread_mutex_destroy(&a->lock);
    free(a->memory);
    free(a);
}

void *arena_alloc(arena *a, size_t size) {
    if (size > a->size) return NULL;
    size_t room = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t class = room / ALIGNMENT;
    void *block = NULL;
    pthread_mutex_lock(&a->lock);
    if (class < CLASSES && a->freed[class] != NULL) {
        block = a->freed[class];
        memcpy(&a->freed[class], block, sizeof(void *));
    } else if (a->size - a->used >= room + sizeof(header)) {
        header *head = (header *)(a->memory + a->used);
        head->size = room;
        a->used += room + sizeof *head;
        block = head + 1;
    }
    pthread_mutex_unlock(&a->lock);
    if (block == NULL) return NULL;
    memset(block, 0, room);
    if (a->leak) a->leak->alloc(a->detector, block, size, 1, 0);
    return block;
}

void *arena_alloc_permanent(arena *a, size_t size) {
    void *block = arena_alloc(a, size);
    if (a->leak && block) a->leak->not_leak(a->detector, block);
    return block;
}

void *arena_alloc_data(arena *a, size_t size) {
    void *block = arena_alloc(a, size);
    if (a->leak && block) a->leak->no_scan(a->detector, block);
    return block;
}

void arena_free(arena *a, void *block) {
    if (block == NULL) return;
    /* First: once the block can be allocated again, another thread may do so and say it. */
    if (a->leak && a->leak->free(a->detector, block) < 0) return; /* freed twice, or not ours */
    size_t class = ((header *)block - 1)->size / ALIGNMENT;
    if (class >= CLASSES) return; /* large blocks stay until the arena goes */
    pthread_mutex_lock(&a->lock);
    memcpy(block, &a->freed[class], sizeof(void *));
    a->freed[class] = block;
    pthread_mutex_unlock(&a->lock);
}

void **arena_roots(arena *a) { return a->roots; }
