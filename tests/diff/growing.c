/* A program that grows, shrinks and leaks by known amounts, one stage for every line that it reads,
   and says of each block what it does with it. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item { struct item *next; char *key; long value[4]; };
struct cache { long count; void **blocks; long unused[8]; };

struct item *table[64];
struct cache *cache;
void *departing[32];
void *forgotten[8];
static char out[1 << 16], in[64];

__attribute__((noinline)) static void *get(const char *tag, size_t size)
{
    void *block = calloc(1, size);
    printf("alloc %s %p %zu\n", tag, block, malloc_usable_size(block));
    return block;
}

static void put(const char *tag, void *block)
{
    printf("free %s %p %zu\n", tag, block, malloc_usable_size(block));
    free(block);
}

static void insert(int number)
{
    struct item *item = get("item", sizeof *item);
    item->key = get("key", 24);
    strcpy(item->key, "key");
    item->next = table[number % 64];
    table[number % 64] = item;
}

static void keep(void)
{
    cache->blocks[cache->count++] = get("block", 1000);
}

__attribute__((noinline)) static void leak(void)
{
    /* The address of the last one stays in no register and on no stack. */
    volatile char *volatile block = get("leak", 136);
    block[0] = 1;
    block = NULL;
}

__attribute__((noinline)) static void clear_stack(void)
{
    volatile char used[4096];
    memset((void *)used, 0, sizeof used);
}

__attribute__((noinline)) static void begin(void)
{
    cache = get("cache", sizeof *cache);
    cache->blocks = get("array", 8000);
    for (int i = 0; i < 200; i++)
        insert(i);
    for (int i = 0; i < 10; i++)
        keep();
    for (int i = 0; i < 32; i++)
        departing[i] = get("departing", 200);
    for (int i = 0; i < 8; i++)
        forgotten[i] = get("forgotten", 328);
    for (int i = 0; i < 3; i++)
        leak();
}

__attribute__((noinline)) static void grow(void)
{
    for (int i = 0; i < 1000; i++)
        insert(i);
    for (int i = 0; i < 40; i++)
        keep();
    for (int i = 0; i < 20; i++) {
        put("departing", departing[i]);
        departing[i] = NULL;
    }
    for (int i = 0; i < 5; i++) {
        printf("lose forgotten %p %zu\n", forgotten[i], malloc_usable_size(forgotten[i]));
        forgotten[i] = NULL;
    }
    for (int i = 0; i < 7; i++)
        leak();
}

int main(void)
{
    setvbuf(stdout, out, _IOFBF, sizeof out);
    setvbuf(stdin, in, _IOFBF, sizeof in);
    puts("begin");
    begin();
    for (;;) {
        clear_stack();
        puts("ready");
        fflush(stdout);
        if (getchar() == EOF)
            return 0;
        grow();
    }
}
