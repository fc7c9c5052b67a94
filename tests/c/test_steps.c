/* The interleavings that the steps of the protocol exist for, one at a time, in plain memory. */
#include "stage.h"

#define TOKEN_0 0u
#define TOKEN_1 1u
#define BIT(t)  (UINT64_C(1) << (t))

/* ---------------------------------------------------------------- R2, R3 against W2, W3 */

static void a_reader_that_finds_writing_withdraws_its_pin(void)
{
    stage *on = new_stage(3);
    publish(on, 0, 1);
    write_up_to_complete(on, 1, 2);
    CHECK(!bshm_step_pin(&on->control, 1, TOKEN_0));
    CHECK_EQUAL(stage_pin(on, 1), BSHM_PIN_WRITING); /* as if the reader had not been there */
    check_stage(on, BIT(0));
    free(on);
}

static void a_reader_that_meets_writing_costs_the_writer_nothing(void)
{
    stage *on = new_stage(3);
    write_up_to_complete(on, 0, 1);
    CHECK(bshm_pin_acquire_release(&on->control.pins[0].word, BIT(TOKEN_0)) &
          BSHM_PIN_WRITING); /* R2, without R3 yet */
    bshm_step_end_write(&on->header, 0, 1);
    bshm_step_clear_writing(&on->control, 0);
    CHECK_EQUAL(stage_pin(on, 0), BIT(TOKEN_0));
    bshm_step_store_latest(&on->header, 0, 1);
    bshm_step_bump_notify(&on->header);
    check_stage(on, BIT(0));
    bshm_clear_release(&on->control.pins[0].word, BIT(TOKEN_0)); /* R3 */
    CHECK_EQUAL(stage_pin(on, 0), 0);
    free(on);
}

static void a_pin_before_the_claim_makes_the_claim_fail(void)
{
    stage *on = new_stage(3);
    publish(on, 0, 1);
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    publish(on, 1, 2);
    check_stage(on, BIT(0));
    CHECK(!bshm_step_claim_slot(&on->control, 0, on->slots - 2));
    CHECK_EQUAL(stage_pin(on, 0), BIT(TOKEN_0));
    CHECK(holds_frame(on, 0, 1));
    bshm_step_unpin(&on->control, 0, TOKEN_0);
    CHECK(bshm_step_claim_slot(&on->control, 0, on->slots - 2));
    CHECK_EQUAL(stage_pin(on, 0), BSHM_PIN_WRITING);
    free(on);
}

static void a_pin_between_the_look_and_the_claim_makes_the_claim_fail(void)
{
    stage *on = new_stage(3);
    uint64_t word = bshm_load_relaxed(&on->control.pins[0].word); /* W2 */
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    CHECK(!bshm_claim_acquire(&on->control.pins[0].word, word, BSHM_PIN_WRITING)); /* W3 */
    CHECK_EQUAL(stage_pin(on, 0), BIT(TOKEN_0));
    free(on);
}

static void a_pin_and_its_release_between_the_look_and_the_claim_let_the_claim_succeed(void)
{
    stage *on = new_stage(3);
    uint64_t word = bshm_load_relaxed(&on->control.pins[0].word);
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    bshm_step_unpin(&on->control, 0, TOKEN_0);
    CHECK(bshm_claim_acquire(&on->control.pins[0].word, word,
                             BSHM_PIN_WRITING)); /* no token is set, which is what counts */
    free(on);
}

static void every_token_keeps_the_writer_away_and_no_other_bit_does(void)
{
    for (uint32_t slots = 3; slots <= STAGE_SLOTS; slots++)
        for (uint32_t bit = 0; bit < 64; bit++) {
            stage *on = new_stage(slots);
            bshm_store_relaxed(&on->control.pins[0].word, BIT(bit));
            CHECK_EQUAL(bshm_step_claim_slot(&on->control, 0, slots - 2), bit >= slots - 2);
            if (bit >= slots - 2)
                CHECK_EQUAL(stage_pin(on, 0), BSHM_PIN_WRITING);
            free(on);
        }
    CHECK_EQUAL(BSHM_TOKEN_MASK(BSHM_MAX_SLOTS - 2), (UINT64_C(1) << 60) - 1);
    CHECK_EQUAL(BSHM_TOKEN_MASK(BSHM_MIN_SLOTS - 2), 1);
}

static void a_slot_that_a_dead_writer_was_writing_can_be_claimed(void)
{
    stage *on = new_stage(3);
    publish(on, 0, 1);
    write_up_to_complete(on, 1, 2); /* and then SIGKILL */
    CHECK(bshm_step_claim_slot(&on->control, 1, on->slots - 2));
    CHECK_EQUAL(stage_pin(on, 1), BSHM_PIN_WRITING);
    CHECK(stage_seq(on, 1) & 1);
    free(on);
}

/* ---------------------------------------------------------------- R4 */

static void a_cancelled_loan_is_refused_although_it_can_be_pinned(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    uint64_t latest = bshm_step_load_latest(&on->header); /* R1; then the reader is slow */
    publish(on, 1, 2);
    write_up_to_complete(on, 0, 3);
    bshm_step_clear_writing(&on->control, 0); /* cancelled */
    check_stage(on, BIT(0));
    CHECK(bshm_step_pin(&on->control, BSHM_LATEST_SLOT(latest), TOKEN_0)); /* the pin word does not show it */
    CHECK(!bshm_step_load_descriptor(&on->header, BSHM_LATEST_SLOT(latest), BSHM_LATEST_SEQUENCE(latest), &seq, &info));
    free(on);
}

static void a_stale_look_at_a_slot_rewritten_since_returns_the_newer_frame(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    uint64_t latest = bshm_step_load_latest(&on->header);
    publish(on, 1, 2);
    publish(on, 0, 3);
    CHECK(bshm_step_pin(&on->control, BSHM_LATEST_SLOT(latest), TOKEN_0));
    CHECK(bshm_step_load_descriptor(&on->header, BSHM_LATEST_SLOT(latest), BSHM_LATEST_SEQUENCE(latest), &seq, &info));
    CHECK_EQUAL(seq, 6);
    CHECK_EQUAL(info.sequence, 3);
    CHECK(holds_frame(on, 0, 3));
    check_stage(on, BIT(0));
    free(on);
}

static void a_stale_look_at_a_slot_completed_but_not_shown_yet_returns_that_frame(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    uint64_t latest = bshm_step_load_latest(&on->header);
    publish(on, 1, 2);
    write_up_to_complete(on, 0, 3);
    bshm_step_end_write(&on->header, 0, 3);
    bshm_step_clear_writing(&on->control,
                            0); /* W9 without W10: a writer killed here has shown frame 3 to this reader */
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    CHECK(bshm_step_load_descriptor(&on->header, 0, BSHM_LATEST_SEQUENCE(latest), &seq, &info));
    CHECK_EQUAL(info.sequence, 3);
    CHECK(BSHM_LATEST_SEQUENCE(bshm_step_load_latest(&on->header)) < 3);
    free(on);
}

static void a_frame_older_than_the_requested_one_is_refused(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    CHECK(!bshm_step_load_descriptor(&on->header, 0, 2, &seq, &info));
    CHECK(bshm_step_load_descriptor(&on->header, 0, 1, &seq, &info));
    free(on);
}

static void between_w8_and_w9_the_frame_is_complete_but_cannot_be_pinned(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    write_up_to_complete(on, 0, 1);
    bshm_step_end_write(&on->header, 0, 1);
    CHECK(!bshm_step_pin(&on->control, 0, TOKEN_0));
    CHECK(bshm_step_load_descriptor(&on->header, 0, 1, &seq, &info)); /* a copy may be made */
    CHECK(bshm_step_seq_unchanged(&on->header, 0, seq));
    free(on);
}

/* ---------------------------------------------------------------- copies and R5 */

static void a_copy_is_torn_from_the_moment_its_slot_is_begun_again(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    CHECK(bshm_step_load_descriptor(&on->header, 0, 1, &seq, &info));
    publish(on, 1, 2);
    CHECK(bshm_step_seq_unchanged(&on->header, 0, seq));
    REQUIRE(bshm_step_claim_slot(&on->control, 0, on->slots - 2));
    CHECK(bshm_step_seq_unchanged(&on->header, 0, seq)); /* claimed, and not touched yet */
    bshm_step_begin_write(&on->header, 0, 3);
    CHECK(!bshm_step_seq_unchanged(&on->header, 0, seq));
    draw(on, 0, 3);
    CHECK(!bshm_step_seq_unchanged(&on->header, 0, seq));
    bshm_step_end_write(&on->header, 0, 3);
    CHECK(!bshm_step_seq_unchanged(&on->header, 0, seq));
    bshm_step_clear_writing(&on->control, 0);
    CHECK(!bshm_step_seq_unchanged(&on->header, 0, seq));
    free(on);
}

static void a_copy_is_torn_by_a_loan_that_was_cancelled_again(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    CHECK(bshm_step_load_descriptor(&on->header, 0, 1, &seq, &info));
    publish(on, 1, 2);
    write_up_to_complete(on, 0, 3);
    bshm_step_clear_writing(&on->control, 0);
    CHECK(!bshm_step_seq_unchanged(&on->header, 0, seq));
    CHECK(!bshm_step_load_descriptor(&on->header, 0, 1, &seq, &info));
    free(on);
}

static void a_view_whose_pin_was_overridden_is_not_intact(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 0, 1);
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    CHECK(bshm_step_load_descriptor(&on->header, 0, 1, &seq, &info));
    CHECK(bshm_step_seq_unchanged(&on->header, 0, seq));
    publish(on, 1, 2);
    bshm_seize_acquire(&on->control.pins[0].word, BSHM_PIN_WRITING); /* the writer's last step */
    bshm_step_begin_write(&on->header, 0, 3);
    CHECK(!bshm_step_seq_unchanged(&on->header, 0, seq));
    bshm_step_unpin(&on->control, 0, TOKEN_0); /* the holder releases a pin that it lost: no harm is done */
    CHECK_EQUAL(stage_pin(on, 0), BSHM_PIN_WRITING);
    free(on);
}

/* ---------------------------------------------------------------- tokens */

static void a_dead_owners_bit_keeps_its_slot_until_the_next_owner_clears_it(void)
{
    stage *on = new_stage(3);
    publish(on, 0, 1);
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0)); /* and then SIGKILL: the kernel drops the lock, the bit stays */
    publish(on, 1, 2);
    CHECK(!bshm_step_claim_slot(&on->control, 0, on->slots - 2));
    publish(on, 2, 3); /* the writer works on */
    check_stage(on, 0);
    bshm_step_clear_token(&on->control, TOKEN_0, on->slots);
    check_stage(on, BIT(0));
    CHECK_EQUAL(stage_pin(on, 0), 0);
    CHECK(bshm_step_pin(&on->control, 2, TOKEN_0));
    check_stage(on, BIT(0));
    CHECK(bshm_step_claim_slot(&on->control, 0, on->slots - 2));
    free(on);
}

static void without_the_clearing_a_token_would_hold_two_slots_and_the_writer_find_none(void)
{
    stage *on = new_stage(3);
    publish(on, 0, 1);
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    publish(on, 1, 2);
    CHECK(bshm_step_pin(&on->control, 1, TOKEN_0)); /* the next owner, if it had not cleared */
    publish(on, 2, 3);
    CHECK(!bshm_step_claim_slot(&on->control, 0, on->slots - 2));
    CHECK(!bshm_step_claim_slot(&on->control, 1, on->slots - 2)); /* and 2 is the newest: this is why R0 clears first */
    free(on);
}

static void clearing_a_token_clears_it_in_every_slot_and_nothing_else(void)
{
    stage *on = new_stage(5);
    for (uint32_t slot = 0; slot < on->slots; slot++)
        bshm_store_relaxed(&on->control.pins[slot].word, BSHM_PIN_WRITING | BIT(0) | BIT(1) | BIT(2) | BIT(40));
    bshm_step_clear_token(&on->control, TOKEN_1, on->slots);
    for (uint32_t slot = 0; slot < on->slots; slot++)
        CHECK_EQUAL(stage_pin(on, slot), BSHM_PIN_WRITING | BIT(0) | BIT(2) | BIT(40));
    free(on);
}

static void releasing_leaves_the_pins_and_unpinning_leaves_writing_and_other_pins(void)
{
    stage *on = new_stage(4);
    bshm_store_relaxed(&on->control.pins[0].word, BSHM_PIN_WRITING | BIT(0) | BIT(1));
    bshm_step_unpin(&on->control, 0, TOKEN_0);
    CHECK_EQUAL(stage_pin(on, 0), BSHM_PIN_WRITING | BIT(1));
    bshm_step_clear_writing(&on->control, 0);
    CHECK_EQUAL(stage_pin(on, 0), BIT(1));
    free(on);
}

static void with_every_token_in_use_one_pass_still_finds_a_slot(void)
{
    for (uint32_t slots = 3; slots <= STAGE_SLOTS; slots++) {
        stage *on = new_stage(slots);
        uint64_t n = 1;
        uint32_t last = 0;
        publish(on, last, n);
        for (uint32_t token = 0; token < slots - 2; token++) { /* each token holds what was the newest then */
            CHECK(bshm_step_pin(&on->control, last, token));
            last = token + 1;
            publish(on, last, ++n);
            check_stage(on, BSHM_TOKEN_MASK(slots - 2));
        }
        uint32_t found = 0;
        for (uint32_t slot = 0; slot < slots; slot++)
            found += slot != last && bshm_step_claim_slot(&on->control, slot, slots - 2);
        CHECK_EQUAL(found, 1);
        free(on);
    }
}

/* ---------------------------------------------------------------- waking the readers */

static void a_reader_that_has_a_frame_from_latest_does_not_find_writing_there(void)
{
    stage *on = new_stage(3);
    write_up_to_complete(on, 0, 1);
    bshm_step_end_write(&on->header, 0, 1);
    bshm_step_clear_writing(&on->control, 0);
    CHECK_EQUAL(bshm_step_load_latest(&on->header), 0);
    bshm_step_store_latest(&on->header, 0, 1);
    CHECK_EQUAL(bshm_step_load_latest(&on->header), BSHM_LATEST(1, 0));
    CHECK(bshm_step_pin(&on->control, 0, TOKEN_0));
    free(on);
}

static void a_waiter_that_looks_at_notify_before_latest_never_sleeps_over_a_frame(void)
{
    /* The waiter's two loads happen anywhere around W10 and W12: whatever it saw, it does not sleep once they are
     * done. */
    for (int first = 0; first <= 2; first++)
        for (int second = first; second <= 2; second++) {
            stage *on = new_stage(3);
            uint32_t notify = 0;
            uint64_t latest = 0;
            for (int step = 0; step <= 2; step++) {
                if (step == first)
                    notify = bshm_load_acquire32(&on->header.publication.notify);
                if (step == second)
                    latest = bshm_step_load_latest(&on->header);
                if (step == 0)
                    bshm_step_store_latest(&on->header, 0, 1);
                if (step == 1)
                    bshm_step_bump_notify(&on->header);
            }
            /* It saw the frame; or FUTEX_WAIT finds another number and returns immediately. */
            CHECK(latest != 0 || notify != bshm_load_acquire32(&on->header.publication.notify));
            free(on);
        }
}

static void a_waiter_that_looks_at_latest_first_can_sleep_over_a_frame(void)
{
    stage *on = new_stage(3);
    uint64_t latest = bshm_step_load_latest(&on->header); /* in the wrong order: this is why the order matters */
    bshm_step_store_latest(&on->header, 0, 1);
    bshm_step_bump_notify(&on->header);
    uint32_t notify = bshm_load_acquire32(&on->header.publication.notify);
    CHECK_EQUAL(latest, 0);
    CHECK_EQUAL(notify, bshm_load_acquire32(&on->header.publication.notify)); /* FUTEX_WAIT would sleep */
    free(on);
}

static void every_change_of_state_changes_notify_too(void)
{
    stage *on = new_stage(3);
    for (uint32_t state = BSHM_STATE_LIVE; state <= BSHM_STATE_CLOSED; state++) {
        uint32_t before = bshm_load_acquire32(&on->header.publication.notify);
        bshm_step_set_state(&on->header, state);
        CHECK_EQUAL(bshm_load_acquire32(&on->header.publication.state), state);
        CHECK(bshm_load_acquire32(&on->header.publication.notify) != before);
    }
    free(on);
}

static void notify_wraps_around(void)
{
    stage *on = new_stage(3);
    bshm_store_release32(&on->header.publication.notify, UINT32_MAX);
    bshm_step_bump_notify(&on->header);
    CHECK_EQUAL(bshm_load_acquire32(&on->header.publication.notify), 0);
    free(on);
}

/* ---------------------------------------------------------------- descriptors */

static void a_descriptor_is_read_as_it_was_written_word_for_word(void)
{
    stage *on = new_stage(3);
    bshm_frame_info written;
    bshm_frame_info read = {0};
    uint64_t seq = 0;
    uint8_t *bytes = (uint8_t *)&written;
    for (size_t i = 0; i < sizeof written; i++)
        bytes[i] = (uint8_t)(i * 7 + 1);
    bshm_step_begin_write(&on->header, 2, 9);
    bshm_step_store_descriptor(&on->header, 2, &written);
    bshm_step_end_write(&on->header, 2, 9);
    CHECK(bshm_step_load_descriptor(&on->header, 2, 9, &seq, &read));
    CHECK_EQUAL(seq, 18);
    CHECK(memcmp(&written, &read, sizeof read) == 0);
    CHECK_EQUAL(stage_seq(on, 0), 0);
    CHECK_EQUAL(stage_seq(on, 1), 0);
    free(on);
}

static void the_largest_number_survives_every_word_it_goes_through(void)
{
    stage *on = new_stage(3);
    uint64_t seq = 0;
    bshm_frame_info info = {0};
    publish(on, 2, BSHM_MAX_SEQUENCE);
    uint64_t latest = bshm_step_load_latest(&on->header);
    CHECK_EQUAL(BSHM_LATEST_SEQUENCE(latest), BSHM_MAX_SEQUENCE);
    CHECK_EQUAL(BSHM_LATEST_SLOT(latest), 2);
    CHECK(bshm_step_load_descriptor(&on->header, 2, BSHM_MAX_SEQUENCE, &seq, &info));
    CHECK_EQUAL(seq >> 1, BSHM_MAX_SEQUENCE);
    free(on);
}

static void a_frame_is_found_only_by_its_even_number(void)
{
    stage *on = new_stage(5);
    CHECK_EQUAL(bshm_step_find_frame(&on->header, 1, on->slots), 5);
    publish(on, 0, 1);
    publish(on, 3, 2);
    REQUIRE(bshm_step_claim_slot(&on->control, 4, 3));
    bshm_step_begin_write(&on->header, 4, 3);
    CHECK_EQUAL(bshm_step_find_frame(&on->header, 1, on->slots), 0);
    CHECK_EQUAL(bshm_step_find_frame(&on->header, 2, on->slots), 3);
    CHECK_EQUAL(bshm_step_find_frame(&on->header, 3, on->slots), 5); /* being written */
    CHECK_EQUAL(bshm_step_find_frame(&on->header, 2, 3), 3);         /* slots beyond those are not checked */
    free(on);
}

int main(void)
{
    RUN(a_reader_that_finds_writing_withdraws_its_pin);
    RUN(a_reader_that_meets_writing_costs_the_writer_nothing);
    RUN(a_pin_before_the_claim_makes_the_claim_fail);
    RUN(a_pin_between_the_look_and_the_claim_makes_the_claim_fail);
    RUN(a_pin_and_its_release_between_the_look_and_the_claim_let_the_claim_succeed);
    RUN(every_token_keeps_the_writer_away_and_no_other_bit_does);
    RUN(a_slot_that_a_dead_writer_was_writing_can_be_claimed);
    RUN(a_cancelled_loan_is_refused_although_it_can_be_pinned);
    RUN(a_stale_look_at_a_slot_rewritten_since_returns_the_newer_frame);
    RUN(a_stale_look_at_a_slot_completed_but_not_shown_yet_returns_that_frame);
    RUN(a_frame_older_than_the_requested_one_is_refused);
    RUN(between_w8_and_w9_the_frame_is_complete_but_cannot_be_pinned);
    RUN(a_copy_is_torn_from_the_moment_its_slot_is_begun_again);
    RUN(a_copy_is_torn_by_a_loan_that_was_cancelled_again);
    RUN(a_view_whose_pin_was_overridden_is_not_intact);
    RUN(a_dead_owners_bit_keeps_its_slot_until_the_next_owner_clears_it);
    RUN(without_the_clearing_a_token_would_hold_two_slots_and_the_writer_find_none);
    RUN(clearing_a_token_clears_it_in_every_slot_and_nothing_else);
    RUN(releasing_leaves_the_pins_and_unpinning_leaves_writing_and_other_pins);
    RUN(with_every_token_in_use_one_pass_still_finds_a_slot);
    RUN(a_reader_that_has_a_frame_from_latest_does_not_find_writing_there);
    RUN(a_waiter_that_looks_at_notify_before_latest_never_sleeps_over_a_frame);
    RUN(a_frame_is_found_only_by_its_even_number);
    RUN(a_waiter_that_looks_at_latest_first_can_sleep_over_a_frame);
    RUN(every_change_of_state_changes_notify_too);
    RUN(notify_wraps_around);
    RUN(a_descriptor_is_read_as_it_was_written_word_for_word);
    RUN(the_largest_number_survives_every_word_it_goes_through);
    return check_summary();
}
