/* Races for a name: something happens just before a certain call. The sources are included with macros around some
 * calls of the platform layer; there the test does what another process might do. */
#include "platform.h"

#include <string.h>

static struct {
    const char *awaited; /* the call before which something happens */
    unsigned number;
    void (*what)(void);
    bool every_time;
    unsigned happened;
    const char *temporary; /* the last temporary that was created */
} race;

static void about_to(const char *call)
{
    if (!race.awaited || strcmp(call, race.awaited) != 0 || (race.number > 1 && race.number--))
        return;
    const char *kept = race.awaited;
    race.awaited = NULL; /* the event makes such calls too */
    race.happened++;
    race.what();
    race.awaited = race.every_time ? kept : NULL;
}

/* A reader opens twice: for reading, and for the control region. While forks are blocked no other reader or writer can be
 * created in this process, so the event happens before that. */
#define bshm_os_block_fork()               (about_to("open"), (bshm_os_block_fork)())
#define bshm_os_info_at(...)               (about_to("look"), (bshm_os_info_at)(__VA_ARGS__))
#define bshm_os_lock(...)                  (about_to("lock"), (bshm_os_lock)(__VA_ARGS__))
#define bshm_os_create(path, file)         (race.temporary = (path), (bshm_os_create)(path, file))
#define bshm_os_rename(from, to, replaces) (about_to("rename"), (bshm_os_rename)(from, to, replaces))
#define bshm_os_sleep(...)                 (about_to("sleep"), (bshm_os_sleep)(__VA_ARGS__))

#include "attachment.c"
#include "layout.c"
#include "names.c"
#include "reader.c"
#include "segment.c"

#include "fixture.h"

static void before(const char *call, unsigned number, void (*what)(void))
{
    race.awaited = call;
    race.number = number;
    race.what = what;
    race.happened = 0;
    race.every_time = false;
}

/* The event happened, and will not happen again. */
static void expect_happened(void)
{
    CHECK(race.happened > 0);
    race.awaited = NULL;
}

/* ---------------------------------------------------------------- what can happen */

static bshm_writer *other;

static void another_writer_takes_the_name(void)
{
    (void)bshm_os_unlink(fixture_path()); /* as a cleaner does, if the segment there is dead */
    other = new_writer(3);
    (void)put(other);
}

static void the_other_writer_ends(void)
{
    bshm_writer_free(other);
    other = NULL;
}

static void the_name_is_removed(void)
{
    (void)bshm_os_unlink(fixture_path());
}

static void a_later_dead_segment_takes_the_name(void)
{
    (void)bshm_os_unlink(fixture_path());
    leave_dead_segment(3, 20);
}

static void the_temporary_is_removed(void)
{
    if (race.temporary)
        (void)bshm_os_unlink(race.temporary);
}

static void the_temporary_is_another_file(void)
{
    bshm_os_file file;
    (void)bshm_os_unlink(race.temporary);
    REQUIRE((bshm_os_create)(race.temporary, &file) == 0);
    bshm_os_close(file);
}

static int write_one(bshm_writer *writer, uint32_t height);

static void a_last_frame_and_a_successor_come(void)
{
    CHECK_EQUAL(put(other), 2);
    CHECK_EQUAL(write_one(other, 2 * HEIGHT), BSHM_OK); /* frame 3, in a larger segment */
}

static bshm_os_file held;

static void a_cleaner_locks_the_temporary(void)
{
    CHECK_EQUAL(bshm_os_open(race.temporary, BSHM_OS_READ_WRITE, &held), 0);
    CHECK_EQUAL((bshm_os_lock)(held, BSHM_WRITER_BYTE, true), 0);
}

static void the_lock_is_let_go(void)
{
    bshm_os_close(held);
}

/* ---------------------------------------------------------------- creating */

static int try_to_create(bshm_writer **writer)
{
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    *writer = NULL;
    return bshm_writer_create(writer, fixture_name, &options, &fixture_error);
}

/* The other writer has the name, and works as if nothing had been attempted. */
static void check_the_other_one_won(int rc, bshm_writer *writer)
{
    bshm_os_info found;
    expect_happened();
    CHECK_EQUAL(rc, BSHM_E_EXISTS);
    CHECK(writer == NULL);
    CHECK_EQUAL(put(other), 2);
    CHECK_EQUAL(counters_of(other).replacements, 0);
    CHECK(bshm_os_info_at(fixture_path(), &found) == 0);
    the_other_writer_ends();
    CHECK(bshm_os_info_at(fixture_path(), &found) == -ENOENT);
}

static void of_two_writers_that_find_the_name_free_one_wins(void)
{
    bshm_writer *writer;
    before("lock", 1, another_writer_takes_the_name); /* while the temporary is created */
    int rc = try_to_create(&writer);
    check_the_other_one_won(rc, writer);
    before("rename", 1, another_writer_takes_the_name); /* at the last moment */
    rc = try_to_create(&writer);
    check_the_other_one_won(rc, writer);
}

static void of_two_writers_that_find_a_dead_segment_one_wins(void)
{
    for (unsigned number = 1; number <= 3; number++) { /* of the dead segment, the temporary, the dead segment */
        bshm_writer *writer;
        leave_dead_segment(3, 5);
        before("lock", number, another_writer_takes_the_name);
        int rc = try_to_create(&writer);
        check_the_other_one_won(rc, writer);
    }
}

static void a_dead_segment_that_is_cleaned_away_in_between_does_no_harm(void)
{
    for (unsigned number = 1; number <= 3; number++) {
        bshm_writer *writer;
        leave_dead_segment(3, 5);
        before("lock", number, the_name_is_removed);
        CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
        expect_happened();
        CHECK_EQUAL(put(writer), 1); /* cleaned: a new count */
        bshm_writer_free(writer);
    }
}

static void a_count_goes_on_after_the_segment_that_is_replaced_in_the_end(void)
{
    for (unsigned number = 1; number <= 3; number++) {
        bshm_writer *writer;
        leave_dead_segment(3, 5);
        before("lock", number, a_later_dead_segment_takes_the_name);
        CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
        expect_happened();
        CHECK_EQUAL(put(writer), 21);
        bshm_writer_free(writer);
    }
    bshm_writer *writer;
    before("rename", 1, a_later_dead_segment_takes_the_name); /* where the name had been free */
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 21);
    bshm_writer_free(writer);
}

static void a_temporary_that_is_cleaned_away_is_made_again(void)
{
    bshm_writer *writer;
    before("rename", 1, the_temporary_is_removed);
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 1);
    bshm_writer_free(writer);
    leave_dead_segment(3, 5);
    before("rename", 2, the_temporary_is_removed); /* with the dead segment's lock held */
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 6);
    bshm_writer_free(writer);
}

/* The creator was stopped for so long that its temporary looked abandoned, or the clock jumped. */
static void a_temporary_that_is_cleaned_away_before_it_is_locked_is_made_again(void)
{
    bshm_writer *writer;
    before("lock", 1, the_temporary_is_removed);
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 1);
    bshm_writer_free(writer);
    before("lock", 1, a_cleaner_locks_the_temporary); /* and is about to remove it */
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 1);
    bshm_writer_free(writer);
    bshm_os_close(held);
}

static void a_temporary_that_is_another_file_is_not_used(void)
{
    bshm_writer *writer;
    bshm_os_info found;
    before("open", 2, the_temporary_is_another_file);
    CHECK_EQUAL(try_to_create(&writer), BSHM_E_SYSTEM);
    CHECK_CONTAINS(fixture_error.message, "replaced by another file");
    expect_happened();
    CHECK(bshm_os_info_at(fixture_path(), &found) == -ENOENT);
    (void)bshm_os_unlink(race.temporary);
}

static uint64_t series_under_the_name(void)
{
    bshm_identity identity = {0};
    bshm_os_file file;
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &file) == 0);
    CHECK_EQUAL(bshm_os_read(file, &identity, sizeof identity, 0), 0);
    bshm_os_close(file);
    return identity.series;
}

static void a_count_that_goes_on_keeps_its_series_however_often_creation_begins_again(void)
{
    for (unsigned number = 1; number <= 2; number++) { /* without the dead segment's lock; with it */
        bshm_writer *writer;
        leave_dead_segment(3, 5);
        uint64_t series = series_under_the_name();
        before("rename", number, the_temporary_is_removed);
        CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
        expect_happened();
        CHECK_EQUAL(put(writer), 6);
        CHECK_EQUAL(series_under_the_name(), series);
        bshm_writer_free(writer);
    }
}

static void a_temporary_that_is_always_cleaned_away_is_an_error_in_the_end(void)
{
    bshm_writer *writer;
    bshm_os_info found;
    before("rename", 1, the_temporary_is_removed);
    race.every_time = true;
    CHECK_EQUAL(try_to_create(&writer), BSHM_E_SYSTEM);
    CHECK_CONTAINS(fixture_error.message, "removed 8 times");
    CHECK_EQUAL(race.happened, 8);
    expect_happened();
    CHECK(bshm_os_info_at(fixture_path(), &found) == -ENOENT);
}

static void a_writer_that_ends_in_time_makes_room(void)
{
    bshm_writer *writer;
    other = new_writer(3);
    (void)put(other);
    before("sleep", 1, the_other_writer_ends);
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 1);
    bshm_writer_free(writer);
}

static void a_cleaner_that_holds_the_lock_for_a_moment_does_not_pass_for_a_writer(void)
{
    bshm_writer *writer;
    leave_dead_segment(3, 5);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ_WRITE, &held) == 0 &&
            bshm_os_lock(held, BSHM_WRITER_BYTE, true) == 0);
    before("sleep", 3, the_lock_is_let_go);
    CHECK_EQUAL(try_to_create(&writer), BSHM_OK);
    expect_happened();
    CHECK_EQUAL(put(writer), 6);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- losing the name */

static int write_one(bshm_writer *writer, uint32_t height)
{
    static uint8_t pixels[3 * FRAME_BYTES];
    bshm_frame_info info = picture(height);
    uint64_t sequence;
    return bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error);
}

static void check_refused(bshm_writer *writer, int code)
{
    bshm_loan loan;
    bshm_source_report report;
    bshm_frame_info info = picture(HEIGHT);
    bshm_source_report_init(&report);
    CHECK_EQUAL(write_one(writer, HEIGHT), code);
    CHECK_CONTAINS(fixture_error.message, fixture_name);
    CHECK_EQUAL(write_one(writer, 2 * HEIGHT), code);
    CHECK_EQUAL(bshm_writer_loan(writer, &info, &loan, &fixture_error), code);
    CHECK_EQUAL(bshm_writer_report(writer, &report, &fixture_error), code);
    CHECK_EQUAL(counters_of(writer).sequence, 1);
    CHECK_EQUAL(counters_of(writer).statistics.published.shared, 1);
}

static void a_writer_that_was_refused_its_name_is_refused_for_good(void)
{
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    bshm_reader *reader = new_reader(1);
    bshm_frame view = newest(reader);
    another_writer_takes_the_name();
    CHECK_EQUAL(write_one(writer, 2 * HEIGHT), BSHM_E_EXISTS); /* a larger frame needs the name at once */
    check_refused(writer, BSHM_E_EXISTS);
    CHECK_EQUAL(put(other), 2);
    the_other_writer_ends();
    check_refused(writer, BSHM_E_EXISTS); /* even now that the name is free */
    bshm_os_info found;
    CHECK(bshm_os_info_at(fixture_path(), &found) == -ENOENT);
    CHECK(is_whole(&view));
    bshm_frame_release(&view);
    bshm_reader_free(reader);
    bshm_writer_close(writer);
    CHECK_EQUAL(write_one(writer, HEIGHT), BSHM_E_CLOSED);
    bshm_writer_free(writer);
}

static void a_writer_whose_name_went_to_a_foreign_file_leaves_it_alone(void)
{
    bshm_os_file file;
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    the_name_is_removed();
    REQUIRE((bshm_os_create)(fixture_path(), &file) == 0);
    bshm_os_close(file);
    CHECK_EQUAL(write_one(writer, 2 * HEIGHT), BSHM_E_FORMAT);
    check_refused(writer, BSHM_E_FORMAT);
    bshm_writer_free(writer);
    CHECK(bshm_os_unlink(fixture_path()) == 0);
}

/* ---------------------------------------------------------------- cleaning */

static void a_cleaner_never_removes_a_name_that_went_to_the_living(void)
{
    bshm_os_info found;
    leave_dead_segment(3, 5);
    before("lock", 1, another_writer_takes_the_name);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_NOTHING);
    expect_happened();
    CHECK(bshm_os_info_at(fixture_path(), &found) == 0);
    CHECK_EQUAL(put(other), 2);
    the_other_writer_ends();
    leave_dead_segment(3, 5);
    before("lock", 1, the_name_is_removed);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_NOTHING); /* another process removed it */
    expect_happened();
}

/* ---------------------------------------------------------------- attaching */

static void a_reader_attaches_to_one_segment_or_to_another_and_never_to_half_of_each(void)
{
    for (unsigned opening = 1; opening <= 2; opening++) {
        leave_dead_segment(3, 5);
        bshm_reader *reader = new_reader(1);
        before("open", opening, another_writer_takes_the_name);
        CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_OK);
        expect_happened();
        bshm_frame frame = newest(reader);
        bshm_writer_counters counters = counters_of(other);
        CHECK_EQUAL(frame.info.sequence, 1);
        CHECK(memcmp(frame.generation, counters.generation, sizeof frame.generation) == 0);
        CHECK(frame.pinned && !frame.to_copy);
        window shared = open_window();
        CHECK_EQUAL(pinned_slots(&shared, 3), 1); /* the pin is in the segment that the pixels are in */
        close_window(&shared);
        bshm_frame_release(&frame);
        bshm_reader_free(reader);
        the_other_writer_ends();
    }
}

static void a_reader_whose_segment_is_removed_while_it_attaches_still_reads_it(void)
{
    uint8_t pixels[FRAME_BYTES];
    leave_dead_segment(3, 5);
    bshm_reader *reader = new_reader(1);
    before("open", 2, the_name_is_removed);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_OK);
    expect_happened();
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(frame.info.sequence, 5);
    CHECK(frame.to_copy); /* the control region cannot be opened any more */
    CHECK_EQUAL(bshm_frame_copy(&frame, pixels, sizeof pixels), BSHM_OK);
    CHECK(pixels[0] == 5 && pixels[FRAME_BYTES - 1] == 5);
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
}

static void a_last_frame_that_comes_before_the_name_is_looked_at_is_read_first(void)
{
    other = new_writer(3);
    (void)put(other);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = newest(reader);
    bshm_frame_release(&frame);
    bshm_os_sleep(110 * BSHM_NS_PER_MS); /* now the name is looked at again */
    before("look", 1, a_last_frame_and_a_successor_come);
    CHECK_EQUAL(bshm_reader_acquire(reader, 0, &frame, &fixture_error), BSHM_FOUND);
    expect_happened();
    CHECK_EQUAL(frame.info.sequence, 2);
    bshm_frame_release(&frame);
    frame = next_frame(reader);
    CHECK_EQUAL(frame.info.sequence, 3);
    CHECK_EQUAL(frame.skipped, 0);
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    the_other_writer_ends();
}

static void a_reader_that_is_too_late_finds_nothing(void)
{
    leave_dead_segment(3, 5);
    bshm_reader *reader = new_reader(1);
    before("open", 1, the_name_is_removed);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_E_NOT_FOUND);
    expect_happened();
    bshm_reader_free(reader);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(of_two_writers_that_find_the_name_free_one_wins);
    RUN(of_two_writers_that_find_a_dead_segment_one_wins);
    RUN(a_dead_segment_that_is_cleaned_away_in_between_does_no_harm);
    RUN(a_count_goes_on_after_the_segment_that_is_replaced_in_the_end);
    RUN(a_temporary_that_is_cleaned_away_is_made_again);
    RUN(a_temporary_that_is_cleaned_away_before_it_is_locked_is_made_again);
    RUN(a_temporary_that_is_another_file_is_not_used);
    RUN(a_count_that_goes_on_keeps_its_series_however_often_creation_begins_again);
    RUN(a_temporary_that_is_always_cleaned_away_is_an_error_in_the_end);
    RUN(a_writer_that_ends_in_time_makes_room);
    RUN(a_cleaner_that_holds_the_lock_for_a_moment_does_not_pass_for_a_writer);
    RUN(a_writer_that_was_refused_its_name_is_refused_for_good);
    RUN(a_writer_whose_name_went_to_a_foreign_file_leaves_it_alone);
    RUN(a_cleaner_never_removes_a_name_that_went_to_the_living);
    RUN(a_reader_attaches_to_one_segment_or_to_another_and_never_to_half_of_each);
    RUN(a_reader_whose_segment_is_removed_while_it_attaches_still_reads_it);
    RUN(a_last_frame_that_comes_before_the_name_is_looked_at_is_read_first);
    RUN(a_reader_that_is_too_late_finds_nothing);
    return check_summary();
}
