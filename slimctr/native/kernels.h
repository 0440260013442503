/* Shared by the kernels: visibility and function multiversioning. */
#ifndef SLIMCTR_KERNELS_H
#define SLIMCTR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define SLIMCTR_API __attribute__((visibility("default")))

/* Vectorised clones chosen once, at load time, by the CPU; tests compile for one instruction set alone. */
#if !defined(SLIMCTR_ONE_INSTRUCTION_SET) && defined(__x86_64__) && defined(__gnu_linux__) && (defined(__GNUC__) && !defined(__clang__))
#define SLIMCTR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SLIMCTR_CLONES
#endif

#endif
