/* The window: which slots the writer leaves alone, and how readers get the frames in it, one after another, by number
 * and by time. */
#include "fixture.h"

#define SLOTS   4u
#define HISTORY 3u
#define ALL     (SLOTS + HISTORY)

static bshm_writer *writer;
static bshm_reader *reader;
static bshm_frame frame;

static void begin(void)
{
    writer = new_writer_with_history(SLOTS, HISTORY);
    reader = new_reader(2);
}

static void end(void)
{
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void put_some(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        (void)put(writer);
}

static int next(uint32_t flags)
{
    frame = (bshm_frame){0};
    return bshm_reader_acquire_next(reader, flags, &frame, &fixture_error);
}

static int number(uint64_t wanted, uint32_t flags)
{
    frame = (bshm_frame){0};
    return bshm_reader_acquire_number(reader, wanted, flags, &frame, &fixture_error);
}

static int nearest(int64_t capture_ns)
{
    frame = (bshm_frame){0};
    return bshm_reader_acquire_nearest(reader, capture_ns, 0, &frame, &fixture_error);
}

/* The frame is this one, whole, pinned. Releases it. */
static void is_frame(uint64_t sequence, uint64_t skipped)
{
    CHECK_EQUAL(frame.info.sequence, sequence);
    CHECK_EQUAL(frame.skipped, skipped);
    CHECK(frame.pinned && is_whole(&frame) && bshm_frame_intact(&frame));
    bshm_frame_release(&frame);
}

static void next_is(uint64_t sequence, uint64_t skipped)
{
    if (CHECK_EQUAL(next(0), BSHM_FOUND))
        is_frame(sequence, skipped);
}

/* Waits: a reader looks for a successor of its segment only every few milliseconds. */
static void next_will_be(uint64_t sequence, uint64_t skipped)
{
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    int rc = next(0);
    while (rc == BSHM_NOTHING && bshm_now_ns() < deadline) {
        bshm_reader_wait(reader, 10000000);
        rc = next(0);
    }
    if (CHECK_EQUAL(rc, BSHM_FOUND))
        is_frame(sequence, skipped);
}

/* ---------------------------------------------------------------- the writer */

static void check_window(const window *shared)
{
    uint64_t newest_number = latest_sequence(shared);
    for (uint64_t n = newest_number; n > 0 && n + HISTORY >= newest_number; n--) {
        unsigned places = 0;
        for (uint32_t slot = 0; slot < ALL; slot++)
            places += seq_of(shared, slot) == 2 * n && !(pin_of(shared, slot) & BSHM_PIN_WRITING);
        CHECK_EQUAL(places, 1);
    }
}

static void the_frames_of_the_window_stay_where_they_are(void)
{
    begin();
    window shared = open_window();
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3 + HISTORY);
    for (unsigned i = 0; i < 30; i++) {
        put_some(1);
        check_window(&shared);
    }
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3 + HISTORY); /* no reader holds a frame */
    close_window(&shared);
    end();
}

static void a_cancelled_loan_touches_no_frame_of_the_window_and_leaves_no_hole(void)
{
    begin();
    window shared = open_window();
    put_some(1);
    next_is(1, 0);
    for (unsigned i = 0; i < 10; i++) {
        bshm_frame_info info = picture(HEIGHT);
        bshm_loan loan;
        REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
        check_window(&shared);
        memset(loan.pixels, 0xEE, FRAME_BYTES);
        bshm_writer_cancel(writer, &loan);
        bshm_loan_release(&loan);
        put_some(1);
        check_window(&shared);
        next_is(i + 2, 0);
    }
    close_window(&shared);
    end();
}

static void all_tokens_in_use_leave_the_writer_a_slot(void)
{
    bshm_frame held[SLOTS - 2];
    begin();
    bshm_reader *greedy = new_reader(SLOTS - 2);
    window shared = open_window();
    for (unsigned i = 0; i < SLOTS - 2; i++) {
        put_some(1);
        held[i] = newest(greedy);
        CHECK(held[i].pinned);
    }
    for (unsigned i = 0; i < 20; i++) {
        put_some(1);
        check_window(&shared);
    }
    for (unsigned i = 0; i < SLOTS - 2; i++) {
        CHECK(is_whole(&held[i]) && bshm_frame_intact(&held[i]));
        bshm_frame_release(&held[i]);
    }
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, ALL);
    CHECK_EQUAL(counters_of(writer).statistics.leases_broken.shared, 0);
    CHECK_EQUAL(counters_of(writer).statistics.dropped.shared, 0);
    close_window(&shared);
    bshm_reader_free(greedy);
    end();
}

/* ---------------------------------------------------------------- one after another */

static void frames_are_read_in_turn_and_those_that_fell_out_are_counted(void)
{
    begin();
    CHECK_EQUAL(next(0), BSHM_NOTHING);
    put_some(3);
    next_is(3, 0); /* the first is the newest */
    CHECK_EQUAL(next(0), BSHM_NOTHING);
    put_some(HISTORY + 1);
    for (uint64_t n = 4; n <= 7; n++)
        next_is(n, 0);
    CHECK_EQUAL(next(0), BSHM_NOTHING);
    put_some(HISTORY + 6);
    for (uint64_t n = 13; n <= 16; n++)
        next_is(n, n == 13 ? 5 : 0);
    CHECK_EQUAL(next(0), BSHM_NOTHING);
    bshm_reader_counters counters;
    bshm_reader_get_counters(reader, &counters);
    CHECK_EQUAL(counters.frames, 9);
    CHECK_EQUAL(counters.skipped, 5);
    end();
}

static void the_newest_frame_may_be_read_in_between(void)
{
    begin();
    put_some(1);
    next_is(1, 0);
    put_some(3);
    next_is(2, 0);
    REQUIRE(bshm_reader_acquire(reader, 0, &frame, &fixture_error) == BSHM_FOUND);
    is_frame(4, 1);
    CHECK_EQUAL(next(0), BSHM_NOTHING);
    put_some(1);
    next_is(5, 0);
    end();
}

static void held_frames_of_the_window_never_change(void)
{
    bshm_frame held[2];
    begin();
    put_some(4);
    REQUIRE(number(1, 0) == BSHM_FOUND);
    held[0] = frame;
    REQUIRE(number(3, 0) == BSHM_FOUND);
    held[1] = frame;
    put_some(30);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(held[i].pinned && is_whole(&held[i]) && bshm_frame_intact(&held[i]));
        bshm_frame_release(&held[i]);
    }
    end();
}

static void without_a_token_frames_of_the_window_are_copied(void)
{
    uint8_t pixels[FRAME_BYTES];
    begin();
    put_some(1);
    next_is(1, 0);
    bshm_reader_close(reader);
    bshm_reader_free(reader);
    bshm_os_file taken = take_all_tokens(SLOTS);
    reader = new_reader(2);
    REQUIRE(next(0) == BSHM_FOUND);
    CHECK(frame.to_copy && !frame.pinned);
    bshm_frame_release(&frame);
    put_some(HISTORY + 1);
    for (uint64_t n = 2; n <= HISTORY + 2; n++) {
        REQUIRE(next(0) == BSHM_FOUND);
        CHECK_EQUAL(frame.info.sequence, n);
        CHECK(frame.to_copy && !frame.pinned);
        CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_OK);
        CHECK_EQUAL(pixels[0], n);
        bshm_frame_release(&frame);
    }
    put_some(1);
    REQUIRE(next(0) == BSHM_FOUND); /* and torn: it fell out of the window during the copy */
    put_some(ALL);
    CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_E_TORN);
    bshm_reader_give_back(reader, &frame);
    bshm_frame_release(&frame);
    REQUIRE(next(0) == BSHM_FOUND);
    CHECK_EQUAL(frame.info.sequence, HISTORY + 3 + ALL - HISTORY);
    CHECK_EQUAL(frame.skipped, frame.info.sequence - (HISTORY + 2) - 1); /* the torn one too */
    bshm_frame_release(&frame);
    bshm_os_close(taken);
    end();
}

static void a_slot_claimed_or_cancelled_in_between_is_not_taken_for_a_frame(void)
{
    begin();
    window shared = open_window();
    put_some(4);
    next_is(4, 0);
    put_some(3); /* the window: 4 to 7 */
    for (uint32_t slot = 0; slot < ALL; slot++)
        if (seq_of(&shared, slot) == 2 * 5)
            bshm_store_relaxed(&shared.header->descriptors[slot].seq, 2 * 5 - 1); /* as a take-over that punches */
    next_is(6, 1);
    CHECK_EQUAL(number(5, 0), BSHM_NOTHING);
    next_is(7, 0);
    close_window(&shared);
    end();
}

/* ---------------------------------------------------------------- by number and by time */

static void a_frame_is_found_by_its_number_as_long_as_it_is_in_the_window(void)
{
    begin();
    CHECK_EQUAL(number(1, 0), BSHM_NOTHING);
    put_some(2);
    CHECK_EQUAL(number(0, 0), BSHM_NOTHING);
    CHECK_EQUAL(number(3, 0), BSHM_NOTHING);
    put_some(8);
    CHECK_EQUAL(number(6, 0), BSHM_NOTHING);
    for (uint64_t n = 7; n <= 10; n++)
        if (CHECK_EQUAL(number(n, 0), BSHM_FOUND))
            is_frame(n, 0);
    CHECK_EQUAL(number(11, 0), BSHM_NOTHING);
    CHECK_EQUAL(number(UINT64_MAX, 0), BSHM_NOTHING);
    next_is(10, 0); /* none of them counts as seen */
    end();
}

static void a_frame_is_found_by_the_time_it_was_captured(void)
{
    static const int64_t captured[] = {1000, 2000, 3000, 3500, 5000, 5001};
    uint8_t pixels[FRAME_BYTES];
    begin();
    CHECK_EQUAL(nearest(1000), BSHM_NOTHING);
    for (unsigned i = 0; i < 6; i++) {
        uint64_t sequence;
        bshm_frame_info info = picture(HEIGHT);
        info.capture_ns = captured[i];
        memset(pixels, (int)(i + 1), sizeof pixels);
        REQUIRE(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error) == BSHM_OK);
    }
    static const struct {
        int64_t asked;
        uint64_t found;
    } cases[] = {{3000, 3}, {3249, 3}, {3250, 3}, {3251, 4},     {4250, 4},
                 {4251, 5}, {5000, 5}, {5001, 6}, {INT64_MAX, 6}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (CHECK_EQUAL(nearest(cases[i].asked), BSHM_FOUND))
            is_frame(cases[i].found, 0);
    CHECK_EQUAL(nearest(2999), BSHM_NOTHING); /* the nearest one may have fallen out */
    CHECK_EQUAL(nearest(INT64_MIN), BSHM_NOTHING);
    end();
}

/* ---------------------------------------------------------------- other segments */

static void put_taller(uint32_t height)
{
    static uint8_t pixels[16 * FRAME_BYTES];
    uint64_t sequence;
    bshm_frame_info info = picture(height);
    memset(pixels, (int)((counters_of(writer).sequence + 1) & 0xFF), sizeof pixels);
    REQUIRE(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error) == BSHM_OK);
}

static void the_old_window_is_finished_before_the_reader_moves_on(void)
{
    begin();
    put_some(1);
    next_is(1, 0);
    put_some(3);
    put_taller(4 * HEIGHT); /* frame 5, in another segment, with the same history */
    CHECK_EQUAL(counters_of(writer).replacements, 1);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_LIVE);
    CHECK_EQUAL(counters_of(writer).statistics.backed_slots.shared, 3 + HISTORY);
    put_some(2);
    next_is(2, 0);
    for (unsigned i = 0; i < 4; i++) { /* looking up a frame in between does not move the reader */
        CHECK_EQUAL(number(5, 0), BSHM_NOTHING);
        bshm_os_sleep(6000000);
    }
    next_is(3, 0);
    next_is(4, 0);
    bshm_os_sleep(6000000);
    if (CHECK_EQUAL(number(3, 0), BSHM_FOUND)) /* nor does it after the last one: only read_next moves on */
        is_frame(3, 0);
    for (uint64_t n = 5; n <= 7; n++)
        next_will_be(n, 0);
    CHECK_EQUAL(bshm_reader_history(reader), HISTORY);
    end();
}

static void a_reader_that_only_looks_up_frames_moves_on_immediately(void)
{
    begin();
    put_some(4);
    REQUIRE(number(4, 0) == BSHM_FOUND);
    bshm_frame_release(&frame);
    put_taller(4 * HEIGHT);
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    while (number(5, 0) == BSHM_NOTHING && bshm_now_ns() < deadline)
        bshm_os_sleep(1000000);
    is_frame(5, 0);
    end();
}

static bool is_of_this_writer(void)
{
    bool is = memcmp(frame.generation, counters_of(writer).generation, sizeof frame.generation) == 0;
    bshm_frame_release(&frame);
    return is;
}

/* Whether look-ups move to this writer's segment: by this number, or, if it is 0, by the latest time. */
static bool look_ups_move(uint64_t wanted)
{
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    bool moved = false;
    while (!moved && bshm_now_ns() < deadline) {
        bshm_os_sleep(1000000);
        moved = (wanted ? number(wanted, 0) : nearest(INT64_MAX)) == BSHM_FOUND && is_of_this_writer();
    }
    return moved;
}

static void frames_kept_by_an_ended_segment_do_not_hide_its_successor(void)
{
    begin();
    bshm_reader *other = new_reader(2);
    put_some(4);
    REQUIRE(nearest(INT64_MAX) == BSHM_FOUND && is_of_this_writer());
    bshm_writer_free(writer);
    if (CHECK_EQUAL(nearest(INT64_MAX), BSHM_FOUND)) /* no successor yet */
        bshm_frame_release(&frame);
    writer = new_writer_with_history(SLOTS, HISTORY);
    put_some(4); /* the same numbers */
    CHECK(look_ups_move(0));
    bshm_reader_free(reader);
    reader = other;
    REQUIRE(number(3, 0) == BSHM_FOUND && is_of_this_writer());
    bshm_writer_free(writer);
    writer = new_writer_with_history(SLOTS, HISTORY);
    put_some(4);
    CHECK(look_ups_move(3));
    end();
}

static void a_reader_in_turn_looks_up_later_times_in_the_successor(void)
{
    begin();
    put_some(4);
    next_is(4, 0);
    bshm_writer_free(writer);
    writer = new_writer_with_history(SLOTS, HISTORY);
    put_some(4);
    CHECK(number(3, 0) == BSHM_FOUND && !is_of_this_writer()); /* what came before its frame */
    CHECK(look_ups_move(0));
    end();
}

static void unobtainable_frames_do_not_keep_a_waiting_reader_busy(void)
{
    begin();
    window shared = open_window();
    put_some(1);
    next_is(1, 0);
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(9, 1)); /* no frame was published since */
    int64_t deadline = bshm_now_ns() + 100000000;
    unsigned tries = 0;
    while (bshm_now_ns() < deadline) {
        CHECK_EQUAL(next(0), BSHM_NOTHING);
        bshm_reader_wait(reader, deadline - bshm_now_ns());
        tries++;
    }
    printf("    %u tries in 100 ms\n", tries);
    CHECK(tries < 1000);
    close_window(&shared);
    end();
}

static void without_history_the_next_frame_is_the_newest(void)
{
    writer = new_writer(SLOTS);
    reader = new_reader(2);
    CHECK_EQUAL(bshm_reader_history(reader), -1);
    put_some(2);
    next_is(2, 0);
    CHECK_EQUAL(bshm_reader_history(reader), 0);
    put_some(3);
    next_is(5, 2);
    CHECK_EQUAL(number(4, 0), BSHM_NOTHING);
    REQUIRE(number(5, 0) == BSHM_FOUND);
    is_frame(5, 0);
    end();
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(the_frames_of_the_window_stay_where_they_are);
    RUN(a_cancelled_loan_touches_no_frame_of_the_window_and_leaves_no_hole);
    RUN(all_tokens_in_use_leave_the_writer_a_slot);
    RUN(frames_are_read_in_turn_and_those_that_fell_out_are_counted);
    RUN(the_newest_frame_may_be_read_in_between);
    RUN(held_frames_of_the_window_never_change);
    RUN(without_a_token_frames_of_the_window_are_copied);
    RUN(a_slot_claimed_or_cancelled_in_between_is_not_taken_for_a_frame);
    RUN(a_frame_is_found_by_its_number_as_long_as_it_is_in_the_window);
    RUN(a_frame_is_found_by_the_time_it_was_captured);
    RUN(the_old_window_is_finished_before_the_reader_moves_on);
    RUN(a_reader_that_only_looks_up_frames_moves_on_immediately);
    RUN(frames_kept_by_an_ended_segment_do_not_hide_its_successor);
    RUN(a_reader_in_turn_looks_up_later_times_in_the_successor);
    RUN(unobtainable_frames_do_not_keep_a_waiting_reader_busy);
    RUN(without_history_the_next_frame_is_the_newest);
    return check_summary();
}
