/* In which order the writer and the readers take the steps: the sources are included with each step telling its name.
 *
 * That each step does what it must is for test_steps.c, that no order of *several* participants breaks anything for
 * test_interleavings.c; here it is that each participant keeps to the order which both of them suppose. */
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

/* A macro's own name is not expanded again inside of it. */
#define bshm_step_claim(...)         (tell("claim"), (bshm_step_claim)(__VA_ARGS__))
#define bshm_step_begin(...)         (tell("begin"), (bshm_step_begin)(__VA_ARGS__))
#define bshm_step_describe(...)      (tell("describe"), (bshm_step_describe)(__VA_ARGS__))
#define bshm_step_complete(...)      (tell("complete"), (bshm_step_complete)(__VA_ARGS__))
#define bshm_step_let_go(...)        (tell("let-go"), (bshm_step_let_go)(__VA_ARGS__))
#define bshm_step_show(...)          (tell("show"), (bshm_step_show)(__VA_ARGS__))
#define bshm_step_notify(...)        (tell("notify"), (bshm_step_notify)(__VA_ARGS__))
#define bshm_step_set_state(...)     (tell("state"), (bshm_step_set_state)(__VA_ARGS__))
#define bshm_step_clear_token(...)   (tell("clear"), (bshm_step_clear_token)(__VA_ARGS__))
#define bshm_step_own()              (tell("own"), (bshm_step_own)())
#define bshm_step_look(...)          (tell("look"), (bshm_step_look)(__VA_ARGS__))
#define bshm_step_pin(...)           (tell("pin"), (bshm_step_pin)(__VA_ARGS__))
#define bshm_step_describe_read(...) (tell("read"), (bshm_step_describe_read)(__VA_ARGS__))
#define bshm_step_unchanged(...)     (tell("unchanged"), (bshm_step_unchanged)(__VA_ARGS__))
#define bshm_step_unpin(...)         (tell("unpin"), (bshm_step_unpin)(__VA_ARGS__))
#define bshm_seize_acquire(...)      (tell("seize"), (bshm_seize_acquire)(__VA_ARGS__))
#define bshm_copy_rows(...)          (tell("pixels"), (bshm_copy_rows)(__VA_ARGS__))
#define plat_wake_all(...)           (tell("wake"), (plat_wake_all)(__VA_ARGS__))
#define plat_unlink(...)             (tell("unlink"), (plat_unlink)(__VA_ARGS__))
#define plat_rename(...)             (tell("rename"), (plat_rename)(__VA_ARGS__))
#define plat_back(...)               (tell("back"), (plat_back)(__VA_ARGS__))
#define plat_unback(...)             (tell("unback"), (plat_unback)(__VA_ARGS__))
#define plat_set_mode(...)           (tell("mode"), (plat_set_mode)(__VA_ARGS__))
#define plat_lock(file, byte, how)   (tell_lock("lock", (byte)), (plat_lock)(file, byte, how))
#define plat_unlock(file, byte)      (tell_lock("unlock", (byte)), (plat_unlock)(file, byte))

#include "attachment.c"
#include "frame.c"
#include "generation.c"
#include "names.c"
#include "writer.c"

#include "fixture.h"

/* What was told since the last time. */
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

#define WRITTEN "claim begin pixels describe complete let-go show notify wake"

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

static void a_loan_is_begun_when_lent_and_told_of_when_published(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_frame_info info = picture(HEIGHT);
    bshm_loan loan;
    uint64_t sequence = 0;
    (void)since();
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    expect("claim begin");
    CHECK_EQUAL(bshm_writer_publish(writer, &loan, &sequence, &fixture_error), BSHM_OK);
    expect("describe complete let-go show notify wake");
    bshm_loan_release(&loan);
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    (void)since();
    bshm_writer_cancel(writer, &loan);
    expect("let-go");
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
    expect("claim claim back claim begin pixels describe complete let-go show notify wake");
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
    expect("claim claim claim claim claim claim seize begin pixels describe complete let-go show notify wake");
    close_window(&shared);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- life cycle */

static void a_new_segment_is_locked_before_others_may_open_it_and_complete_before_it_has_a_name(void)
{
    (void)since();
    bshm_writer *writer = new_writer(4);
    expect("lock-writer mode back state rename");
    bshm_writer_free(writer);
}

static void closing_tells_removes_the_name_and_only_then_lets_the_lock_go(void)
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
    expect("let-go state wake unlink unlock-writer");
    bshm_loan_release(&loan);
}

static void a_replaced_segment_is_retired_after_its_successor_has_the_name(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_frame_info info = picture(50 * HEIGHT);
    bshm_loan loan;
    (void)since();
    REQUIRE(bshm_writer_loan(writer, &info, &loan, &fixture_error) == BSHM_OK);
    expect("lock-writer mode back state rename rename state wake unlock-writer claim begin");
    bshm_loan_release(&loan);
    bshm_writer_free(writer);
}

static void a_dead_writers_segment_is_locked_replaced_retired_and_let_go(void)
{
    leave_dead_segment(4, 2);
    (void)since();
    bshm_writer *writer = new_writer(4);
    /* looked at first, before any memory is taken; then again with the name's fate in hand */
    expect("lock-writer unlock-writer lock-writer mode back state rename lock-writer rename state wake unlock-writer");
    bshm_writer_free(writer);
    leave_dead_segment(4, 2);
    (void)since();
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), 1);
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
    expect("look lock-token clear own look pin read"); /* the first look is whether a pin can be shared */
    bshm_frame again = newest(reader);
    expect("look read");
    bshm_frame_release(&again);
    expect("");
    bshm_frame_release(&first);
    expect("unpin");
    first = newest(reader);
    expect("look own look pin read"); /* a token that is kept needs no clearing */
    CHECK(bshm_frame_intact(&first));
    expect("unchanged");
    bshm_frame_release(&first);
    (void)since();
    bshm_reader_free(reader);
    expect("unlock-place unlock-token");
    bshm_writer_free(writer);
}

static void a_copy_takes_a_token_in_passing_and_gives_it_up_after_the_pin(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(0);
    uint8_t pixels[FRAME_BYTES];
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    (void)since();
    bshm_frame frame = newest(reader);
    expect("look lock-token clear own look pin read");
    CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_OK);
    expect("pixels unchanged");
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
    plat_file others = take_all_tokens(4);
    (void)since();
    bshm_frame frame = newest(reader);
    expect("look lock-token lock-token look read unchanged");
    CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_OK);
    expect("unchanged");
    bshm_frame_release(&frame);
    expect("");
    plat_close(others);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_pin_that_came_too_late_is_taken_back_before_the_next_look(void)
{
    bshm_writer *writer = new_writer(4);
    bshm_reader *reader = new_reader(0); /* so that its token is one in passing */
    window shared = open_window();
    bshm_frame frame;
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    bshm_step_begin(shared.header, 0, 1); /* odd, and will stay so */
    (void)since();
    CHECK_EQUAL(bshm_reader_acquire(reader, 0, &frame, &fixture_error), 0);
    const char *found = since();
    const char *attempt = strstr(found, "own");
    unsigned attempts = 0;
    for (; attempt && strncmp(attempt, "own look pin read unpin", 23) == 0; attempts++)
        attempt = strstr(attempt + 3, "own");
    if (!CHECK_EQUAL(attempts, BSHM_READ_ATTEMPTS) || !CHECK(strstr(found, "unpin unlock-token look read") != NULL))
        printf("      found: %s\n", found); /* the token is given up before it is tried without */
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(a_frame_is_written_in_the_order_of_the_specification);
    RUN(a_loan_is_begun_when_lent_and_told_of_when_published);
    RUN(a_slot_is_backed_before_it_is_claimed_and_only_after_every_other_was_tried);
    RUN(only_after_as_many_passes_as_there_are_slots_is_one_seized);
    RUN(a_new_segment_is_locked_before_others_may_open_it_and_complete_before_it_has_a_name);
    RUN(closing_tells_removes_the_name_and_only_then_lets_the_lock_go);
    RUN(a_replaced_segment_is_retired_after_its_successor_has_the_name);
    RUN(a_dead_writers_segment_is_locked_replaced_retired_and_let_go);
    RUN(a_lease_is_taken_in_the_order_of_the_specification);
    RUN(a_copy_takes_a_token_in_passing_and_gives_it_up_after_the_pin);
    RUN(without_a_token_a_copy_looks_at_seq_before_and_after);
    RUN(a_pin_that_came_too_late_is_taken_back_before_the_next_look);
    return check_summary();
}
