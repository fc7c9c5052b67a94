/* protocol.h - the steps of the protocol, one function each.
 *
 * writer.c and frame.c put them together. The unit tests call them one at a time, to build the interleavings that
 * matter. Step numbers are those of billiards_shm.h. When a step changes here, the models in tests/core/model change
 * with it.
 */
#ifndef BSHM_PROTOCOL_H
#define BSHM_PROTOCOL_H

#include "ordering.h"

#include <string.h>

/* ---------------------------------------------------------------- writer */

/* W2, W3. The relaxed load saves a locked instruction on slots that are pinned. A WRITING bit without tokens was left
 * by a dead writer: this writer holds the lock, so it may take the slot. */
static inline bool bshm_step_claim_slot(bshm_control *control, uint32_t slot, uint32_t token_count)
{
    bshm_shared64 *pin = &control->pins[slot].word;
    uint64_t word = bshm_load_relaxed(pin);
    if (word & BSHM_TOKEN_MASK(token_count))
        return false;
    return bshm_claim_acquire(pin, word, BSHM_PIN_WRITING);
}

/* W4, W5. Pairs with the acquire fence of an unpinned copy: a copy that has read one new pixel must find seq changed
 * when it loads it again. Without this fence a pixel could become visible before the odd seq. */
static inline void bshm_step_begin_write(bshm_header *header, uint32_t slot, uint64_t sequence)
{
    bshm_store_relaxed(&header->descriptors[slot].seq, 2 * sequence - 1);
    bshm_fence_seq_cst();
}

/* W6, the descriptor. Relaxed: unpinned copies check seq afterwards, and lease readers acquire W8 first. */
static inline void bshm_step_store_descriptor(bshm_header *header, uint32_t slot, const bshm_frame_info *info)
{
    uint64_t words[BSHM_INFO_WORDS];
    memcpy(words, info, sizeof words);
    for (uint32_t i = 0; i < BSHM_INFO_WORDS; i++)
        bshm_store_relaxed(&header->descriptors[slot].info[i], words[i]);
}

/* W7, W8. Release: a reader that acquires the even seq (R4) sees descriptor and pixels. The full fence is for pixels
 * written with non-temporal stores, by bshm_copy_rows or by a library in a loaned slot: a release store does not
 * order those. */
static inline void bshm_step_end_write(bshm_header *header, uint32_t slot, uint64_t sequence)
{
    bshm_fence_seq_cst();
    bshm_store_release(&header->descriptors[slot].seq, 2 * sequence);
}

/* W9. Release: pairs with the acquire of R2. It comes before W10, so that a reader that has n from `latest` does not
 * find WRITING on its slot. */
static inline void bshm_step_clear_writing(bshm_control *control, uint32_t slot)
{
    bshm_clear_release(&control->pins[slot].word, BSHM_PIN_WRITING);
}

/* W10. Release: pairs with R1. */
static inline void bshm_step_store_latest(bshm_header *header, uint32_t slot, uint64_t sequence)
{
    bshm_store_release(&header->publication.latest, BSHM_LATEST(sequence, slot));
}

/* W11, W12 without the system call. The fence pairs with that of R0: either the reader that owns the token loads the
 * new `latest` in R1, or this writer's next claim sees where the token is. Without both fences each may miss the
 * other's store, and the writer finds no free slot; this happens on x86 too. Release on notify: a waiter that
 * acquires it sees the new `latest`. */
static inline void bshm_step_bump_notify(bshm_header *header)
{
    bshm_fence_seq_cst();
    bshm_store_release32(&header->publication.notify, bshm_load_relaxed32(&header->publication.notify) + 1);
}

/* The state is stored before the bump of notify that wakes for it: otherwise a waiter could go on sleeping without
 * seeing it. */
static inline void bshm_step_set_state(bshm_header *header, uint32_t state)
{
    bshm_store_release32(&header->publication.state, state);
    bshm_step_bump_notify(header);
}

/* ---------------------------------------------------------------- reader with a lease */

/* R0, once for each new token. Release although no store precedes it: the clear must not overtake reads that an
 * earlier owner made through a pin of this token. A relaxed clear is a data race. */
static inline void bshm_step_clear_token(bshm_control *control, uint32_t token, uint32_t slot_count)
{
    for (uint32_t slot = 0; slot < slot_count; slot++)
        bshm_clear_release(&control->pins[slot].word, UINT64_C(1) << token);
}

/* R0, every time. Pairs with W11: `latest` (R1) must be loaded after the token has left its earlier slot. */
static inline void bshm_step_fence_token(void)
{
    bshm_fence_seq_cst();
}

/* R1. Acquire: pairs with W10. */
static inline uint64_t bshm_step_load_latest(const bshm_header *header)
{
    return bshm_load_acquire(&header->publication.latest);
}

/* The slot of an earlier frame of the window, or `slot_count`; after the load of `latest`. Relaxed: seq is loaded again
 * after the pin. A number never changes its slot: a frame that is found is in the window that belongs to that `latest`,
 * and one that is not found does not come back. */
static inline uint32_t bshm_step_find_frame(const bshm_header *header, uint64_t sequence, uint32_t slot_count)
{
    uint32_t slot = 0;
    while (slot < slot_count && bshm_load_relaxed(&header->descriptors[slot].seq) != 2 * sequence)
        slot++;
    return slot;
}

/* R2, R3. True: pinned. False: the writer is in the slot, and the pin is withdrawn. In between the slot looks
 * pinned, which does not matter to the writer: it has already claimed it. */
static inline bool bshm_step_pin(bshm_control *control, uint32_t slot, uint32_t token)
{
    bshm_shared64 *pin = &control->pins[slot].word;
    if (bshm_pin_acquire_release(pin, UINT64_C(1) << token) & BSHM_PIN_WRITING) {
        bshm_clear_release(pin, UINT64_C(1) << token);
        return false;
    }
    return true;
}

/* R4, and the start of an unpinned copy. Acquire: pairs with W8. False: a newer frame is being written in the slot,
 * or one was cancelled there. The descriptor's words are relaxed: a pin, or the second load of seq, protects them. */
static inline bool bshm_step_load_descriptor(const bshm_header *header, uint32_t slot, uint64_t sequence, uint64_t *seq,
                                             bshm_frame_info *info)
{
    const bshm_descriptor *descriptor = &header->descriptors[slot];
    *seq = bshm_load_acquire(&descriptor->seq);
    if ((*seq & 1) || *seq < 2 * sequence)
        return false;
    uint64_t words[BSHM_INFO_WORDS];
    for (uint32_t i = 0; i < BSHM_INFO_WORDS; i++)
        words[i] = bshm_load_relaxed(&descriptor->info[i]);
    memcpy(info, words, sizeof words);
    return true;
}

/* R5, and the end of an unpinned copy. The fence keeps the pixel loads before the second load of seq. */
static inline bool bshm_step_seq_unchanged(const bshm_header *header, uint32_t slot, uint64_t seq)
{
    bshm_fence_acquire();
    return bshm_load_relaxed(&header->descriptors[slot].seq) == seq;
}

/* R6. Release: the last read of the pixels stays before it; pairs with W3. */
static inline void bshm_step_unpin(bshm_control *control, uint32_t slot, uint32_t token)
{
    bshm_clear_release(&control->pins[slot].word, UINT64_C(1) << token);
}

#endif
