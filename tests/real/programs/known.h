/* What every program here needs: blocks that announce themselves, and nothing left behind. */
#ifndef KNOWN_H
#define KNOWN_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
/* A pointer that must not count as one is kept xored with this. */
#define MASK 0xa5a5a5a5a5a5a5a5ULL

/* Overwrite the stack below the caller and the registers that a call may leave dirty. */
static NOINLINE void scrub(void)
{
    /* By hand: a local array would leave the padding around it as it was. */
    __asm__ volatile(
        "lea -49152(%%rsp), %%rdi; mov $6144, %%ecx; xor %%eax, %%eax; rep stosq\n"
        "xor %%ecx, %%ecx; xor %%edx, %%edx; xor %%esi, %%esi; xor %%edi, %%edi\n"
        "xor %%r8d, %%r8d; xor %%r9d, %%r9d; xor %%r10d, %%r10d; xor %%r11d, %%r11d\n"
        "pxor %%xmm0, %%xmm0; pxor %%xmm1, %%xmm1; pxor %%xmm2, %%xmm2; pxor %%xmm3, %%xmm3\n"
        "pxor %%xmm4, %%xmm4; pxor %%xmm5, %%xmm5; pxor %%xmm6, %%xmm6; pxor %%xmm7, %%xmm7\n"
        "pxor %%xmm8, %%xmm8; pxor %%xmm9, %%xmm9; pxor %%xmm10, %%xmm10; pxor %%xmm11, %%xmm11\n"
        "pxor %%xmm12, %%xmm12; pxor %%xmm13, %%xmm13; pxor %%xmm14, %%xmm14; pxor %%xmm15, %%xmm15\n" ::
            : "memory", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3",
              "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
              "xmm14", "xmm15");
}

/* Print "VERDICT NAME ADDRESS SIZE" without stdio's own blocks. */
static NOINLINE void say(const char *verdict, const char *name, void *block, size_t size)
{
    char line[200];
    int length = snprintf(line, sizeof line, "%s %s %lx %zu\n", verdict, name,
                          (unsigned long)block, size);
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

/* Fill a block with words that are no addresses: all of it, for what malloc gave beyond the size
 * that was asked for may hold the links of a free chunk. */
static NOINLINE void *fill(void *block, size_t size)
{
    if (block == NULL)
        _exit(4);
    size_t usable = malloc_usable_size(block);
    return memset(block, 0x5a, usable > size ? usable : size);
}

/* Allocate a block and announce it. */
static NOINLINE void *known(const char *verdict, const char *name, size_t size)
{
    void *block = fill(malloc(size), size);
    say(verdict, name, block, size);
    return block;
}

/* Allocate a block, announce that it is lost, and lose it. */
static NOINLINE void lose(const char *name, size_t size)
{
    known("lost", name, size);
}

/* Say so, and wait to be dumped. */
static NOINLINE void ready(void)
{
    scrub();
    if (write(1, "ready\n", 6) != 6)
        _exit(3);
    scrub();
    for (;;)
        pause();
}
#endif
