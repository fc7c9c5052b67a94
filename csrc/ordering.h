/* ordering.h - every memory ordering of the project, and why.
 *
 * The words that processes share are structs (bshm_shared64, bshm_shared32), so a plain access does not compile. Use
 * them through these functions only; each name says its ordering. Why a *step* needs that ordering is explained
 * at the step, in protocol.h; why the operation cannot be cheaper is explained here.
 *
 * The __atomic builtins of GCC and Clang take plain integers, so neither casts nor _Atomic members are needed, and
 * C++ can include the public header.
 */
#ifndef BSHM_ORDERING_H
#define BSHM_ORDERING_H

#include "billiards_shm.h"

#if defined(BSHM_INTERLOCKED) || (defined(_MSC_VER) && !defined(__clang__))
#include "platform/msvc.h"
#endif
#include <stdbool.h>

_Static_assert(__GCC_ATOMIC_LLONG_LOCK_FREE == 2, "a lock inside a 64-bit atomic would not be shared");
_Static_assert(__GCC_ATOMIC_INT_LOCK_FREE == 2, "a lock inside a 32-bit atomic would not be shared");
_Static_assert(sizeof(bshm_shared64) == 8 && _Alignof(bshm_shared64) == 8, "one 64-bit word");
_Static_assert(sizeof(bshm_shared32) == 4 && _Alignof(bshm_shared32) == 4, "one 32-bit word");

/* Relaxed: the word is never torn, nothing more. For statistics, and where a fence or a later operation orders. */
static inline uint64_t bshm_load_relaxed(const bshm_shared64 *word)
{
    return __atomic_load_n(&word->shared, __ATOMIC_RELAXED);
}

static inline void bshm_store_relaxed(bshm_shared64 *word, uint64_t value)
{
    __atomic_store_n(&word->shared, value, __ATOMIC_RELAXED);
}

static inline uint32_t bshm_load_relaxed32(const bshm_shared32 *word)
{
    return __atomic_load_n(&word->shared, __ATOMIC_RELAXED);
}

/* A counter with one writer needs no read-modify-write: no other increment can be lost. */
static inline void bshm_add_relaxed(bshm_shared64 *word, uint64_t more)
{
    bshm_store_relaxed(word, bshm_load_relaxed(word) + more);
}

/* Acquire: after this load, everything that the releasing side did before its store is visible. */
static inline uint64_t bshm_load_acquire(const bshm_shared64 *word)
{
    return __atomic_load_n(&word->shared, __ATOMIC_ACQUIRE);
}

static inline uint32_t bshm_load_acquire32(const bshm_shared32 *word)
{
    return __atomic_load_n(&word->shared, __ATOMIC_ACQUIRE);
}

/* Release: everything done before is visible to a thread that acquires this value. */
static inline void bshm_store_release(bshm_shared64 *word, uint64_t value)
{
    __atomic_store_n(&word->shared, value, __ATOMIC_RELEASE);
}

static inline void bshm_store_release32(bshm_shared32 *word, uint32_t value)
{
    __atomic_store_n(&word->shared, value, __ATOMIC_RELEASE);
}

/* Claims a pin word. Acquire on success: the pixels are written only after every reader's release of its pin (R6) is
 * seen. Relaxed on failure: nothing depends on it. Strong: a spurious failure would skip a free slot, and the proof
 * that one pass finds a slot needs every free slot to be found. */
static inline bool bshm_claim_acquire(bshm_shared64 *word, uint64_t expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(&word->shared, &expected, desired, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* Claims a pin word whatever it contains: only for a slot whose pins are forged. */
static inline void bshm_seize_acquire(bshm_shared64 *word, uint64_t desired)
{
    (void)__atomic_exchange_n(&word->shared, desired, __ATOMIC_ACQUIRE);
}

/* Sets bits and returns what the word holds then. A fetch_or whose old value is used compiles to a compare-and-swap
 * loop on x86; otherwise it is one `lock or`, which is wait-free. The separate load may see a later value than the
 * fetch_or found: it can miss WRITING only if the writer has cleared it in between, and then it acquires that clear.
 * Acquire: the pixels are read only after the pin is set and the writer's release of the slot (W9) is seen. Release:
 * what this reader saw happens before the claim that fails on this bit. Acquire alone would be enough for the
 * protocol, but the models were checked with both, and on x86 and ARMv8 it costs nothing. */
static inline uint64_t bshm_pin_acquire_release(bshm_shared64 *word, uint64_t bits)
{
    (void)__atomic_fetch_or(&word->shared, bits, __ATOMIC_ACQ_REL);
    return __atomic_load_n(&word->shared, __ATOMIC_ACQUIRE);
}

/* Clears a pin or WRITING. Release: no access to the pixels may sink below it. */
static inline void bshm_clear_release(bshm_shared64 *word, uint64_t bits)
{
    (void)__atomic_fetch_and(&word->shared, ~bits, __ATOMIC_RELEASE);
}

/* Sequentially consistent: the only fence that keeps an earlier store before a later *load* (x86: `mfence` or a
 * locked instruction). On x86 it also orders non-temporal stores, which a release fence does not. */
static inline void bshm_fence_seq_cst(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Keeps the relaxed loads before it ahead of the loads after it: the second half of a seqlock read. */
static inline void bshm_fence_acquire(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

/* Makes a page present without changing it, even while another thread or process writes there. */
static inline void bshm_touch(uint8_t *byte, bool write)
{
    if (write)
        (void)__atomic_fetch_or(byte, 0, __ATOMIC_RELAXED);
    else
        (void)__atomic_load_n(byte, __ATOMIC_RELAXED);
}

/* A shared word for the platform layer, which compares it with the value that a waiter waits for. */
static inline uint32_t bshm_word_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Reference counts inside one process. Taking a reference needs no order: the caller holds one already. The thread
 * that drops the last one must see everything that others did before they dropped theirs. */
static inline void bshm_reference_take(uint32_t *references)
{
    (void)__atomic_fetch_add(references, 1, __ATOMIC_RELAXED);
}

static inline bool bshm_reference_drop(uint32_t *references)
{
    return __atomic_fetch_sub(references, 1, __ATOMIC_ACQ_REL) == 1;
}

#endif
