/* stage.h - the shared words of a segment in plain memory. Tests take the steps of csrc/protocol.h on them one at a
 * time, in any order, as any number of writers and readers. */
#ifndef STAGE_H
#define STAGE_H

#include "check.h"
#include "protocol.h"

#define STAGE_SLOTS 5u /* at most; a stage may use fewer */

typedef struct stage {
    uint32_t slots;
    bshm_header header;
    bshm_control control;
    uint64_t pixels[STAGE_SLOTS][2]; /* plain memory, like pixels: first and last word of a frame */
} stage;

static inline stage *new_stage(uint32_t slots)
{
    stage *made = calloc(1, sizeof *made);
    REQUIRE(made != NULL && slots <= STAGE_SLOTS);
    made->slots = slots;
    return made;
}

/* ---------------------------------------------------------------- a writer, up to a given step */

static inline void draw(stage *on, uint32_t slot, uint64_t n)
{
    bshm_frame_info info = {.sequence = n};
    on->pixels[slot][0] = n;
    on->pixels[slot][1] = n;
    bshm_step_store_descriptor(&on->header, slot, &info);
}

/* W2 to W7 */
static inline void write_up_to_complete(stage *on, uint32_t slot, uint64_t n)
{
    REQUIRE(bshm_step_claim_slot(&on->control, slot, on->slots - 2));
    bshm_step_begin_write(&on->header, slot, n);
    draw(on, slot, n);
}

/* W2 to W12 */
static inline void publish(stage *on, uint32_t slot, uint64_t n)
{
    write_up_to_complete(on, slot, n);
    bshm_step_end_write(&on->header, slot, n);
    bshm_step_clear_writing(&on->control, slot);
    bshm_step_store_latest(&on->header, slot, n);
    bshm_step_bump_notify(&on->header);
}

/* ---------------------------------------------------------------- looking */

static inline uint64_t stage_pin(const stage *on, uint32_t slot)
{
    return bshm_load_relaxed(&on->control.pins[slot].word);
}

static inline uint64_t stage_seq(const stage *on, uint32_t slot)
{
    return bshm_load_relaxed(&on->header.descriptors[slot].seq);
}

static inline bool holds_frame(const stage *on, uint32_t slot, uint64_t n)
{
    return on->pixels[slot][0] == n && on->pixels[slot][1] == n;
}

/* Holds after every step, unless pins are forged. `owners`: tokens whose owners have cleared them; a dead owner's bit
 * may still be set. */
static inline void check_stage(const stage *on, uint64_t owners)
{
    uint64_t latest = bshm_load_relaxed(&on->header.publication.latest);
    uint32_t pinned = 0;
    for (uint32_t slot = 0; slot < on->slots; slot++)
        pinned += (stage_pin(on, slot) & BSHM_TOKEN_MASK(on->slots - 2)) != 0;
    CHECK(pinned <= on->slots - 2);
    for (uint32_t token = 0; token < on->slots - 2; token++) {
        uint32_t places = 0;
        for (uint32_t slot = 0; slot < on->slots; slot++)
            places += (stage_pin(on, slot) & owners & UINT64_C(1) << token) != 0;
        CHECK(places <= 1);
    }
    if (latest == 0)
        return;
    CHECK(!(stage_pin(on, BSHM_LATEST_SLOT(latest)) & BSHM_PIN_WRITING));
    CHECK_EQUAL(stage_seq(on, BSHM_LATEST_SLOT(latest)), 2 * BSHM_LATEST_SEQUENCE(latest));
    CHECK(holds_frame(on, BSHM_LATEST_SLOT(latest), BSHM_LATEST_SEQUENCE(latest)));
}

#endif
