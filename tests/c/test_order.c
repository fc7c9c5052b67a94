/* The order in which writer and readers take the steps: the sources are included with macros that record each step.
 *
 * test_steps.c tests that each step does what it must; test_interleavings.c, that no order of *several* participants
 * breaks anything. This program tests that each participant keeps the order which both rely on.
 */
#include "copy.h"
#include "platform.h"
#include "protocol.h"

#include <stdio.h>
#include <string.h>

static char steps_told[2000];

static void tell(const char *step)
{
    size_t length = strlen(steps_told);
    (void)snprintf(steps_told + length, sizeof steps_told - length, "%s%s", length ? " " : "", step);
}

static void tell_lock(const char *what, uint64_t byte)
{
    char step[40];
    (void)snprintf(step, sizeof step, "%s-%s", what,
                   byte >= BSHM_READER_BYTE  ? "place"
                   : byte >= BSHM_TOKEN_BYTE ? "token"
                                             : "writer");
    tell(step);
}

/* A macro's own name is not expanded inside it. */
#define bshm_step_claim_slot(...)       (tell("claim"), (bshm_step_claim_slot)(__VA_ARGS__))
#define bshm_step_begin_write(...)      (tell("begin-write"), (bshm_step_begin_write)(__VA_ARGS__))
#define bshm_step_store_descriptor(...) (tell("store-descriptor"), (bshm_step_store_descriptor)(__VA_ARGS__))
#define bshm_step_end_write(...)        (tell("end-write"), (bshm_step_end_write)(__VA_ARGS__))
#define bshm_step_clear_writing(...)    (tell("clear-writing"), (bshm_step_clear_writing)(__VA_ARGS__))
#define bshm_step_store_latest(...)     (tell("store-latest"), (bshm_step_store_latest)(__VA_ARGS__))
#define bshm_step_bump_notify(...)      (tell("bump-notify"), (bshm_step_bump_notify)(__VA_ARGS__))
#define bshm_step_set_state(...)        (tell("state"), (bshm_step_set_state)(__VA_ARGS__))
#define bshm_step_clear_token(...)      (tell("clear-token"), (bshm_step_clear_token)(__VA_ARGS__))
#define bshm_step_fence_token()         (tell("fence-token"), (bshm_step_fence_token)())
#define bshm_step_load_latest(...)      (tell("load-latest"), (bshm_step_load_latest)(__VA_ARGS__))
#define bshm_step_pin(...)              (tell("pin"), (bshm_step_pin)(__VA_ARGS__))
#define bshm_step_load_descriptor(...)  (tell("load-descriptor"), (bshm_step_load_descriptor)(__VA_ARGS__))
#define bshm_step_seq_unchanged(...)    (tell("seq-unchanged"), (bshm_step_seq_unchanged)(__VA_ARGS__))
#define bshm_step_unpin(...)            (tell("unpin"), (bshm_step_unpin)(__VA_ARGS__))
#define bshm_seize_acquire(...)         (tell("seize"), (bshm_seize_acquire)(__VA_ARGS__))
#define bshm_copy_rows(...)             (tell("pixels"), (bshm_copy_rows)(__VA_ARGS__))
#define bshm_os_wake_all(...)           (tell("wake"), (bshm_os_wake_all)(__VA_ARGS__))
#define bshm_os_unlink(...)             (tell("unlink"), (bshm_os_unlink)(__VA_ARGS__))
#define bshm_os_rename(...)             (tell("rename"), (bshm_os_rename)(__VA_ARGS__))
#define bshm_os_allocate(...)           (tell("allocate"), (bshm_os_allocate)(__VA_ARGS__))
#define bshm_os_punch(...)              (tell("punch"), (bshm_os_punch)(__VA_ARGS__))
#define bshm_os_set_mode(...)           (tell("mode"), (bshm_os_set_mode)(__VA_ARGS__))
#define bshm_os_lock(file, byte, how)   (tell_lock("lock", (byte)), (bshm_os_lock)(file, byte, how))
#define bshm_os_unlock(file, byte)      (tell_lock("unlock", (byte)), (bshm_os_unlock)(file, byte))

#include "attachment.c"
#include "frame.c"
#include "names.c"
#include "segment.c"
#include "writer.c"

#include "fixture.h"

/* The steps recorded since the last call. */
static const char *since(void)
{
    static char last[sizeof steps_told];
    memcpy(last, steps_told, sizeof last);
    steps_told[0] = '\0';
    return last;
}

static void expect(const char *steps)
{
    const char *found = since();
    if (!CHECK(strcmp(found, steps) == 0))
        printf("      found:    %s\n      expected: %s\n", found, steps);
}

#define WRITTEN "claim begin-write pixels store-descriptor end-write clear-writing store-latest bump-notify wake"

/* ---------------------------------------------------------------- the writer */

static void a_frame_is_written_in_the_order_of_the_specification(void)
{
    bshm_writer *writer = new_writer(4);
    (void)since();
    (void)put(writer);
    expect(WRITTEN);
    (void)put(writer);
    (void)put(writer);
    expect(WRITTEN " " WRITTEN);
    bshm_writer_free(writer);
}

static void a_loan_is_begun_when_lent_and_announced_when_published(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_frame_info info = picture(HEIGHT);
    bshm_loan loan;
    uint64_t sequence = 0;
    (void)since();
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    expect("claim begin-write");
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_OK);
    expect("store-descriptor end-write clear-writing store-latest bump-notify wake");
    bshm_loan_release(&loan);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    (void)since();
    bshm_writer_cancel(writer, &loan);
    expect("clear-writing");
    bshm_loan_release(&loan);
    bshm_writer_free(writer);
}

static void a_slot_is_backed_before_it_is_claimed_and_only_after_every_other_was_tried(void)
{
    bshm_writer *writer = new_writer(5);
    window shared = open_window();
    for (uint32_t token = 0; token < 3; token++) {
        (void)put(writer);
        CHECK(bshm_step_pin(shared.control, latest_slot(&shared), token));
    }
    (void)since();
    (void)put(writer);
    expect("claim claim allocate claim begin-write pixels store-descriptor end-write clear-writing store-latest "
           "bump-notify wake");
    close_window(&shared);
    bshm_writer_free(writer);
}

static void only_after_as_many_passes_as_there_are_slots_is_one_seized(void)
{
    bshm_writer *writer = new_writer(3);
    window shared = open_window();
    (void)put(writer);
    for (uint32_t slot = 0; slot < 3; slot++)
        bshm_store_relaxed(&shared.control->pins[slot].word, 1);
    (void)since();
    (void)put(writer);
    expect("claim claim claim claim claim claim seize begin-write pixels store-descriptor end-write clear-writing "
           "store-latest bump-notify wake");
    close_window(&shared);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- life cycle */

static void a_new_segment_is_locked_before_others_may_open_it_and_complete_before_it_has_a_name(void)
{
    (void)since();
    bshm_writer *writer = new_writer(4);
    expect("lock-writer mode allocate state rename");
    bshm_writer_free(writer);
}

static void closing_wakes_readers_removes_the_name_and_only_then_releases_the_lock(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_frame_info info = picture(HEIGHT);
    bshm_loan loan;
    (void)since();
    bshm_writer_free(writer);
    expect("state wake unlink unlock-writer");
    writer = new_writer(4);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    (void)since();
    bshm_writer_free(writer);
    expect("clear-writing state wake unlink unlock-writer");
    bshm_loan_release(&loan);
}

static void a_replaced_segment_is_retired_after_its_successor_has_the_name(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_frame_info info = picture(50 * HEIGHT);
    bshm_loan loan;
    (void)since();
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    expect("lock-writer mode allocate state rename rename state wake unlock-writer claim begin-write");
    bshm_loan_release(&loan);
    bshm_writer_free(writer);
}

static void a_dead_writers_segment_is_locked_replaced_retired_and_released(void)
{
    leave_dead_segment(4, 2);
    (void)since();
    bshm_writer *writer = new_writer(4);
    /* first without taking memory; then again with the temporary ready */
    expect(
        "lock-writer unlock-writer lock-writer mode allocate state rename lock-writer rename state wake unlock-writer");
    bshm_writer_free(writer);
    leave_dead_segment(4, 2);
    (void)since();
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_REMOVED);
    expect("lock-writer unlink unlock-writer");
}

/* ---------------------------------------------------------------- readers */

static void a_lease_is_taken_in_the_order_of_the_specification(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(2);
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    (void)since();
    bshm_frame first = newest(reader);
    /* The first load of `latest` is for a pin that could be shared. */
    expect("load-latest lock-token clear-token fence-token load-latest pin load-descriptor");
    bshm_frame again = newest(reader);
    expect("load-latest load-descriptor");
    bshm_frame_release(&again);
    expect("");
    bshm_frame_release(&first);
    expect("unpin");
    first = newest(reader);
    expect("load-latest fence-token load-latest pin load-descriptor"); /* a token that was kept needs no clearing */
    CHECK(bshm_frame_intact(&first));
    expect("seq-unchanged");
    bshm_frame_release(&first);
    (void)since();
    bshm_reader_free(reader);
    expect("unlock-place unlock-token");
    bshm_writer_free(writer);
}

static void a_copy_takes_a_transient_token_and_releases_it_after_the_pin(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(0);
    uint8_t pixels[FRAME_BYTES];
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    (void)since();
    bshm_frame frame = newest(reader);
    expect("load-latest lock-token clear-token fence-token load-latest pin load-descriptor");
    CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_OK);
    expect("pixels seq-unchanged");
    bshm_frame_release(&frame);
    expect("unpin unlock-token");
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void without_a_token_a_copy_looks_at_seq_before_and_after(void)
{
    bshm_writer *writer = new_writer(4); /* two tokens */
    bshm_reader *reader = new_reader(1);
    uint8_t pixels[FRAME_BYTES];
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    bshm_os_file others = take_all_tokens(4);
    (void)since();
    bshm_frame frame = newest(reader);
    expect("load-latest lock-token lock-token load-latest load-descriptor seq-unchanged");
    CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_OK);
    expect("seq-unchanged");
    bshm_frame_release(&frame);
    expect("");
    bshm_os_close(others);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_pin_that_was_too_late_is_withdrawn_before_the_next_look(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(0); /* so that its token is a transient one */
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    bshm_step_begin_write(shared.header, 0, 1); /* odd, and stays so */
    (void)since();
    CHECK_EQUAL(bshm_reader_acquire(reader, 0, &frame, &fixture_error), BSHM_NOTHING);
    const char *found = since();
    static const char one[] = "fence-token load-latest pin load-descriptor unpin";
    const char *attempt = strstr(found, one);
    unsigned attempts = 0;
    for (; attempt; attempts++)
        attempt = strstr(attempt + sizeof one - 1, one);
    if (!CHECK_EQUAL(attempts, BSHM_READ_ATTEMPTS) ||
        !CHECK(strstr(found, "unpin unlock-token load-latest load-descriptor") != NULL))
        printf("      found: %s\n", found); /* the token is released before the copy without a pin is tried */
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(a_frame_is_written_in_the_order_of_the_specification);
    RUN(a_loan_is_begun_when_lent_and_announced_when_published);
    RUN(a_slot_is_backed_before_it_is_claimed_and_only_after_every_other_was_tried);
    RUN(only_after_as_many_passes_as_there_are_slots_is_one_seized);
    RUN(a_new_segment_is_locked_before_others_may_open_it_and_complete_before_it_has_a_name);
    RUN(closing_wakes_readers_removes_the_name_and_only_then_releases_the_lock);
    RUN(a_replaced_segment_is_retired_after_its_successor_has_the_name);
    RUN(a_dead_writers_segment_is_locked_replaced_retired_and_released);
    RUN(a_lease_is_taken_in_the_order_of_the_specification);
    RUN(a_copy_takes_a_transient_token_and_releases_it_after_the_pin);
    RUN(without_a_token_a_copy_looks_at_seq_before_and_after);
    RUN(a_pin_that_was_too_late_is_withdrawn_before_the_next_look);
    return check_summary();
}
