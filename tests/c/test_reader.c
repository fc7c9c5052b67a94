/* The reader through its public functions. The shared words are changed as a writer, another reader, a dead one or an
 * attacker would leave them. */
#include "fixture.h"

#define BIT(t) (UINT64_C(1) << (t))

static int acquire(bshm_reader *reader, uint32_t flags, bshm_frame *frame)
{
    *frame = (bshm_frame){0};
    return bshm_reader_acquire(reader, flags, frame, &fixture_error);
}

static bshm_reader_counters reader_counters(bshm_reader *reader)
{
    bshm_reader_counters counters;
    bshm_reader_get_counters(reader, &counters);
    return counters;
}

static bool copies_whole(const bshm_frame *frame)
{
    uint8_t pixels[FRAME_BYTES];
    if (bshm_frame_copy(frame, pixels, sizeof pixels) != BSHM_OK)
        return false;
    for (size_t i = 0; i < sizeof pixels; i++)
        if (pixels[i] != (uint8_t)frame->info.sequence)
            return false;
    return true;
}

/* ---------------------------------------------------------------- new, seen, skipped */

static void a_reader_gets_the_newest_frame_once_and_counts_what_it_missed(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(2);
    bshm_frame frame;
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_NOTHING); /* attached, and no frame yet */
    for (int i = 0; i < 3; i++)
        (void)put(writer);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.info.sequence, 3);
    CHECK_EQUAL(frame.skipped, 0); /* its first frame: it missed none */
    bshm_frame_release(&frame);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_NOTHING);
    CHECK_EQUAL(acquire(reader, BSHM_ACQUIRE_SEEN, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.info.sequence, 3);
    bshm_frame_release(&frame);
    for (int i = 0; i < 5; i++)
        (void)put(writer);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.info.sequence, 8);
    CHECK_EQUAL(frame.skipped, 4);
    bshm_frame_release(&frame);
    CHECK_EQUAL(reader_counters(reader).skipped, 4);
    CHECK_EQUAL(reader_counters(reader).copies, 0);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void without_a_segment_reads_are_empty_and_attaching_fails(void)
{
    bshm_reader *reader = new_reader(2);
    bshm_frame frame;
    bshm_source_view view;
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_E_NOT_FOUND);
    CHECK_CONTAINS(fixture_error.message, fixture_name);
    CHECK_EQUAL(bshm_reader_attach(reader, NULL), BSHM_E_NOT_FOUND);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_NOTHING);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_DETACHED);
    CHECK_EQUAL(bshm_reader_source(reader, &view), BSHM_NOTHING);
    CHECK_EQUAL(bshm_reader_ended(reader), 0);
    bshm_reader_wait(reader, 1000000);
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    frame = next_frame(reader);
    CHECK_EQUAL(frame.info.sequence, 1);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_LIVE);
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_closed_reader_says_so(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_reader *reader = new_reader(2);
    bshm_frame frame, held;
    (void)put(writer);
    held = newest(reader);
    bshm_reader_close(reader);
    bshm_reader_close(reader);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_E_CLOSED);
    CHECK_CONTAINS(fixture_error.message, "closed");
    CHECK_EQUAL(bshm_reader_acquire(reader, 0, &frame, NULL), BSHM_E_CLOSED);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_E_CLOSED);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_DETACHED);
    bshm_reader_wait(reader, 1000000);
    CHECK(is_whole(&held));
    bshm_reader_free(reader);
    CHECK(is_whole(&held) && bshm_frame_intact(&held));
    bshm_frame_release(&held);
    CHECK(!bshm_frame_intact(&held)); /* of nothing */
    bshm_frame_release(&held);
    bshm_reader_free(NULL);
    bshm_writer_free(writer);
}

static void frames_outlive_reader_writer_and_name(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    (void)put(writer);
    bshm_frame first = newest(reader);
    (void)put(writer);
    bshm_frame second = newest(reader);
    bshm_writer_free(writer);
    bshm_reader_free(reader);
    CHECK(first.pinned && second.pinned);
    CHECK(is_whole(&first) && is_whole(&second) && bshm_frame_intact(&first) && bshm_frame_intact(&second));
    bshm_frame_release(&second);
    CHECK(is_whole(&first));
    bshm_frame_release(&first);
}

/* ---------------------------------------------------------------- leases */

static void each_held_frame_pins_its_slot_and_the_last_release_unpins_it(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    (void)put(writer);
    bshm_frame first = newest(reader);
    bshm_frame again = newest(reader);
    CHECK(first.pinned && again.pinned);
    CHECK(first.pixels == again.pixels);
    CHECK_EQUAL(pin_of(&shared, 0), BIT(0)); /* two frames, one pin */
    bshm_frame_release(&first);
    CHECK_EQUAL(pin_of(&shared, 0), BIT(0));
    CHECK(is_whole(&again));
    bshm_frame_release(&again);
    CHECK_EQUAL(pin_of(&shared, 0), 0);
    (void)put(writer);
    first = newest(reader);
    (void)put(writer);
    again = newest(reader);
    CHECK_EQUAL(pin_of(&shared, 1), BIT(0));
    CHECK_EQUAL(pin_of(&shared, 0), BIT(1));
    check_invariants(&shared, 8);
    bshm_frame_release(&first);
    bshm_frame_release(&again);
    CHECK_EQUAL(pinned_slots(&shared, 8), 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_frame_asked_for_again_takes_no_second_token(void)
{
    bshm_writer *writer = new_writer(4); /* two tokens */
    bshm_reader *reader = new_reader(2);
    bshm_reader *other = new_reader(1);
    (void)put(writer);
    bshm_frame first = newest(reader);
    bshm_frame again = newest(reader);
    bshm_frame theirs = newest(other);
    CHECK(first.pinned && again.pinned && theirs.pinned);
    bshm_frame_release(&first);
    bshm_frame_release(&again);
    bshm_frame_release(&theirs);
    bshm_reader_free(reader);
    bshm_reader_free(other);
    bshm_writer_free(writer);
}

static void with_all_its_leases_in_use_a_reader_copies(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame held[3];
    for (int i = 0; i < 3; i++) {
        (void)put(writer);
        held[i] = newest(reader);
    }
    CHECK(held[0].pinned && !held[0].to_copy && held[1].pinned && !held[1].to_copy);
    CHECK(held[2].to_copy);
    CHECK_EQUAL(held[2].info.sequence, 3);
    CHECK(copies_whole(&held[2]));
    bshm_frame_release(&held[2]);
    CHECK_EQUAL(pinned_slots(&shared, 8), 2);
    CHECK_EQUAL(reader_counters(reader).copies, 1);
    bshm_frame_release(&held[0]);
    (void)put(writer);
    bshm_frame fourth = newest(reader);
    CHECK(fourth.pinned && !fourth.to_copy); /* a lease is free again */
    check_invariants(&shared, 8);
    bshm_frame_release(&fourth);
    bshm_frame_release(&held[1]);
    CHECK_EQUAL(pinned_slots(&shared, 8), 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void with_all_tokens_taken_by_others_a_reader_copies_and_searches_again_later(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    (void)put(writer);
    bshm_os_file others = take_all_tokens(4);
    int64_t before = bshm_now_ns();
    bshm_frame frame = newest(reader);
    CHECK(frame.to_copy && !frame.pinned && frame.pixels == NULL);
    CHECK_EQUAL(pinned_slots(&shared, 4), 0);
    CHECK(copies_whole(&frame));
    bshm_frame_release(&frame);
    bshm_os_close(others);
    frame = newest(reader);
    if (bshm_now_ns() - before < 90000000) /* the tokens are free now, but the last search is too recent */
        CHECK(frame.to_copy && !frame.pinned);
    bshm_frame_release(&frame);
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    bool leased = false;
    while (!leased && CHECK(bshm_now_ns() < deadline)) {
        bshm_os_sleep(10000000);
        frame = newest(reader);
        leased = frame.pinned && !frame.to_copy;
        bshm_frame_release(&frame);
    }
    CHECK_EQUAL(pinned_slots(&shared, 4), 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_reader_that_only_copies_keeps_no_token(void)
{
    bshm_writer *writer = new_writer(3); /* one token */
    bshm_reader *copying = new_reader(2);
    bshm_reader *never = new_reader(0);
    bshm_reader *leasing = new_reader(1);
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    CHECK_EQUAL(acquire(copying, BSHM_ACQUIRE_COPY, &frame), BSHM_FOUND);
    CHECK(frame.to_copy && copies_whole(&frame));
    bshm_frame_release(&frame);
    CHECK_EQUAL(acquire(never, 0, &frame), BSHM_FOUND);
    CHECK(frame.to_copy && copies_whole(&frame));
    bshm_frame_release(&frame);
    CHECK_EQUAL(pinned_slots(&shared, 3), 0);
    CHECK_EQUAL(acquire(leasing, 0, &frame), BSHM_FOUND);
    CHECK(frame.pinned && !frame.to_copy); /* the only one */
    bshm_frame_release(&frame);
    (void)put(writer);
    CHECK_EQUAL(acquire(leasing, BSHM_ACQUIRE_COPY, &frame), BSHM_FOUND);
    CHECK(frame.pinned && frame.to_copy && copies_whole(&frame)); /* it has a token, which protects the copy too */
    bshm_frame_release(&frame);
    CHECK_EQUAL(reader_counters(copying).copies, 1);
    CHECK_EQUAL(reader_counters(never).copies, 1);
    CHECK_EQUAL(reader_counters(leasing).copies, 1);
    close_window(&shared);
    bshm_reader_free(copying);
    bshm_reader_free(never);
    bshm_reader_free(leasing);
    bshm_writer_free(writer);
}

static void a_copy_with_a_token_cannot_be_torn(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(0);
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    CHECK_EQUAL(acquire(reader, BSHM_ACQUIRE_COPY, &frame), BSHM_FOUND);
    CHECK(frame.pinned);
    for (int i = 0; i < 6; i++)
        (void)put(writer);
    check_invariants(&shared, 4);
    CHECK(copies_whole(&frame));
    bshm_frame_release(&frame);
    CHECK_EQUAL(pinned_slots(&shared, 4), 0);
    bshm_os_file others = take_all_tokens(4); /* it kept none */
    bshm_os_close(others);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_new_owner_clears_a_dead_ones_pins_in_every_slot(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(1);
    window shared = open_window();
    (void)put(writer);
    for (uint32_t slot = 0; slot < 5; slot++)
        bshm_store_relaxed(&shared.control->pins[slot].word, BIT(0) | BIT(1));
    bshm_frame frame = newest(reader);
    CHECK(frame.pinned);
    for (uint32_t slot = 0; slot < 5; slot++)
        CHECK_EQUAL(pin_of(&shared, slot), slot == 0 ? BIT(0) | BIT(1) : BIT(1)); /* token 1 does not belong to it */
    bshm_frame_release(&frame);
    CHECK_EQUAL(pin_of(&shared, 0), BIT(1));
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void closing_the_last_frame_returns_the_tokens(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_reader *reader = new_reader(1);
    (void)put(writer);
    bshm_frame held = newest(reader);
    bshm_reader_free(reader);
    bshm_reader *next = new_reader(1);
    bshm_frame frame = newest(next);
    CHECK(frame.to_copy &&
          !frame.pinned); /* the held frame keeps the token's lock: otherwise its pin would be cleared */
    bshm_frame_release(&frame);
    bshm_frame_release(&held);
    bshm_reader_free(next);
    next = new_reader(1);
    frame = newest(next);
    CHECK(frame.pinned);
    bshm_frame_release(&frame);
    bshm_reader_free(next);
    bshm_writer_free(writer);
}

static void a_pin_that_was_broken_is_not_shared_with_a_newer_frame(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(3);
    window shared = open_window();
    (void)put(writer);
    bshm_frame held = newest(reader);
    bshm_reader_give_back(reader, &held); /* it was no copy */
    CHECK_EQUAL(reader_counters(reader).copies, 0);
    bshm_step_end_write(shared.header, 0, 4); /* by force: the slot has another frame, and `latest` is what it was */
    bshm_frame newer = newest(reader);
    CHECK_EQUAL(newer.info.sequence, 4);
    CHECK(newer.lease != held.lease && newer.pinned);
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(4, 0));
    bshm_frame again = newest(reader);
    CHECK_EQUAL(again.lease, newer.lease);
    CHECK(!bshm_frame_intact(&held) && bshm_frame_intact(&newer));
    bshm_frame_release(&held);
    bshm_frame_release(&newer);
    bshm_frame_release(&again);
    CHECK_EQUAL(pinned_slots(&shared, 8), 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- R3, R4, copies */

static void a_reader_that_always_finds_writing_copies_and_leaves_no_pin(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    bshm_store_relaxed(&shared.control->pins[0].word, BSHM_PIN_WRITING);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK(!frame.pinned && frame.to_copy && copies_whole(&frame));
    CHECK_EQUAL(pin_of(&shared, 0), BSHM_PIN_WRITING);
    CHECK_EQUAL(reader_counters(reader).retries, BSHM_READ_ATTEMPTS);
    bshm_frame_release(&frame);
    bshm_store_relaxed(&shared.control->pins[0].word, 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_reader_that_finds_seq_odd_has_nothing_and_leaves_no_pin(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    bshm_step_begin_write(shared.header, 0, 1);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_NOTHING);
    CHECK_EQUAL(pin_of(&shared, 0), 0);
    CHECK(frame.attachment == NULL);
    bshm_step_end_write(shared.header, 0, 1);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK(frame.pinned);
    bshm_frame_release(&frame);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_frame_completed_but_not_shown_is_found_through_a_stale_latest(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame frame;
    for (int i = 0; i < 4; i++)
        (void)put(writer);
    CHECK_EQUAL(latest_slot(&shared), 1);
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(2, 1)); /* what a slow reader would have read */
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.info.sequence, 4);
    CHECK(frame.pinned && is_whole(&frame));
    bshm_frame_release(&frame);
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(4, 1));
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_NOTHING); /* but only once */
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_copy_without_a_token_that_met_a_newer_frame_is_torn_and_counts_as_skipped(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(0);
    bshm_os_file others = take_all_tokens(4);
    bshm_frame frame;
    uint8_t copy[FRAME_BYTES];
    (void)put(writer);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    bshm_frame_release(&frame);
    (void)put(writer);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK(!frame.pinned && bshm_frame_intact(&frame));
    (void)put(writer);
    CHECK(bshm_frame_intact(&frame)); /* not pinned, but its slot was not reused */
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_OK);
    (void)put(writer);
    CHECK(!bshm_frame_intact(&frame));
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_E_TORN);
    bshm_reader_give_back(reader, &frame);
    bshm_frame_release(&frame);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.info.sequence, 4);
    CHECK_EQUAL(frame.skipped, 2); /* 2, which it released, and 3 */
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_OK);
    bshm_frame_release(&frame);
    CHECK_EQUAL(reader_counters(reader).frames, 2);
    CHECK_EQUAL(reader_counters(reader).copies, 2);
    CHECK_EQUAL(reader_counters(reader).skipped, 2);
    CHECK_EQUAL(reader_counters(reader).retries, 1);
    CHECK_EQUAL(acquire(reader, BSHM_ACQUIRE_SEEN, &frame), BSHM_FOUND);
    bshm_reader_give_back(reader, &frame); /* seen before: no frame is missed */
    bshm_frame_release(&frame);
    (void)put(writer);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.skipped, 0);
    bshm_frame_release(&frame);
    bshm_os_close(others);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_copy_without_a_token_that_met_a_loan_is_torn_even_if_the_loan_is_cancelled(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(0);
    bshm_os_file others = take_all_tokens(4);
    bshm_frame frame;
    bshm_loan loan;
    bshm_frame_info info = picture(HEIGHT);
    uint8_t copy[FRAME_BYTES];
    for (int i = 0; i < 3; i++)
        (void)put(writer);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    CHECK_EQUAL(frame.slot, 0);
    (void)put(writer);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(loan.slot, 0);
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_E_TORN);
    bshm_writer_cancel(writer, &loan);
    bshm_loan_release(&loan);
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_E_TORN);
    bshm_frame_release(&frame);
    bshm_os_close(others);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_copy_needs_room(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(1);
    uint8_t copy[FRAME_BYTES];
    (void)put(writer);
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, FRAME_BYTES - 1), BSHM_E_SHAPE);
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, 0), BSHM_E_SHAPE);
    CHECK_EQUAL(bshm_frame_copy(&frame, copy, FRAME_BYTES), BSHM_OK);
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* As another implementation may write them: a row of 64 bytes in which 32 belong to the frame. */
static void padded_rows_are_copied_without_their_padding(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(0);
    window shared = open_window();
    bshm_frame_info info = picture(HEIGHT);
    uint8_t pixels[FRAME_BYTES], copy[FRAME_BYTES / 2];
    uint64_t sequence, seq;
    for (uint32_t i = 0; i < FRAME_BYTES; i++)
        pixels[i] = i % WIDTH < WIDTH / 2 ? (uint8_t)(i / WIDTH) : 0xEE;
    REQUIRE(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error) == BSHM_OK);
    REQUIRE(bshm_step_load_descriptor(shared.header, 0, 1, &seq, &info));
    info.width = WIDTH / 2;
    info.payload_bytes -= WIDTH / 2; /* the last row needs no padding */
    bshm_step_store_descriptor(shared.header, 0, &info);
    for (int with_token = 1; with_token >= 0; with_token--) {
        bshm_os_file others = with_token ? BSHM_OS_NO_FILE : take_all_tokens(4);
        bshm_frame frame = newest(reader);
        CHECK_EQUAL(frame.pinned, with_token);
        memset(copy, 0xFF, sizeof copy);
        CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy - 1), BSHM_E_SHAPE);
        CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_OK);
        for (uint32_t i = 0; i < sizeof copy; i++)
            CHECK_EQUAL(copy[i], i / (WIDTH / 2));
        bshm_frame_release(&frame);
        bshm_os_close(others);
    }
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- corrupt words */

static void a_newest_frame_in_a_slot_that_does_not_exist_is_an_error(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    for (uint32_t slot = 4; slot < 64; slot++) {
        bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(7, slot));
        CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_E_FORMAT);
        CHECK_CONTAINS(fixture_error.message, fixture_name);
        CHECK_EQUAL(acquire(reader, BSHM_ACQUIRE_COPY, &frame), BSHM_E_FORMAT);
        CHECK_EQUAL(bshm_reader_acquire(reader, 0, &frame, NULL), BSHM_E_FORMAT);
    }
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(1, 0));
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND); /* and it recovers */
    bshm_frame_release(&frame);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void an_impossible_descriptor_is_an_error_and_leaves_no_pin(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *leasing = new_reader(2);
    bshm_reader *copying = new_reader(0);
    window shared = open_window();
    bshm_frame frame;
    uint8_t copy[FRAME_BYTES];
    (void)put(writer);
    for (size_t word = 0; word < BSHM_INFO_WORDS; word++)
        for (unsigned bit = 0; bit < 64; bit++) {
            bshm_shared64 *poked = &shared.header->descriptors[0].info[word];
            uint64_t good = bshm_load_relaxed(poked);
            bshm_store_relaxed(poked, good ^ BIT(bit));
            bshm_reader *readers[2] = {leasing, copying};
            for (int i = 0; i < 2; i++) {
                int rc = acquire(readers[i], BSHM_ACQUIRE_SEEN, &frame);
                CHECK(rc == BSHM_FOUND || rc == BSHM_E_FORMAT);
                if (rc != BSHM_FOUND)
                    continue;
                /* Whatever the descriptor says, the frame is inside its slot. */
                uint64_t bytes =
                    (uint64_t)frame.info.height * frame.info.width * frame.info.channels * frame.info.item_size;
                CHECK(frame.info.payload_bytes <= FRAME_BYTES && bytes <= FRAME_BYTES);
                CHECK_EQUAL(frame.info.sequence, 1);
                CHECK_EQUAL(bshm_frame_copy(&frame, copy, sizeof copy), BSHM_OK);
                CHECK(copy[0] == 1 && copy[bytes - 1] == 1);
                bshm_frame_release(&frame);
            }
            CHECK_EQUAL(pin_of(&shared, 0), 0);
            bshm_store_relaxed(poked, good);
        }
    close_window(&shared);
    bshm_reader_free(leasing);
    bshm_reader_free(copying);
    bshm_writer_free(writer);
}

static void an_unobtainable_latest_does_not_keep_a_waiting_reader_busy(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(9, 1)); /* of a slot without a frame */
    int64_t deadline = bshm_now_ns() + 100000000;
    unsigned tries = 0;
    while (bshm_now_ns() < deadline) {
        CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_NOTHING);
        bshm_reader_wait(reader, deadline - bshm_now_ns());
        tries++;
    }
    printf("    %u tries in 100 ms\n", tries);
    CHECK(tries < 1000);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* The frame of a reader, not kept alive by the state of its segment. */
static bool comes_to_the_successor(bshm_reader *reader, bool in_turn, uint32_t flags, const uint8_t *generation)
{
    bshm_frame frame = {0};
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    bool there = false;
    while (!there && bshm_now_ns() < deadline) {
        int rc =
            in_turn ? bshm_reader_acquire_next(reader, flags, &frame, &fixture_error) : acquire(reader, flags, &frame);
        CHECK(rc == BSHM_FOUND || rc == BSHM_NOTHING || rc == BSHM_E_FORMAT);
        if (rc == BSHM_FOUND) {
            there = memcmp(frame.generation, generation, sizeof frame.generation) == 0;
            bshm_frame_release(&frame);
        } else {
            bshm_reader_wait(reader, 5000000);
        }
    }
    return there;
}

enum corruption { NO_SUCH_SLOT, NO_SUCH_FRAME, NO_SUCH_PICTURE, A_NUMBER_TOO_HIGH };

static void corrupt(const window *shared, enum corruption how)
{
    bshm_descriptor *descriptor = &shared->header->descriptors[latest_slot(shared)];
    if (how == NO_SUCH_PICTURE)
        bshm_store_relaxed(&descriptor->info[7], 0); /* width and height */
    else if (how == A_NUMBER_TOO_HIGH)
        bshm_store_relaxed(&descriptor->seq, 2 * BSHM_MAX_SEQUENCE);
    if (how != NO_SUCH_PICTURE)
        bshm_store_relaxed(&shared->header->publication.latest,
                           BSHM_LATEST(BSHM_MAX_SEQUENCE, how == NO_SUCH_SLOT ? 63 : latest_slot(shared)));
}

static void a_corrupt_segment_keeps_no_reader_from_its_successor(void)
{
    for (unsigned variant = 0; variant < 4 * 4 * 2; variant++) {
        bool in_turn = variant & 1;
        uint32_t flags = variant & 2 ? BSHM_ACQUIRE_SEEN : 0;
        uint32_t history = variant & 4 ? 3 : 0;
        bshm_writer *writer = new_writer_with_history(4, history);
        bshm_reader *reader = new_reader(2);
        bshm_reader *ending = new_reader(2);
        bshm_frame frame;
        (void)put(writer);
        frame = newest(reader);
        bshm_frame_release(&frame);
        frame = newest(ending);
        bshm_frame_release(&frame);
        (void)put(writer);
        window shared = open_window();
        corrupt(&shared, (enum corruption)(variant >> 3));
        bshm_writer_free(writer);
        int rc = acquire(ending, BSHM_ACQUIRE_STAY, &frame);
        if (rc == BSHM_FOUND)
            bshm_frame_release(&frame);
        CHECK_EQUAL(bshm_reader_ended(ending), 1); /* nothing more can be read */
        writer = new_writer_with_history(4, history);
        (void)put(writer);
        if (!CHECK(comes_to_the_successor(reader, in_turn, flags, counters_of(writer).generation)))
            printf("    variant %u\n", variant);
        close_window(&shared);
        bshm_reader_free(reader);
        bshm_reader_free(ending);
        bshm_writer_free(writer);
    }
}

/* A writer that continues from the number of a dead writer, whose readers had an impossible number. */
static void an_impossible_number_does_not_make_the_next_ones_count_as_skipped(void)
{
    leave_dead_segment(4, 2);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    uint32_t slot = latest_slot(&shared);
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(BSHM_MAX_SEQUENCE + 9, slot));
    bshm_step_end_write(shared.header, slot, BSHM_MAX_SEQUENCE + 9);
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(frame.info.sequence, BSHM_MAX_SEQUENCE + 9);
    bshm_frame_release(&frame);
    bshm_writer *writer = new_writer(4);
    CHECK_EQUAL(put(writer), 2); /* the number of the overwritten slot is lost */
    frame = next_frame(reader);
    CHECK_EQUAL(frame.info.sequence, 2);
    CHECK_EQUAL(frame.skipped, 0);
    bshm_frame_release(&frame);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void put_a_whole_slot(bshm_writer *writer)
{
    static uint8_t pixels[BSHM_REGION_BYTES];
    bshm_frame_info info = picture(BSHM_REGION_BYTES / WIDTH);
    uint64_t sequence;
    memset(pixels, (int)(counters_of(writer).sequence + 1), sizeof pixels);
    CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error), BSHM_OK);
}

static void slots_with_memory_are_mapped_ahead_where_their_frames_will_be(void)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = BSHM_REGION_BYTES, .slots = 4, .mode = 0600};
    REQUIRE(bshm_writer_create(&writer, fixture_name, &options, &fixture_error) == BSHM_OK);
    bshm_reader *reader = new_reader(2);
    const void *ahead[3];
    static const uint8_t slots[3 * BSHM_REGION_BYTES];
    FILE *file = fopen(fixture_path(), "r+b"); /* qemu ignores the call by which the writer fills the slots */
    REQUIRE(file != NULL && fseek(file, 2 * BSHM_REGION_BYTES, SEEK_SET) == 0);
    REQUIRE(fwrite(slots, 1, sizeof slots, file) == sizeof slots && fclose(file) == 0);
    CHECK(bshm_reader_map_ahead(reader, NULL, 0) == NULL); /* detached */
    put_a_whole_slot(writer);
    bshm_frame frame = newest(reader);
    bshm_reader *other = new_reader(1);
    bshm_frame held = newest(other);
    bshm_frame_release(&frame);
    put_a_whole_slot(writer); /* which this reader has not seen; in an emulator only frames give a slot memory */
    put_a_whole_slot(writer);
    frame = newest(reader);
    bshm_frame_release(&held);
    bshm_reader_free(other);
    for (uint32_t slot = 0; slot < 3; slot++)
        CHECK((ahead[slot] = bshm_reader_map_ahead(reader, frame.attachment, slot)) != NULL);
    CHECK(bshm_reader_map_ahead(reader, frame.attachment, 3) == NULL); /* it has no memory */
    CHECK(bshm_reader_map_ahead(reader, frame.attachment, UINT32_MAX) == NULL);
    CHECK(bshm_reader_map_ahead(reader, NULL, 0) == NULL); /* not of this segment */
    for (int lap = 0; lap < 5; lap++) {
        CHECK(frame.pixels == ahead[frame.slot] && is_whole(&frame));
        bshm_frame_release(&frame);
        put_a_whole_slot(writer);
        frame = next_frame(reader);
    }
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

#ifndef _WIN32 /* there it takes no disk space */
/* Reading a hole would give it memory, or raise SIGBUS if there is none. */
static void slots_without_memory_are_not_mapped_ahead_whatever_the_segment_claims(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_os_file file;
    bshm_os_info before, after;
    (void)put(writer);
    bshm_frame frame = newest(reader);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ_WRITE, &file) == 0);
    REQUIRE(bshm_os_punch(file, 2 * BSHM_REGION_BYTES + 2 * (uint64_t)BSHM_REGION_BYTES, BSHM_REGION_BYTES) == 0);
    bshm_store_relaxed(&shared.header->statistics.backed_slots, UINT64_MAX);
    REQUIRE(bshm_os_info_of(file, &before) == 0);
    CHECK(bshm_reader_map_ahead(reader, frame.attachment, 2) == NULL);
    CHECK(bshm_reader_map_ahead(reader, frame.attachment, 3) == NULL);
    REQUIRE(bshm_os_info_of(file, &after) == 0);
    CHECK_EQUAL(after.allocated_bytes, before.allocated_bytes);
    bshm_frame_release(&frame);
    bshm_os_close(file);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}
#endif

/* ---------------------------------------------------------------- following */

static void a_reader_follows_a_replaced_segment_and_misses_no_last_frame(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    bshm_frame_info info = picture(50 * HEIGHT);
    static uint8_t pixels[50 * FRAME_BYTES];
    uint64_t sequence = 0;
    bshm_frame frame;
    (void)put(writer);
    frame = newest(reader);
    bshm_frame_release(&frame);
    (void)put(writer);
    memset(pixels, 3, sizeof pixels);
    CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error), BSHM_OK);
    frame = next_frame(reader);
    CHECK_EQUAL(frame.info.sequence, 2); /* of the old segment */
    bshm_frame_release(&frame);
    frame = next_frame(reader);
    CHECK_EQUAL(frame.info.sequence, 3);
    CHECK_EQUAL(frame.skipped, 0);
    CHECK(is_whole(&frame));
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_reader_that_asks_for_the_newest_frame_only_follows_too(void)
{
    leave_dead_segment(4, 3);
    bshm_reader *reader = new_reader(2);
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(frame.info.sequence, 3); /* of a dead writer: a late reader gets it immediately */
    bshm_frame_release(&frame);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_DEAD);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error),
                BSHM_REMOVED); /* so that it cannot be marked as retired */
    bshm_writer *writer = new_writer(4);
    (void)put(writer);
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    do {
        bshm_os_sleep(5000000);
        frame = newest(reader);
        bshm_frame_release(&frame);
    } while (frame.info.sequence != 1 && CHECK(bshm_now_ns() < deadline));
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_reader_that_stays_sees_the_end_of_a_closed_segment(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    bshm_frame frame;
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    bshm_writer_free(writer);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_CLOSED);
    CHECK_EQUAL(bshm_reader_ended(reader), 0); /* there still is a frame */
    CHECK_EQUAL(acquire(reader, BSHM_ACQUIRE_STAY, &frame), BSHM_FOUND);
    bshm_frame_release(&frame);
    CHECK_EQUAL(bshm_reader_ended(reader), 1);
    writer = new_writer(4);
    (void)put(writer);
    (void)put(writer);
    bshm_os_sleep(10000000);
    CHECK_EQUAL(acquire(reader, BSHM_ACQUIRE_STAY, &frame), BSHM_NOTHING);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND); /* without that flag it moves on */
    CHECK_EQUAL(frame.info.sequence, 2);
    CHECK_EQUAL(frame.skipped, 1); /* a new count, which begins at 1 */
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- waiting */

/* The shortest of a few waits: a busy machine may prolong any of them. */
static int64_t shortest_wait(bshm_reader *reader, int64_t timeout_ns)
{
    int64_t shortest = INT64_MAX;
    for (int i = 0; i < 10; i++) {
        int64_t before = bshm_now_ns();
        bshm_reader_wait(reader, timeout_ns);
        int64_t taken = bshm_now_ns() - before;
        shortest = taken < shortest ? taken : shortest;
    }
    return shortest;
}

static void waiting_returns_immediately_with_a_frame_and_in_time_without_one(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    bshm_frame frame;
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    CHECK(shortest_wait(reader, INT64_C(100000000)) < 50000000);
    CHECK_EQUAL(acquire(reader, 0, &frame), BSHM_FOUND);
    bshm_frame_release(&frame);
    CHECK(shortest_wait(reader, 0) < 50000000);
    CHECK(shortest_wait(reader, -5) < 50000000);
    CHECK(shortest_wait(reader, 3000000) >= 2900000);
    int64_t before = bshm_now_ns();
    bshm_reader_wait(reader, INT64_MAX); /* never longer than a slice, so that the caller can handle signals */
    CHECK(bshm_now_ns() - before >= 90000000 && bshm_now_ns() - before < INT64_C(5000000000));
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(a_reader_gets_the_newest_frame_once_and_counts_what_it_missed);
    RUN(without_a_segment_reads_are_empty_and_attaching_fails);
    RUN(a_closed_reader_says_so);
    RUN(frames_outlive_reader_writer_and_name);
    RUN(each_held_frame_pins_its_slot_and_the_last_release_unpins_it);
    RUN(a_frame_asked_for_again_takes_no_second_token);
    RUN(with_all_its_leases_in_use_a_reader_copies);
    RUN(with_all_tokens_taken_by_others_a_reader_copies_and_searches_again_later);
    RUN(a_reader_that_only_copies_keeps_no_token);
    RUN(a_copy_with_a_token_cannot_be_torn);
    RUN(a_pin_that_was_broken_is_not_shared_with_a_newer_frame);
    RUN(a_new_owner_clears_a_dead_ones_pins_in_every_slot);
    RUN(closing_the_last_frame_returns_the_tokens);
    RUN(a_reader_that_always_finds_writing_copies_and_leaves_no_pin);
    RUN(a_reader_that_finds_seq_odd_has_nothing_and_leaves_no_pin);
    RUN(a_frame_completed_but_not_shown_is_found_through_a_stale_latest);
    RUN(a_copy_without_a_token_that_met_a_newer_frame_is_torn_and_counts_as_skipped);
    RUN(a_copy_without_a_token_that_met_a_loan_is_torn_even_if_the_loan_is_cancelled);
    RUN(a_copy_needs_room);
    RUN(padded_rows_are_copied_without_their_padding);
    RUN(a_newest_frame_in_a_slot_that_does_not_exist_is_an_error);
    RUN(an_impossible_descriptor_is_an_error_and_leaves_no_pin);
    RUN(an_unobtainable_latest_does_not_keep_a_waiting_reader_busy);
    RUN(a_corrupt_segment_keeps_no_reader_from_its_successor);
    RUN(an_impossible_number_does_not_make_the_next_ones_count_as_skipped);
#ifndef _WIN32
    RUN(slots_without_memory_are_not_mapped_ahead_whatever_the_segment_claims);
#endif
    RUN(slots_with_memory_are_mapped_ahead_where_their_frames_will_be);
    RUN(a_reader_follows_a_replaced_segment_and_misses_no_last_frame);
    RUN(a_reader_that_asks_for_the_newest_frame_only_follows_too);
    RUN(a_reader_that_stays_sees_the_end_of_a_closed_segment);
    RUN(waiting_returns_immediately_with_a_frame_and_in_time_without_one);
    return check_summary();
}
