/* msvc.h - the builtins of GCC and Clang that Microsoft's compiler does not have, on x64 and ARM64.
 *
 * Same names, same meaning, so that ordering.h is the same for every compiler. Plain loads and stores of aligned
 * words are single accesses on both processors. On x64 they are acquire and release too, so only the compiler has to be
 * kept from reordering; on ARM64 a barrier is needed. The Interlocked functions are full barriers, which is always
 * enough.
 * BSHM_INTERLOCKED selects this file with other compilers, for tests.
 */
#ifndef BSHM_MSVC_H
#define BSHM_MSVC_H

#include <intrin.h>
#if defined(__aarch64__) && !defined(_MSC_VER)
#include <arm_acle.h>
#endif
#include <stdbool.h>
#include <stdint.h>

#if defined(_M_ARM64) || defined(__aarch64__)
#define bshm_barrier_()      __dmb(11) /* ISH */
#define bshm_barrier_full_() __dmb(11)
#else
#define bshm_barrier_()      _ReadWriteBarrier()
#define bshm_barrier_full_() _mm_mfence()
#endif

#ifdef _MSC_VER
#define bshm_plain_load_(bits, word) (uint##bits##_t) __iso_volatile_load##bits((const volatile __int##bits *)(word))
#define bshm_plain_store_(bits, word, value)                                                                           \
    __iso_volatile_store##bits((volatile __int##bits *)(word), (__int##bits)(value))
#else
#define bshm_plain_load_(bits, word)         (*(const volatile uint##bits##_t *)(word))
#define bshm_plain_store_(bits, word, value) (*(volatile uint##bits##_t *)(word) = (value))
#endif

#undef __ATOMIC_RELAXED
#undef __ATOMIC_ACQUIRE
#undef __ATOMIC_RELEASE
#undef __ATOMIC_ACQ_REL
#undef __ATOMIC_SEQ_CST
#define __ATOMIC_RELAXED 0
#define __ATOMIC_ACQUIRE 2
#define __ATOMIC_RELEASE 3
#define __ATOMIC_ACQ_REL 4
#define __ATOMIC_SEQ_CST 5

#undef __GCC_ATOMIC_INT_LOCK_FREE
#undef __GCC_ATOMIC_LLONG_LOCK_FREE
#define __GCC_ATOMIC_INT_LOCK_FREE   2
#define __GCC_ATOMIC_LLONG_LOCK_FREE 2

/* The functions of one width. `suffix` is that of the Interlocked functions, `type` their argument. */
#define BSHM_WIDTH_(bits, suffix, type)                                                                                \
    static inline uint##bits##_t bshm_load##bits##_(const volatile void *word, int order)                              \
    {                                                                                                                  \
        uint##bits##_t value = bshm_plain_load_(bits, word);                                                           \
        if (order != __ATOMIC_RELAXED)                                                                                 \
            bshm_barrier_();                                                                                           \
        return value;                                                                                                  \
    }                                                                                                                  \
    static inline void bshm_store##bits##_(volatile void *word, uint##bits##_t value, int order)                       \
    {                                                                                                                  \
        if (order != __ATOMIC_RELAXED)                                                                                 \
            bshm_barrier_();                                                                                           \
        bshm_plain_store_(bits, word, value);                                                                          \
    }                                                                                                                  \
    static inline uint##bits##_t bshm_or##bits##_(volatile void *word, uint##bits##_t value)                           \
    {                                                                                                                  \
        return (uint##bits##_t)_InterlockedOr##suffix((volatile type *)word, (type)value);                             \
    }                                                                                                                  \
    static inline uint##bits##_t bshm_and##bits##_(volatile void *word, uint##bits##_t value)                          \
    {                                                                                                                  \
        return (uint##bits##_t)_InterlockedAnd##suffix((volatile type *)word, (type)value);                            \
    }                                                                                                                  \
    static inline uint##bits##_t bshm_exchange##bits##_(volatile void *word, uint##bits##_t value)                     \
    {                                                                                                                  \
        return (uint##bits##_t)_InterlockedExchange##suffix((volatile type *)word, (type)value);                       \
    }                                                                                                                  \
    static inline bool bshm_swap##bits##_(volatile void *word, const void *expected, uint##bits##_t desired)           \
    {                                                                                                                  \
        type old = *(const type *)expected;                                                                            \
        return _InterlockedCompareExchange##suffix((volatile type *)word, (type)desired, old) == old;                  \
    }

BSHM_WIDTH_(64, 64, __int64)
BSHM_WIDTH_(32, , long)

/* For single bytes: only what bshm_touch needs. */
static inline uint8_t bshm_load8_(const volatile void *byte, int order)
{
    (void)order; /* relaxed */
    return *(const volatile uint8_t *)byte;
}

static inline uint8_t bshm_or8_(volatile void *byte, uint8_t value)
{
    unsigned shift = 8 * ((uintptr_t)byte & 3);
    volatile long *word = (volatile long *)((uintptr_t)byte & ~(uintptr_t)3); /* little-endian, as all of Windows */
    return (uint8_t)((unsigned long)_InterlockedOr(word, (long)((unsigned long)value << shift)) >> shift);
}

static inline uint32_t bshm_add32_(volatile void *word, uint32_t more)
{
    return (uint32_t)_InterlockedExchangeAdd((volatile long *)word, (long)more);
}

/* clang-format off */
#define bshm_wide_(what)                                                                                               \
    uint64_t *: bshm_##what##64_, const uint64_t *: bshm_##what##64_,                                                  \
    uint32_t *: bshm_##what##32_, const uint32_t *: bshm_##what##32_
/* clang-format on */
#define bshm_of_width_(what, word)              _Generic((word), bshm_wide_(what))
#define bshm_of_any_(what, word)                _Generic((word), bshm_wide_(what), uint8_t *: bshm_##what##8_)

#define __atomic_load_n(word, order)            bshm_of_any_(load, word)(word, order)
#define __atomic_store_n(word, value, order)    bshm_of_width_(store, word)(word, value, order)
#define __atomic_exchange_n(word, value, order) bshm_of_width_(exchange, word)(word, value)
#define __atomic_fetch_or(word, value, order)   bshm_of_any_(or, word)(word, value)
#define __atomic_fetch_and(word, value, order)  bshm_of_width_(and, word)(word, value)
#define __atomic_fetch_add(word, value, order)  bshm_add32_(word, value)
#define __atomic_fetch_sub(word, value, order)  bshm_add32_(word, 0u - (value))
#define __atomic_compare_exchange_n(word, expected, desired, weak, success, failure)                                   \
    bshm_of_width_(swap, word)(word, expected, desired)

static inline void bshm_thread_fence_(int order)
{
    if (order == __ATOMIC_SEQ_CST)
        bshm_barrier_full_();
    else
        bshm_barrier_();
}
#define __atomic_thread_fence(order) bshm_thread_fence_(order)

#ifdef _MSC_VER
static inline int __builtin_clzll(unsigned long long value) /* undefined for 0, as GCC's */
{
    unsigned long highest;
    (void)_BitScanReverse64(&highest, value);
    return 63 - (int)highest;
}
#endif

#endif
