/* For programs that are dumped, or looked at by Memcheck, as they end: nothing in the registers. */
#ifndef LEAVE_H
#define LEAVE_H
#include "known.h"

/* End at once, as `_exit` does, with the registers clean, and far below what calls that returned
 * have left on the stack. */
static NOINLINE void leave(void)
{
    __asm__ volatile(
        "sub $32768, %%rsp; mov %%rsp, %%rdi; mov $4096, %%ecx; xor %%eax, %%eax; rep stosq\n"
        "xor %%ebx, %%ebx; xor %%ecx, %%ecx; xor %%edx, %%edx; xor %%esi, %%esi\n"
        "xor %%r8d, %%r8d; xor %%r9d, %%r9d; xor %%r10d, %%r10d; xor %%r11d, %%r11d\n"
        "xor %%r12d, %%r12d; xor %%r13d, %%r13d; xor %%r14d, %%r14d; xor %%r15d, %%r15d\n"
        "pxor %%xmm0, %%xmm0; pxor %%xmm1, %%xmm1; pxor %%xmm2, %%xmm2; pxor %%xmm3, %%xmm3\n"
        "pxor %%xmm4, %%xmm4; pxor %%xmm5, %%xmm5; pxor %%xmm6, %%xmm6; pxor %%xmm7, %%xmm7\n"
        "xor %%edi, %%edi; mov $231, %%eax; syscall\n" ::
            : "memory", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
              "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
    __builtin_unreachable();
}
#endif
