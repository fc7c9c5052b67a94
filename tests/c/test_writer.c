/* The writer through its public functions: which slot is next, when another slot gets memory, what a cancelled loan
 * leaves, and what forged pins can do. */
#include "fixture.h"

/* ---------------------------------------------------------------- rotation */

/* Publishes a frame; returns its slot. */
static uint32_t slot_of_next(bshm_writer *writer, const window *shared, uint32_t slots)
{
    uint64_t sequence = put(writer);
    CHECK_EQUAL(latest_sequence(shared), sequence);
    check_invariants(shared, slots);
    return latest_slot(shared);
}

static void a_writer_alone_fills_two_slots_in_turn(void)
{
    bshm_writer *writer = new_writer(8);
    window shared = open_window();
    for (uint32_t i = 0; i < 10; i++)
        CHECK_EQUAL(slot_of_next(writer, &shared, 8), i % 2);
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3);
    CHECK_EQUAL(counters_of(writer).statistics.published.shared, 10);
    CHECK_EQUAL(counters_of(writer).sequence, 10);
    close_window(&shared);
    bshm_writer_free(writer);
}

static void two_slots_take_turns_and_a_held_one_is_skipped(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 0);
    bshm_frame held = newest(reader);
    CHECK(held.pinned);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 1);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 2);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 1);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 2);
    CHECK(is_whole(&held) && bshm_frame_intact(&held));
    bshm_frame_release(&held);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 1); /* the most recently published one before the newest */
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 2);
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void another_slot_is_backed_only_when_leases_leave_no_other(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(3);
    window shared = open_window();
    bshm_frame held[3];
    uint64_t before = counters_of(writer).backed_bytes;
    for (uint32_t i = 0; i < 3; i++) {
        (void)put(writer);
        held[i] = newest(reader);
        CHECK(held[i].pinned);
        CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3);
    }
    CHECK_EQUAL(slot_of_next(writer, &shared, 5), 3); /* slots 0, 1 and 2 are held */
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 4);
    CHECK_EQUAL(slot_of_next(writer, &shared, 5), 4); /* and 3 is the newest */
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 5);
    CHECK_EQUAL(counters_of(writer).backed_bytes, before + 2 * (uint64_t)BSHM_REGION_BYTES);
    CHECK_EQUAL(counters_of(writer).backed_bytes, counters_of(writer).total_bytes);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_EQUAL(slot_of_next(writer, &shared, 5), i % 2 ? 4 : 3); /* all tokens in use: two slots are left */
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(is_whole(&held[i]) && bshm_frame_intact(&held[i]));
        bshm_frame_release(&held[i]);
    }
    CHECK_EQUAL(slot_of_next(writer, &shared, 5), 3);
    CHECK_EQUAL(slot_of_next(writer, &shared, 5), 4);
    CHECK_EQUAL(counters_of(writer).statistics.leases_broken.shared, 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void the_strict_triple_buffer_never_waits_and_never_breaks_a_lease(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_reader *reader = new_reader(1);
    window shared = open_window();
    for (uint32_t i = 0; i < 20; i++) {
        (void)put(writer);
        bshm_frame held = newest(reader);
        CHECK(held.pinned);
        uint32_t slot = latest_slot(&shared);
        for (uint32_t k = 0; k < 4; k++)
            CHECK(slot_of_next(writer, &shared, 3) != slot);
        CHECK(is_whole(&held) && bshm_frame_intact(&held));
        bshm_frame_release(&held);
    }
    CHECK_EQUAL(counters_of(writer).statistics.leases_broken.shared, 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_slot_pinned_by_a_dead_reader_is_left_alone_until_the_next_owner_of_its_token(void)
{
    bshm_writer *writer = new_writer(4);
    window shared = open_window();
    CHECK_EQUAL(slot_of_next(writer, &shared, 4), 0);
    CHECK(bshm_step_pin(shared.control, 0, 1)); /* as a reader that took token 1 and was killed */
    for (uint32_t i = 0; i < 6; i++)
        CHECK(slot_of_next(writer, &shared, 4) != 0);
    bshm_reader *reader = new_reader(2);
    bshm_frame first = newest(reader); /* token 0 */
    (void)put(writer);
    CHECK_EQUAL(pin_of(&shared, 0), UINT64_C(1) << 1);
    bshm_frame second = newest(reader); /* token 1: the bit that was left in slot 0 is cleared */
    CHECK_EQUAL(pin_of(&shared, 0) & UINT64_C(1) << 1, 0);
    CHECK(first.pinned && second.pinned);
    check_invariants(&shared, 4);
    bshm_frame_release(&first);
    bshm_frame_release(&second);
    CHECK_EQUAL(pinned_slots(&shared, 4), 0);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- loans */

static void a_cancelled_loan_leaves_its_number_and_its_place_and_an_unreadable_slot(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_frame_info info = picture(HEIGHT);
    bshm_loan loan;
    for (uint32_t i = 0; i < 4; i++)
        (void)put(writer);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(loan.slot, 0);
    CHECK_EQUAL(pin_of(&shared, 0), BSHM_PIN_WRITING);
    CHECK_EQUAL(seq_of(&shared, 0), 2 * 5 - 1);
    memset(loan.pixels, 0xEE, FRAME_BYTES);
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(frame.info.sequence, 4); /* readers do not see a loan */
    bshm_frame_release(&frame);
    bshm_writer_cancel(writer, &loan);
    bshm_loan_release(&loan);
    CHECK_EQUAL(pin_of(&shared, 0), 0);
    CHECK_EQUAL(seq_of(&shared, 0), 2 * 5 - 1); /* odd: no frame */
    check_invariants(&shared, 8);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 0);
    CHECK_EQUAL(latest_sequence(&shared), 5);
    CHECK_EQUAL(slot_of_next(writer, &shared, 8), 1);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void there_is_one_loan_at_a_time_and_no_writing_during_it(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_frame_info info = picture(HEIGHT);
    uint8_t pixels[FRAME_BYTES] = {0};
    bshm_loan first, second;
    uint64_t sequence = 0;
    REQUIRE(bshm_writer_loan(writer, &info, &first, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(bshm_writer_loan(writer, &info, &second, &fixture_error), BSHM_E_LOAN);
    CHECK_CONTAINS(fixture_error.message, fixture_name);
    CHECK(second.segment == NULL && !second.open);
    bshm_loan_release(&second); /* of nothing */
    CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error), BSHM_E_LOAN);
    CHECK_EQUAL(bshm_writer_publish(writer, &first, &sequence, &fixture_error), BSHM_OK);
    CHECK_EQUAL(sequence, 1);
    CHECK_EQUAL(bshm_writer_publish(writer, &first, &sequence, &fixture_error), BSHM_E_LOAN);
    bshm_writer_cancel(writer, &first); /* too late, without effect */
    bshm_loan_release(&first);
    CHECK_EQUAL(put(writer), 2);
    bshm_writer_free(writer);
}

static void a_loan_publishes_what_was_drawn_and_may_become_smaller(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *reader = new_reader(2);
    bshm_frame_info info = picture(HEIGHT);
    bshm_loan loan;
    uint64_t sequence = 0;
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    memset(loan.pixels, 1, FRAME_BYTES);
    loan.info.height = HEIGHT + 1;
    for (int i = 0; i < 2; i++) /* also the second time, and whatever payload_bytes is */
        CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_E_SHAPE);
    loan.info.payload_bytes = UINT64_MAX;
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_E_SHAPE);
    loan.info.height = HEIGHT / 2;
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_OK);
    bshm_loan_release(&loan);
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(frame.info.height, HEIGHT / 2);
    CHECK_EQUAL(frame.info.payload_bytes, FRAME_BYTES / 2);
    CHECK(is_whole(&frame));
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void closing_cancels_the_loan_and_leaves_its_memory_until_it_is_released(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_frame_info info = picture(HEIGHT);
    bshm_loan loan;
    uint64_t sequence = 0;
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    bshm_writer_close(writer);
    memset(loan.pixels, 1, FRAME_BYTES); /* would crash if it were unmapped */
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_E_CLOSED);
    CHECK_EQUAL(sequence, 0);
    bshm_writer_cancel(writer, &loan);
    bshm_writer_free(writer);
    memset(loan.pixels, 2, FRAME_BYTES);
    bshm_loan_release(&loan);
    CHECK(loan.pixels == NULL);
    bshm_loan_release(&loan);
}

static void a_loan_of_a_larger_frame_comes_from_a_larger_segment_and_the_old_frames_stay(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    bshm_frame_info info = picture(100 * HEIGHT);
    bshm_loan loan;
    uint64_t sequence = 0;
    for (uint32_t i = 0; i < 3; i++)
        (void)put(writer);
    bshm_frame before = newest(reader);
    window old = open_window();
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(bshm_load_acquire32(&old.header->publication.state), BSHM_STATE_RETIRED);
    memset(loan.pixels, 4, 100 * FRAME_BYTES);
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_OK);
    bshm_loan_release(&loan);
    CHECK_EQUAL(sequence, 4);
    CHECK_EQUAL(counters_of(writer).replacements, 1);
    CHECK_EQUAL(counters_of(writer).statistics.published.shared, 4);
    CHECK(is_whole(&before) && bshm_frame_intact(&before));
    bshm_frame after = next_frame(reader);
    CHECK_EQUAL(after.info.sequence, 4);
    CHECK_EQUAL(after.skipped, 0);
    CHECK(is_whole(&after));
    CHECK(memcmp(before.generation, after.generation, sizeof before.generation) != 0);
    bshm_frame_release(&after);
    bshm_frame_release(&before);
    close_window(&old);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- forged pins */

static void forged_pins_cost_memory_and_then_leases_but_no_frame(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(1);
    window shared = open_window();
    (void)put(writer);
    bshm_frame held = newest(reader);
    CHECK(held.pinned && bshm_frame_intact(&held));
    for (uint32_t i = 2; i <= 12; i++) {
        for (uint32_t slot = 0; slot < 5; slot++)
            bshm_store_relaxed(&shared.control->pins[slot].word, BSHM_TOKEN_MASK(3));
        CHECK_EQUAL(put(writer), i);
        CHECK_EQUAL(latest_sequence(&shared), i);
        CHECK_EQUAL(seq_of(&shared, latest_slot(&shared)), 2 * i);
        CHECK_EQUAL(pin_of(&shared, latest_slot(&shared)), 0); /* also of a slot that was given memory just now */
    }
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 5);
    CHECK_EQUAL(counters_of(writer).statistics.dropped.shared, 0);
    CHECK(counters_of(writer).statistics.leases_broken.shared >=
          7); /* 11 frames: two of them got a new slot, and two found a slot that was never published */
    CHECK(!bshm_frame_intact(&held));
    uint8_t copy[FRAME_BYTES];
    CHECK_EQUAL(bshm_frame_copy(&held, copy, sizeof copy), BSHM_E_TORN);
    bshm_frame_release(&held);
    for (uint32_t slot = 0; slot < 5; slot++)
        bshm_store_relaxed(&shared.control->pins[slot].word, 0);
    uint64_t broken = counters_of(writer).statistics.leases_broken.shared;
    for (uint32_t i = 0; i < 5; i++)
        (void)slot_of_next(writer, &shared, 5);
    CHECK_EQUAL(counters_of(writer).statistics.leases_broken.shared, broken);
    bshm_frame again = newest(reader);
    CHECK(again.pinned && is_whole(&again));
    bshm_frame_release(&again);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void the_newest_frame_is_not_written_over_even_by_force(void)
{
    bshm_writer *writer = new_writer(3);
    window shared = open_window();
    uint32_t before = UINT32_MAX;
    for (uint32_t i = 0; i < 12; i++) {
        for (uint32_t slot = 0; slot < 3; slot++)
            bshm_store_relaxed(&shared.control->pins[slot].word, ~BSHM_PIN_WRITING);
        (void)put(writer);
        CHECK(latest_slot(&shared) != before);
        before = latest_slot(&shared);
    }
    close_window(&shared);
    bshm_writer_free(writer);
}

static void bits_that_are_not_tokens_and_a_stale_writing_bit_keep_no_slot(void)
{
    bshm_writer *writer = new_writer(4);
    window shared = open_window();
    for (uint32_t i = 0; i < 6; i++) {
        for (uint32_t slot = 0; slot < 4; slot++)
            if (i == 0 || slot != latest_slot(&shared))
                bshm_store_relaxed(&shared.control->pins[slot].word, ~BSHM_TOKEN_MASK(2));
        CHECK_EQUAL(put(writer), i + 1);
        CHECK_EQUAL(latest_slot(&shared), i % 2);
    }
    CHECK_EQUAL(counters_of(writer).statistics.leases_broken.shared, 0);
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3);
    close_window(&shared);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- what it reports about itself */

static void geometry_may_change_from_frame_to_frame(void)
{
    static const struct {
        uint32_t height, width, channels, item_size, ndim, kind;
    } shapes[] = {
        {1, 1, 1, 1, 2, 'u'}, {48, 64, 1, 1, 2, 'u'},  {16, 64, 3, 1, 3, 'u'},
        {5, 7, 3, 2, 3, 'i'}, {3, 3, 1, 8, 2, 'f'},    {2, 2, 4, 16, 3, 'c'},
        {9, 9, 1, 1, 2, 'b'}, {1, 3072, 1, 1, 2, 'u'}, {3072, 1, 1, 1, 3, 'u'},
    };
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    uint8_t pixels[FRAME_BYTES];
    for (uint32_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        uint64_t row = (uint64_t)shapes[i].width * shapes[i].channels * shapes[i].item_size;
        uint64_t sequence = 0;
        bshm_frame_info info = {.height = shapes[i].height,
                                .width = shapes[i].width,
                                .channels = shapes[i].channels,
                                .item_size = shapes[i].item_size,
                                .ndim = shapes[i].ndim,
                                .kind = shapes[i].kind,
                                .fourcc = 7,
                                .capture_ns = 5};
        memset(pixels, (int)i + 1, sizeof pixels);
        CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, (ptrdiff_t)row, &sequence, &fixture_error), BSHM_OK);
        bshm_frame frame = newest(reader);
        CHECK_EQUAL(frame.info.height, shapes[i].height);
        CHECK_EQUAL(frame.info.width, shapes[i].width);
        CHECK_EQUAL(frame.info.channels, shapes[i].channels);
        CHECK_EQUAL(frame.info.item_size, shapes[i].item_size);
        CHECK_EQUAL(frame.info.ndim, shapes[i].ndim);
        CHECK_EQUAL(frame.info.kind, shapes[i].kind);
        CHECK_EQUAL(frame.info.fourcc, 7);
        CHECK_EQUAL(frame.info.capture_ns, 5);
        CHECK_EQUAL(frame.info.row_stride, row);
        CHECK_EQUAL(frame.info.payload_bytes, row * shapes[i].height);
        CHECK(frame.info.publish_ns > 0 && frame.info.wall_ns > 0);
        CHECK(is_whole(&frame));
        bshm_frame_release(&frame);
    }
    CHECK_EQUAL(counters_of(writer).replacements, 0);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void rows_may_be_padded_or_upside_down_in_the_source(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    uint8_t source[HEIGHT * 2 * WIDTH];
    uint64_t sequence = 0;
    bshm_frame_info info = picture(HEIGHT);
    for (uint32_t i = 0; i < sizeof source; i++)
        source[i] = (uint8_t)(i / (2 * WIDTH));
    CHECK_EQUAL(bshm_writer_write(writer, &info, source, 2 * WIDTH, &sequence, &fixture_error), BSHM_OK);
    bshm_frame frame = newest(reader);
    for (uint32_t row = 0; row < HEIGHT; row++)
        CHECK_EQUAL(((const uint8_t *)frame.pixels)[row * WIDTH + WIDTH - 1], row);
    bshm_frame_release(&frame);
    CHECK_EQUAL(bshm_writer_write(writer, &info, source + (HEIGHT - 1) * 2 * WIDTH, -(ptrdiff_t)(2 * WIDTH), &sequence,
                                  &fixture_error),
                BSHM_OK);
    frame = newest(reader);
    for (uint32_t row = 0; row < HEIGHT; row++)
        CHECK_EQUAL(((const uint8_t *)frame.pixels)[row * WIDTH], HEIGHT - 1 - row);
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void anything_that_cannot_be_a_frame_is_refused_and_uses_no_number(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_frame_info wrong[] = {picture(0), picture(HEIGHT), picture(HEIGHT), picture(HEIGHT), picture(HEIGHT)};
    uint8_t pixels[FRAME_BYTES] = {0};
    bshm_loan loan;
    uint64_t sequence = 0;
    wrong[1].width = 0;
    wrong[2].ndim = 4;
    wrong[3].kind = 'x';
    wrong[4].item_size = 3;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQUAL(bshm_writer_write(writer, &wrong[i], pixels, WIDTH, &sequence, &fixture_error), BSHM_E_SHAPE);
        CHECK_EQUAL(bshm_writer_write(writer, &wrong[i], pixels, WIDTH, &sequence, NULL), BSHM_E_SHAPE);
        CHECK_EQUAL(bshm_writer_loan(writer, &wrong[i], &loan, &fixture_error), BSHM_E_SHAPE);
    }
    CHECK_EQUAL(put(writer), 1);
    bshm_writer_free(writer);
}

static void texts_are_whole_again_after_a_report_though_their_count_was_odd(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    window shared = open_window();
    bshm_source_view view;
    bshm_source_report report;
    bshm_store_relaxed(&shared.header->statistics.text_seq, 7);
    bshm_source_report_init(&report);
    report.reason = "all is well";
    CHECK_EQUAL(bshm_writer_report(writer, &report, &fixture_error), BSHM_OK);
    CHECK_EQUAL(bshm_load_relaxed(&shared.header->statistics.text_seq) & 1, 0); /* odd: readers wait for its end */
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(bshm_reader_source(reader, &view), BSHM_ATTACHED);
    CHECK_CONTAINS(view.reason, "all is well");
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void reports_reach_the_readers_and_the_next_generation(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(2);
    bshm_source_view view;
    bshm_source_report report;
    bshm_source_report_init(&report);
    report.statistics.captured.shared = 5;
    report.statistics.reconnects.shared = 4;
    report.statistics.stalls.shared = 3;
    report.statistics.loops.shared = 2;
    report.statistics.fps_millihertz.shared = 29970;
    report.statistics.source_state.shared = BSHM_SOURCE_STREAMING;
    report.reason = "all is well";
    report.backend = "a camera";
    CHECK_EQUAL(bshm_writer_report(writer, &report, &fixture_error), BSHM_OK);
    bshm_source_report_init(&report);
    report.statistics.reconnects.shared = 6;
    CHECK_EQUAL(bshm_writer_report(writer, &report, NULL), BSHM_OK);
    (void)put(writer);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_OK);
    for (int generation = 0; generation < 2; generation++) {
        CHECK_EQUAL(bshm_reader_source(reader, &view), BSHM_ATTACHED);
        CHECK_EQUAL(view.statistics.captured.shared, 5);
        CHECK_EQUAL(view.statistics.reconnects.shared, 6);
        CHECK_EQUAL(view.statistics.stalls.shared, 3);
        CHECK_EQUAL(view.statistics.loops.shared, 2);
        CHECK_EQUAL(view.statistics.fps_millihertz.shared, 29970);
        CHECK_EQUAL(view.statistics.source_state.shared, BSHM_SOURCE_STREAMING);
        CHECK(strcmp(view.reason, "all is well") == 0 && strcmp(view.backend, "a camera") == 0);
        CHECK(view.statistics.last_capture_ns.shared > 1); /* when it was published; it was captured at 1 */
        CHECK(view.statistics.heartbeat_ns.shared > 0);
        bshm_frame_info info = picture(100 * HEIGHT);
        bshm_loan loan;
        REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK); /* replaces the segment */
        bshm_writer_cancel(writer, &loan);
        bshm_loan_release(&loan);
        bshm_reader_free(reader);
        reader = new_reader(2);
        CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_OK);
        /* What the writer counts is summed over its segments; reported values are not. */
        CHECK_EQUAL(counters_of(writer).statistics.published.shared, 1);
        CHECK_EQUAL(counters_of(writer).statistics.captured.shared, 5);
    }
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_closed_writer_says_so_and_its_name_is_free(void)
{
    bshm_writer *writer = new_writer(4);
    window shared = open_window();
    bshm_frame_info info = picture(HEIGHT);
    bshm_source_report report;
    uint8_t pixels[FRAME_BYTES] = {0};
    uint64_t sequence = 0;
    bshm_os_info found;
    bshm_source_report_init(&report);
    (void)put(writer);
    bshm_writer_close(writer);
    bshm_writer_close(writer);
    CHECK_EQUAL(bshm_load_acquire32(&shared.header->publication.state), BSHM_STATE_CLOSED);
    CHECK(bshm_os_info_at(fixture_path(), &found) < 0);
    CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error), BSHM_E_CLOSED);
    CHECK_CONTAINS(fixture_error.message, "closed");
    CHECK_EQUAL(bshm_writer_report(writer, &report, &fixture_error), BSHM_E_CLOSED);
    CHECK_EQUAL(counters_of(writer).statistics.published.shared, 1);
    CHECK_EQUAL(counters_of(writer).sequence, 1);
    bshm_writer *next = new_writer(4);
    CHECK_EQUAL(put(next), 1); /* after a clean close numbers begin at 1 */
    close_window(&shared);
    bshm_writer_free(next);
    bshm_writer_free(writer);
    bshm_writer_free(NULL);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(a_writer_alone_fills_two_slots_in_turn);
    RUN(two_slots_take_turns_and_a_held_one_is_skipped);
    RUN(another_slot_is_backed_only_when_leases_leave_no_other);
    RUN(the_strict_triple_buffer_never_waits_and_never_breaks_a_lease);
    RUN(a_slot_pinned_by_a_dead_reader_is_left_alone_until_the_next_owner_of_its_token);
    RUN(a_cancelled_loan_leaves_its_number_and_its_place_and_an_unreadable_slot);
    RUN(there_is_one_loan_at_a_time_and_no_writing_during_it);
    RUN(a_loan_publishes_what_was_drawn_and_may_become_smaller);
    RUN(closing_cancels_the_loan_and_leaves_its_memory_until_it_is_released);
    RUN(a_loan_of_a_larger_frame_comes_from_a_larger_segment_and_the_old_frames_stay);
    RUN(forged_pins_cost_memory_and_then_leases_but_no_frame);
    RUN(the_newest_frame_is_not_written_over_even_by_force);
    RUN(bits_that_are_not_tokens_and_a_stale_writing_bit_keep_no_slot);
    RUN(geometry_may_change_from_frame_to_frame);
    RUN(rows_may_be_padded_or_upside_down_in_the_source);
    RUN(anything_that_cannot_be_a_frame_is_refused_and_uses_no_number);
    RUN(texts_are_whole_again_after_a_report_though_their_count_was_odd);
    RUN(reports_reach_the_readers_and_the_next_generation);
    RUN(a_closed_writer_says_so_and_its_name_is_free);
    return check_summary();
}
