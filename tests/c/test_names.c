/* Names, what they refer to, and when one may be taken over. */
#include "fixture.h"

#include "names.h"

#include <errno.h>
#include <sys/stat.h>
#include <utime.h>
#ifdef _WIN32
#include <direct.h>
#define mkdir(path, mode) _mkdir(path)
#else
#include "platform/posix.h"

#include <fcntl.h>
#include <unistd.h>
#endif

/* ---------------------------------------------------------------- names and paths */

static int path_of(const char *name, char *path)
{
    fixture_error.code = 0;
    fixture_error.message[0] = '\0';
    int rc = bshm_object_path(name, path, BSHM_OS_PATH_BYTES, &fixture_error);
    CHECK_EQUAL(bshm_object_path(name, path, BSHM_OS_PATH_BYTES, NULL), rc);
    if (rc < 0)
        CHECK(fixture_error.code == rc && strlen(fixture_error.message) > 10);
    return rc;
}

static void names_are_letters_digits_dots_underscores_and_dashes(void)
{
    char path[BSHM_OS_PATH_BYTES];
    char name[80];
    for (int c = 1; c < 256; c++) {
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                    c == '-' || c == '.';
        (void)snprintf(name, sizeof name, "a%cb", c);
        if (c == '/' || (c == '\\' && bshm_os_last_separator("a\\b")))
            continue; /* a path */
        CHECK_EQUAL(path_of(name, path), good ? BSHM_OK : BSHM_E_NAME);
    }
    CHECK_EQUAL(path_of("billiards_video", path), BSHM_OK);
    CHECK_CONTAINS(path, bshm_object_directory());
    CHECK_CONTAINS(path, "/billiards_video");
    memset(name, 'n', sizeof name);
    name[64] = '\0';
    CHECK_EQUAL(path_of(name, path), BSHM_OK);
    name[64] = 'n';
    name[65] = '\0';
    CHECK_EQUAL(path_of(name, path), BSHM_E_NAME);
    CHECK_CONTAINS(fixture_error.message, "65");
    CHECK_EQUAL(path_of("", path), BSHM_E_NAME);
    CHECK_EQUAL(path_of(".", path), BSHM_E_NAME);
    CHECK_EQUAL(path_of("..", path), BSHM_E_NAME);
    CHECK_EQUAL(bshm_object_path("a-name", path, 5, &fixture_error), BSHM_E_NAME); /* the buffer is too small */
}

static void a_name_with_a_slash_is_a_path_to_a_file(void)
{
    char path[BSHM_OS_PATH_BYTES];
    char name[BSHM_OS_PATH_BYTES + 10];
    CHECK_EQUAL(path_of("some/where", path), BSHM_OK);
    CHECK(strlen(path) > strlen("some/where")); /* absolute */
    CHECK_CONTAINS(path, "some");
    CHECK(strcmp(bshm_os_last_separator(path) + 1, "where") == 0);
    CHECK_EQUAL(path_of("/mnt/some where/\xC3\xBC", path), BSHM_OK);
    CHECK_EQUAL(path_of("/billiards_video", path), BSHM_E_NAME);
    CHECK_CONTAINS(fixture_error.message, "'billiards_video'"); /* the message says which part to leave out */
    CHECK_EQUAL(path_of("/mnt/directory/", path), BSHM_E_NAME);
    CHECK_EQUAL(path_of("/mnt/.", path), BSHM_E_NAME);
    CHECK_EQUAL(path_of("/mnt/..", path), BSHM_E_NAME);
    memset(name, 'n', sizeof name);
    memcpy(name, "/mnt/", 5);
    name[sizeof name - 1] = '\0';
    CHECK_EQUAL(path_of(name, path), BSHM_E_NAME);
    size_t longest = BSHM_OS_PATH_BYTES - 32 - (bshm_os_last_separator("a\\b") ? 2 : 0); /* a drive goes in front */
    name[longest] = '\0';
    CHECK_EQUAL(path_of(name, path), BSHM_OK);
    name[longest] = 'n';
    name[longest + 1] = '\0';
    CHECK_EQUAL(path_of(name, path), BSHM_E_NAME);
    char roomy[2 * BSHM_OS_PATH_BYTES];
    CHECK_EQUAL(bshm_object_path(name, roomy, sizeof roomy, NULL), BSHM_E_NAME); /* like any other function */
    for (size_t i = 5; i + 3 < sizeof name; i += 2)
        memcpy(name + i, "./", 3);
    memcpy(name + strlen(name), "n", 2); /* on Windows it maps to a short path, but the name is kept too */
    CHECK(strlen(name) >= BSHM_OS_PATH_BYTES);
    CHECK_EQUAL(path_of(name, path), BSHM_E_NAME);
}

#ifndef _WIN32
static void a_relative_path_leads_to_the_same_file_after_a_change_of_directory(void)
{
    char directory[] = "/tmp/test-names-XXXXXX";
    char path[sizeof directory + sizeof "/camera"];
    char before[BSHM_OS_PATH_BYTES];
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    bshm_reader *reader = NULL;
    bshm_reader_options read = {.max_leases = 1};
    REQUIRE(getcwd(before, sizeof before) && mkdtemp(directory) && chdir(directory) == 0);
    (void)snprintf(path, sizeof path, "%s/camera", directory);
    REQUIRE(bshm_writer_create(&writer, "./camera", &options, &fixture_error) == BSHM_OK);
    REQUIRE(bshm_reader_create(&reader, "./camera", &read, &fixture_error) == BSHM_OK);
    REQUIRE(chdir("/") == 0);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_OK);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
    CHECK(access(path, F_OK) < 0); /* the name was removed where it was made */
    REQUIRE(rmdir(directory) == 0);
    CHECK_EQUAL(bshm_writer_create(&writer, "/", &options, &fixture_error), BSHM_E_NAME);
    REQUIRE(mkdir(directory, 0700) == 0 && chdir(directory) == 0 && rmdir(directory) == 0);
    CHECK_EQUAL(bshm_writer_create(&writer, "./camera", &options, &fixture_error), BSHM_E_NAME);
    CHECK_CONTAINS(fixture_error.message, "gone");
    REQUIRE(chdir(before) == 0);
}
#endif

static void temporaries_are_next_to_their_object_and_are_not_names(void)
{
    char temporary[BSHM_OS_PATH_BYTES];
    char other[BSHM_OS_PATH_BYTES];
    char path[BSHM_OS_PATH_BYTES];
    CHECK_EQUAL(bshm_temporary_path("/mnt/a/b", temporary, &fixture_error), BSHM_OK);
    CHECK_EQUAL(bshm_temporary_path("/mnt/a/b", other, &fixture_error), BSHM_OK);
    CHECK(strcmp(temporary, other) != 0);
    CHECK(strncmp(temporary, "/mnt/a/", 7) == 0 && strchr(temporary + 7, '/') == NULL);
    CHECK(bshm_is_temporary(temporary + 7));
    CHECK_EQUAL(path_of(temporary + 7, path), BSHM_E_NAME);
    CHECK(!bshm_is_temporary("") && !bshm_is_temporary(".bshm-") && !bshm_is_temporary("bshm-0123456789abcdef~"));
    CHECK(!bshm_is_temporary(".bshm-0123456789abcdef") && !bshm_is_temporary(".bshm-0123456789abcdef~~"));
}

/* ---------------------------------------------------------------- what is under a name already */

static void make_file(const char *content, size_t bytes)
{
    FILE *file = fopen(fixture_path(), "wbx");
    REQUIRE(file != NULL && fwrite(content, 1, bytes, file) == bytes);
    REQUIRE(fclose(file) == 0);
}

static int try_to_create_as(const char *name, bshm_error *error)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    int rc = bshm_writer_create(&writer, name, &options, error);
    bshm_writer_free(writer);
    return rc;
}

static int try_to_create(bshm_error *error)
{
    return try_to_create_as(fixture_name, error);
}

/* Reading, writing and cleaning all refuse it with this code, and leave it unchanged. */
static void check_left_alone(int code)
{
    bshm_os_info before, after;
    bshm_inspection *inspection = calloc(1, sizeof *inspection);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame;
    REQUIRE(inspection != NULL && bshm_os_info_at(fixture_path(), &before) == 0);
    CHECK_EQUAL(try_to_create(&fixture_error), code);
    CHECK_CONTAINS(fixture_error.message, fixture_name);
    CHECK_EQUAL(try_to_create(NULL), code);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), code);
    CHECK_CONTAINS(fixture_error.message, fixture_name);
    CHECK_EQUAL(bshm_reader_acquire(reader, 0, &frame, &fixture_error), code);
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, inspection, &fixture_error), code);
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, inspection, NULL), code);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), code);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, NULL), code);
    REQUIRE(bshm_os_info_at(fixture_path(), &after) == 0);
    CHECK(bshm_os_same_object(&before, &after) && before.size_bytes == after.size_bytes);
    bshm_reader_free(reader);
    free(inspection);
}

static void foreign_files_are_refused_and_left_alone(void)
{
    static const char *contents[] = {"", "B", "BILLISH", "BILLISHN and more", "some text of value\n"};
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++) {
        make_file(contents[i], strlen(contents[i]));
        check_left_alone(BSHM_E_FORMAT);
        (void)bshm_os_unlink(fixture_path());
    }
    char *zeros = calloc(1, 200000);
    REQUIRE(zeros != NULL);
    make_file(zeros, 200000);
    check_left_alone(BSHM_E_FORMAT);
    (void)bshm_os_unlink(fixture_path());
    free(zeros);
}

static void anything_but_a_regular_file_is_refused_and_left_alone(void)
{
    REQUIRE(mkdir(fixture_path(), 0700) == 0);
    check_left_alone(BSHM_E_FORMAT);
    (void)rmdir(fixture_path());
#ifndef _WIN32
    REQUIRE(mkfifo(fixture_path(), 0600) == 0);
    check_left_alone(BSHM_E_FORMAT); /* no open waits for its other end */
    (void)bshm_os_unlink(fixture_path());
    REQUIRE(symlink("/etc/passwd", fixture_path()) == 0);
    check_left_alone(BSHM_E_FORMAT);
    (void)bshm_os_unlink(fixture_path());
    REQUIRE(symlink("/no/such/file", fixture_path()) == 0);
    check_left_alone(BSHM_E_FORMAT);
    (void)bshm_os_unlink(fixture_path());
#endif
}

static void an_exclusively_locked_byte_has_one_owner_and_latecomers_get_nothing(void)
{
    bshm_os_file first, second;
    uint64_t from, to;
    make_file("x", 1);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &first) == 0);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &second) == 0);
    CHECK_EQUAL(bshm_os_lock_alone(first, BSHM_READER_BYTE), 0);
    CHECK_EQUAL(bshm_os_lock_alone(second, BSHM_READER_BYTE), -EAGAIN);
    CHECK_EQUAL(bshm_os_find_locked(second, BSHM_READER_BYTE, BSHM_READER_BYTE, false, &from, &to), 1);
    bshm_os_unlock(first, BSHM_READER_BYTE);
    CHECK_EQUAL(bshm_os_find_locked(first, BSHM_READER_BYTE, BSHM_READER_BYTE, false, &from, &to), 0);
    bshm_os_close(first);
    bshm_os_close(second);
    (void)bshm_os_unlink(fixture_path());
}

#ifndef _WIN32
static void files_are_opened_without_following_waiting_or_leaving_them_to_programs(void)
{
    bshm_os_file file;
    bshm_os_info info;
    REQUIRE(symlink("/etc/passwd", fixture_path()) == 0);
    CHECK_EQUAL(bshm_os_open(fixture_path(), BSHM_OS_READ, &file), -ELOOP);
    (void)bshm_os_unlink(fixture_path());
    REQUIRE(mkfifo(fixture_path(), 0600) == 0);
    (void)alarm(20); /* ends this program if it waits for the other end */
    CHECK_EQUAL(bshm_os_open(fixture_path(), BSHM_OS_READ, &file), 0);
    (void)alarm(0);
    bshm_os_close(file);
    (void)bshm_os_unlink(fixture_path());
    mode_t before = umask(0277);
    CHECK_EQUAL(bshm_os_create(fixture_path(), &file), 0);
    (void)umask(before);
    CHECK(fcntl(file, F_GETFD) & FD_CLOEXEC);
    CHECK(bshm_os_info_of(file, &info) == 0 && info.mode == 0600);
    bshm_os_close(file);
    CHECK_EQUAL(bshm_os_create(fixture_path(), &file), -EEXIST);
    (void)bshm_os_unlink(fixture_path());
}

static void a_rename_by_link_replaces_nothing_and_leaves_one_name(void)
{
    char temporary[BSHM_OS_PATH_BYTES];
    bshm_os_file file;
    bshm_os_info info;
    REQUIRE(bshm_temporary_path(fixture_path(), temporary, &fixture_error) == BSHM_OK);
    for (int rc = 0; rc >= -EEXIST; rc -= EEXIST) { /* the name is free; the name is taken */
        REQUIRE(bshm_os_create(temporary, &file) == 0);
        bshm_os_close(file);
        CHECK_EQUAL(bshm_posix_rename_by_link(temporary, fixture_path()), rc);
        CHECK_EQUAL(bshm_os_info_at(temporary, &info), rc == 0 ? -ENOENT : 0);
        CHECK_EQUAL(bshm_os_info_at(fixture_path(), &info), 0);
    }
    (void)bshm_os_unlink(temporary);
    CHECK_EQUAL(bshm_posix_rename_by_link(temporary, fixture_path()), -ENOENT);
    (void)bshm_os_unlink(fixture_path());
}

/* Only root can make a segment that belongs to another user; .ci/run is root. */
static void a_segment_of_another_user_is_refused_unless_that_user_is_trusted(void)
{
    static bshm_inspection inspection;
    uint32_t uid = 12345;
    bshm_owners trusted = {.uids = &uid, .count = 1};
    bshm_reader *reader = new_reader(1);
    leave_dead_segment(3, 1);
    if (chown(fixture_path(), uid, (gid_t)-1) == 0) {
        CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_E_PERMISSION);
        CHECK_CONTAINS(fixture_error.message, "12345");
        CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &inspection, &fixture_error), BSHM_E_PERMISSION);
        CHECK_EQUAL(bshm_inspect(fixture_name, &trusted, &inspection, &fixture_error), BSHM_OK);
        CHECK_EQUAL(try_to_create(&fixture_error), BSHM_E_PERMISSION);
        CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_E_PERMISSION);
    }
    CHECK_EQUAL(bshm_remove_stale(fixture_name, &trusted, &fixture_error), BSHM_REMOVED);
    bshm_reader_free(reader);
}
#endif

/* Puts a dead segment under the name, with some bits of one byte flipped, and so long. */
static void make_changed_segment(size_t offset, int flipped, size_t bytes)
{
    leave_dead_segment(3, 2);
    FILE *file = fopen(fixture_path(), "r+b");
    REQUIRE(file != NULL && fseek(file, (long)offset, SEEK_SET) == 0);
    int found = fgetc(file);
    REQUIRE(found != EOF && fseek(file, (long)offset, SEEK_SET) == 0 && fputc(found ^ flipped, file) != EOF);
    REQUIRE(fclose(file) == 0);
    if (bytes) {
        bshm_os_file opened;
        REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ_WRITE, &opened) == 0 && bshm_os_resize(opened, bytes) == 0);
        bshm_os_close(opened);
    }
}

/* Readers refuse it. A writer may replace it: it has the magic and its writer is dead. */
static void check_replaceable(void)
{
    bshm_reader *reader = new_reader(1);
    bshm_inspection *inspection = calloc(1, sizeof *inspection);
    REQUIRE(inspection != NULL);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_E_FORMAT);
    CHECK_CONTAINS(fixture_error.message, fixture_name);
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, inspection, &fixture_error), BSHM_E_FORMAT);
    bshm_writer *writer = new_writer(3);
    CHECK_EQUAL(put(writer), 1); /* nothing in it was believed, not even the number */
    bshm_frame frame = next_frame(reader);
    CHECK(is_whole(&frame));
    bshm_frame_release(&frame);
    bshm_writer_free(writer);
    bshm_reader_free(reader);
    free(inspection);
}

static void damaged_foreign_and_short_segments_are_refused_by_readers_and_replaced_by_writers(void)
{
    make_changed_segment(offsetof(bshm_identity, abi_major), 64, 0); /* a later version */
    check_replaceable();
    make_changed_segment(offsetof(bshm_identity, checksum), 1, 0);
    check_replaceable();
    make_changed_segment(offsetof(bshm_identity, slot_count), 32, 0);
    check_replaceable();
    make_changed_segment(0, 0, 100000); /* truncated */
    check_replaceable();
    make_changed_segment(0, 0, 40);                            /* less than a header */
    CHECK_EQUAL(try_to_create(&fixture_error), BSHM_E_FORMAT); /* too short to have the magic */
    (void)bshm_os_unlink(fixture_path());
}

static void a_path_through_a_file_or_a_missing_directory_is_an_error_and_not_a_hang(void)
{
    char name[200];
    bshm_reader *reader = NULL;
    bshm_reader_options options = {.max_leases = 1};
    make_file("x", 1);
    (void)snprintf(name, sizeof name, "%.150s/below", fixture_path());
    CHECK(try_to_create_as(name, &fixture_error) < 0);
    CHECK_CONTAINS(fixture_error.message, "below");
    CHECK_EQUAL(bshm_remove_stale(name, NULL, &fixture_error), BSHM_NOTHING);
    REQUIRE(bshm_reader_create(&reader, name, &options, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(bshm_reader_attach(reader, &fixture_error), BSHM_E_NOT_FOUND);
    bshm_reader_free(reader);
    (void)bshm_os_unlink(fixture_path()); /* now the directory does not exist */
    CHECK_EQUAL(try_to_create_as(name, &fixture_error), BSHM_E_NOT_FOUND);
    CHECK_CONTAINS(fixture_error.message, "below");
}

/* ---------------------------------------------------------------- the living and the dead */

static void a_living_writer_keeps_its_name(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_os_info before, after;
    REQUIRE(bshm_os_info_at(fixture_path(), &before) == 0);
    CHECK_EQUAL(try_to_create(&fixture_error), BSHM_E_EXISTS);
    char pid[32];
    (void)snprintf(pid, sizeof pid, "%u", bshm_os_process_id());
    CHECK_CONTAINS(fixture_error.message, pid);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_NOTHING);
    REQUIRE(bshm_os_info_at(fixture_path(), &after) == 0);
    CHECK(bshm_os_same_object(&before, &after));
    CHECK_EQUAL(put(writer), 1);
    bshm_writer_free(writer);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_NOTHING); /* nothing there */
    CHECK_EQUAL(try_to_create(&fixture_error), BSHM_OK);
}

static void a_process_that_only_holds_a_read_lock_is_reported_as_such(void)
{
    leave_dead_segment(3, 1);
    bshm_os_file file;
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &file) == 0 && bshm_os_lock(file, BSHM_WRITER_BYTE, false) == 0);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = newest(reader);
    bshm_frame_release(&frame);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_DEAD); /* it does not count as a writer */
    CHECK_EQUAL(try_to_create(&fixture_error), BSHM_E_EXISTS);
    CHECK_CONTAINS(fixture_error.message, "read lock");
    bshm_os_close(file);
    bshm_reader_free(reader);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_REMOVED);
}

static void a_dead_writers_segment_is_taken_over_and_its_count_goes_on(void)
{
    leave_dead_segment(4, 5);
    bshm_reader *reader = new_reader(2);
    bshm_frame old = newest(reader);
    CHECK_EQUAL(old.info.sequence, 5);
    window shared = open_window();
    bshm_writer *writer = new_writer(4);
    CHECK_EQUAL(bshm_load_acquire32(&shared.header->publication.state), BSHM_STATE_RETIRED);
    CHECK_EQUAL(counters_of(writer).sequence, 5);
    CHECK_EQUAL(put(writer), 6);
    bshm_frame next = next_frame(reader);
    CHECK_EQUAL(next.info.sequence, 6);
    CHECK_EQUAL(next.skipped, 0);
    CHECK(is_whole(&old) && is_whole(&next));
    bshm_frame_release(&old);
    bshm_frame_release(&next);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* Changes the words to those of a writer that died at that step. */
static uint64_t next_number_after(void (*poke)(window *))
{
    leave_dead_segment(4, 5); /* frames 1 to 5 in slots 0 1 2 0 1: `latest` is 5 in slot 1, next would be slot 2 */
    window shared = open_window();
    poke(&shared);
    close_window(&shared);
    bshm_writer *writer = new_writer(4);
    uint64_t number = put(writer);
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = newest(reader);
    CHECK_EQUAL(frame.info.sequence, number);
    CHECK(is_whole(&frame));
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
    return number;
}

static void killed_after_w4(window *shared)
{
    CHECK(bshm_step_claim_slot(shared->control, 2, 2));
    bshm_step_begin_write(shared->header, 2, 6);
}

static void killed_after_w8(window *shared)
{
    killed_after_w4(shared);
    bshm_step_end_write(shared->header, 2, 6);
}

static void killed_after_w9(window *shared)
{
    killed_after_w8(shared);
    bshm_step_clear_writing(shared->control, 2);
}

static void killed_after_w10(window *shared)
{
    killed_after_w9(shared);
    bshm_step_store_latest(shared->header, 2, 6);
}

static void killed_after_cancelling(window *shared)
{
    killed_after_w4(shared);
    bshm_step_clear_writing(shared->control, 2);
}

static void shot_to_pieces(window *shared)
{
    bshm_store_relaxed(&shared->header->descriptors[2].seq, UINT64_MAX - 1);
    bshm_store_relaxed(&shared->header->descriptors[0].seq, UINT64_MAX);
    bshm_store_relaxed(&shared->header->publication.latest, BSHM_LATEST(BSHM_MAX_SEQUENCE + 5, 1));
}

static void the_largest_number_there_is(window *shared)
{
    bshm_store_relaxed(&shared->header->descriptors[2].seq, 2 * (BSHM_MAX_SEQUENCE - 1));
}

static void a_number_that_may_have_been_seen_is_never_given_again(void)
{
    /* A frame between W8 and W10 may have been read through a stale `latest`, so 6 is used up. A frame that was only
     * begun counts as used too: its seq does not tell the two apart. */
    CHECK_EQUAL(next_number_after(killed_after_w4), 7);
    CHECK_EQUAL(next_number_after(killed_after_w8), 7);
    CHECK_EQUAL(next_number_after(killed_after_w9), 7);
    CHECK_EQUAL(next_number_after(killed_after_w10), 7);
    CHECK_EQUAL(next_number_after(killed_after_cancelling), 7);
}

static void damaged_numbers_are_not_inherited(void)
{
    CHECK_EQUAL(next_number_after(shot_to_pieces), 5); /* slot 1 still says 4 */
    CHECK_EQUAL(next_number_after(the_largest_number_there_is), BSHM_MAX_SEQUENCE);
}

static void the_count_goes_on_over_a_successor_that_died_before_its_first_frame(void)
{
    leave_dead_segment(3, 7);
    leave_dead_segment(3, 0);
    leave_dead_segment(3, 0);
    bshm_writer *writer = new_writer(3);
    CHECK_EQUAL(put(writer), 8);
    bshm_writer_free(writer);
}

static void a_dead_writers_segment_can_be_cleaned_away(void)
{
    leave_dead_segment(3, 2);
    bshm_reader *reader = new_reader(1);
    bshm_frame held = newest(reader);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_REMOVED);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_NOTHING);
    CHECK(is_whole(&held)); /* open mappings stay readable */
    bshm_writer *writer = new_writer(3);
    CHECK_EQUAL(put(writer), 1);
    bshm_frame_release(&held);
    held = next_frame(reader);
    CHECK(is_whole(&held));
    bshm_frame_release(&held);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_writer_whose_name_was_removed_takes_it_again(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_reader *reader = new_reader(1);
    bshm_source_report report;
    bshm_os_info found;
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    bshm_source_report_init(&report);
    (void)put(writer);
    bshm_frame frame = newest(reader);
    bshm_frame_release(&frame);
    (void)bshm_os_unlink(fixture_path());
    do {
        bshm_os_sleep(20000000);
        CHECK_EQUAL(bshm_writer_report(writer, &report, &fixture_error), BSHM_OK); /* this checks the name too */
    } while (bshm_os_info_at(fixture_path(), &found) < 0 && CHECK(bshm_now_ns() < deadline));
    CHECK_EQUAL(counters_of(writer).replacements, 1);
    CHECK_EQUAL(put(writer), 2);
    frame = next_frame(reader);
    CHECK_EQUAL(frame.info.sequence, 2);
    bshm_frame_release(&frame);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void a_name_that_went_to_another_writer_is_not_removed_on_close(void)
{
    bshm_writer *first = new_writer(3);
    bshm_os_info mine, found;
    (void)bshm_os_unlink(fixture_path());
    bshm_writer *second = new_writer(3);
    REQUIRE(bshm_os_info_at(fixture_path(), &mine) == 0);
    bshm_writer_free(first);
    CHECK(bshm_os_info_at(fixture_path(), &found) == 0 && bshm_os_same_object(&mine, &found));
    bshm_writer_free(second);
    CHECK(bshm_os_info_at(fixture_path(), &found) < 0);
}

static void the_object_has_the_mode_that_was_asked_for_under_any_umask(void)
{
#ifdef _WIN32
    static const uint32_t modes[] = {0600, 0604, 0606}; /* any group: wine does not distinguish them */
#else
    static const uint32_t modes[] = {0600, 0640, 0660, 0666};
#endif
#ifndef _WIN32
    mode_t before = umask(0077);
#endif
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        bshm_writer *writer = NULL;
        bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = modes[i]};
        bshm_os_info found;
        REQUIRE(bshm_writer_create(&writer, fixture_name, &options, &fixture_error) == BSHM_OK);
        REQUIRE(bshm_os_info_at(fixture_path(), &found) == 0);
        CHECK_EQUAL(found.mode, modes[i]);
        bshm_writer_free(writer);
    }
#ifndef _WIN32
    (void)umask(before);
#endif
}

/* ---------------------------------------------------------------- temporaries */

static void temporaries_of_the_dead_are_removed_once_they_are_old(void)
{
    char temporary[BSHM_OS_PATH_BYTES];
    REQUIRE(bshm_temporary_path(fixture_path(), temporary, &fixture_error) == BSHM_OK);
    CHECK_EQUAL(bshm_remove_stale_temporary(fixture_path(), &fixture_error), BSHM_E_NAME);
    CHECK_EQUAL(bshm_remove_stale_temporary("no-temporary", NULL), BSHM_E_NAME);
    CHECK_EQUAL(bshm_remove_stale_temporary(temporary, &fixture_error), BSHM_NOTHING); /* there is no temporary */
    bshm_os_file file;
    REQUIRE(bshm_os_create(temporary, &file) == 0);
    CHECK_EQUAL(bshm_remove_stale_temporary(temporary, &fixture_error), BSHM_NOTHING); /* its creator may be at work */
    struct utimbuf old = {.actime = 100000, .modtime = 100000};
    REQUIRE(utime(temporary, &old) == 0 && bshm_os_lock(file, BSHM_WRITER_BYTE, true) == 0);
    CHECK_EQUAL(bshm_remove_stale_temporary(temporary, &fixture_error), BSHM_NOTHING); /* it is */
    bshm_os_unlock(file, BSHM_WRITER_BYTE);
    CHECK_EQUAL(bshm_remove_stale_temporary(temporary, &fixture_error), BSHM_REMOVED);
    bshm_os_close(file);
    bshm_os_info found;
    CHECK_EQUAL(bshm_os_info_at(temporary, &found), -ENOENT);
}

static void a_file_from_the_far_future_does_no_harm(void)
{
    bshm_writer *writer = new_writer(3);
    struct utimbuf future = {.actime = INT64_C(32503680000), .modtime = INT64_C(32503680000)};
    REQUIRE(utime(fixture_path(), &future) == 0);
    CHECK_EQUAL(try_to_create(&fixture_error), BSHM_E_EXISTS);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(names_are_letters_digits_dots_underscores_and_dashes);
    RUN(a_name_with_a_slash_is_a_path_to_a_file);
#ifndef _WIN32
    RUN(a_relative_path_leads_to_the_same_file_after_a_change_of_directory);
#endif
    RUN(temporaries_are_next_to_their_object_and_are_not_names);
    RUN(foreign_files_are_refused_and_left_alone);
    RUN(anything_but_a_regular_file_is_refused_and_left_alone);
    RUN(an_exclusively_locked_byte_has_one_owner_and_latecomers_get_nothing);
#ifndef _WIN32
    RUN(files_are_opened_without_following_waiting_or_leaving_them_to_programs);
    RUN(a_rename_by_link_replaces_nothing_and_leaves_one_name);
    RUN(a_segment_of_another_user_is_refused_unless_that_user_is_trusted);
#endif
    RUN(damaged_foreign_and_short_segments_are_refused_by_readers_and_replaced_by_writers);
    RUN(a_path_through_a_file_or_a_missing_directory_is_an_error_and_not_a_hang);
    RUN(a_living_writer_keeps_its_name);
    RUN(a_process_that_only_holds_a_read_lock_is_reported_as_such);
    RUN(a_dead_writers_segment_is_taken_over_and_its_count_goes_on);
    RUN(a_number_that_may_have_been_seen_is_never_given_again);
    RUN(damaged_numbers_are_not_inherited);
    RUN(the_count_goes_on_over_a_successor_that_died_before_its_first_frame);
    RUN(a_dead_writers_segment_can_be_cleaned_away);
    RUN(a_writer_whose_name_was_removed_takes_it_again);
    RUN(a_name_that_went_to_another_writer_is_not_removed_on_close);
    RUN(the_object_has_the_mode_that_was_asked_for_under_any_umask);
    RUN(temporaries_of_the_dead_are_removed_once_they_are_old);
    RUN(a_file_from_the_far_future_does_no_harm);
    return check_summary();
}
