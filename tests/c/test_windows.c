/* What is different on Windows: mapped files, paths, owners, and events instead of a futex. */
#include "fixture.h"
#include "names.h"
#include "platform/windows_base.h"

/* How many leftovers this directory has. */
static unsigned files_out_of_the_way(void)
{
    char pattern[BSHM_OS_PATH_BYTES];
    WIN32_FIND_DATAA found;
    unsigned count = 0;
    (void)snprintf(pattern, sizeof pattern, "%s\\.bshm-gone*", bshm_object_directory());
    HANDLE search = FindFirstFileA(pattern, &found);
    if (search == INVALID_HANDLE_VALUE)
        return 0;
    do
        count++;
    while (FindNextFileA(search, &found));
    (void)FindClose(search);
    return count;
}

static bshm_os_file make_mapped(const char *path, void **address)
{
    bshm_os_file file;
    (void)bshm_os_unlink(path);
    REQUIRE(bshm_os_create(path, &file) == 0 && bshm_os_resize(file, BSHM_REGION_BYTES) == 0);
    REQUIRE(bshm_os_allocate(file, 0, BSHM_REGION_BYTES) == 0);
    REQUIRE(bshm_os_map(file, 0, BSHM_REGION_BYTES, BSHM_OS_MAP_WRITE, address) == 0);
    memset(*address, 7, BSHM_REGION_BYTES);
    return file;
}

static bool is_all(const void *address, uint8_t value)
{
    for (size_t i = 0; i < BSHM_REGION_BYTES; i++)
        if (((const uint8_t *)address)[i] != value)
            return false;
    return true;
}

static void a_mapped_file_loses_its_name_immediately_and_goes_with_its_last_mapping(void)
{
    void *address;
    bshm_os_info found;
    unsigned before = files_out_of_the_way();
    bshm_os_file file = make_mapped(fixture_path(), &address);
    CHECK_EQUAL(bshm_os_unlink(fixture_path()), 0);
    CHECK_EQUAL(bshm_os_info_at(fixture_path(), &found), -ENOENT);
    CHECK(is_all(address, 7));
    bshm_os_close(file);
    CHECK(is_all(address, 7)); /* no handle is open any longer, but it is mapped */
    bshm_os_unmap(address, BSHM_REGION_BYTES);
    CHECK_EQUAL(files_out_of_the_way(), before);
}

static void a_mapped_file_is_replaced_under_its_name(void)
{
    void *old_address, *new_address;
    char temporary[BSHM_OS_PATH_BYTES];
    bshm_os_info created, found;
    unsigned before = files_out_of_the_way();
    bshm_os_file old_file = make_mapped(fixture_path(), &old_address);
    REQUIRE(bshm_temporary_path(fixture_path(), temporary, &fixture_error) == BSHM_OK);
    bshm_os_file new_file = make_mapped(temporary, &new_address);
    REQUIRE(bshm_os_info_of(new_file, &created) == 0);
    CHECK_EQUAL(bshm_os_rename(temporary, fixture_path(), false), -EEXIST);
    CHECK_EQUAL(bshm_os_rename(temporary, fixture_path(), true), 0);
    CHECK(bshm_os_info_at(fixture_path(), &found) == 0 && bshm_os_same_object(&created, &found));
    CHECK_EQUAL(bshm_os_info_at(temporary, &found), -ENOENT);
    CHECK_EQUAL(bshm_os_rename(temporary, fixture_path(), true), -ENOENT);
    CHECK(is_all(old_address, 7) && is_all(new_address, 7));
    bshm_os_close(old_file);
    bshm_os_unmap(old_address, BSHM_REGION_BYTES);
    CHECK_EQUAL(files_out_of_the_way(), before);
    bshm_os_close(new_file);
    bshm_os_unmap(new_address, BSHM_REGION_BYTES);
    CHECK_EQUAL(bshm_os_unlink(fixture_path()), 0);
}

static void a_frame_outlives_name_and_writer_and_leaves_nothing(void)
{
    unsigned before = files_out_of_the_way();
    bshm_writer *writer = new_writer(3);
    bshm_reader *reader = new_reader(1);
    (void)put(writer);
    bshm_frame frame = newest(reader);
    bshm_writer_free(writer);
    bshm_reader_free(reader);
    CHECK(is_whole(&frame));
    bshm_frame_release(&frame);
    CHECK_EQUAL(files_out_of_the_way(), before);
}

static void locks_are_found_by_their_kind(void)
{
    const uint64_t last = BSHM_READER_BYTE + 511;
    bshm_os_file mine, theirs;
    uint64_t from, to;
    REQUIRE(bshm_os_create(fixture_path(), &mine) == 0);
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ, &theirs) == 0);
    CHECK_EQUAL(bshm_os_lock(mine, BSHM_READER_BYTE + 3, false), 0);
    CHECK_EQUAL(bshm_os_lock(mine, BSHM_READER_BYTE + 5, true), 0);
    CHECK_EQUAL(bshm_os_is_locked(theirs, BSHM_READER_BYTE + 3), 0);
    CHECK_EQUAL(bshm_os_is_locked(theirs, BSHM_READER_BYTE + 5), 1);
    CHECK_EQUAL(bshm_os_lock_alone(theirs, BSHM_READER_BYTE + 3), -EAGAIN);
    CHECK_EQUAL(bshm_os_find_locked(theirs, BSHM_READER_BYTE, last, false, &from, &to), 1);
    CHECK(from == BSHM_READER_BYTE + 3 && to == from);
    CHECK_EQUAL(bshm_os_find_locked(theirs, BSHM_READER_BYTE, last, true, &from, &to), 1);
    CHECK(from == BSHM_READER_BYTE + 5 && to == from);
    CHECK_EQUAL(bshm_os_find_locked(theirs, BSHM_READER_BYTE + 6, last, false, &from, &to), 0);
    bshm_os_close(mine);
    CHECK_EQUAL(bshm_os_find_locked(theirs, BSHM_READER_BYTE, last, false, &from, &to), 0);
    CHECK_EQUAL(bshm_os_lock_alone(theirs, BSHM_READER_BYTE + 3), 0);
    bshm_os_close(theirs);
    (void)bshm_os_unlink(fixture_path());
}

static void paths_may_have_either_separator_and_any_length(void)
{
    char directory[1000], name[1200], same[1200];
    bshm_error error;
    char parts[3][120];
    size_t used = (size_t)snprintf(directory, sizeof directory, "%s", bshm_object_directory());
    for (int i = 0; i < 3; i++) { /* far beyond the 260 units of MAX_PATH */
        (void)memset(parts[i], 'd', sizeof parts[i]);
        parts[i][sizeof parts[i] - 1] = '\0';
        used += (size_t)snprintf(directory + used, sizeof directory - used, "\\%s", parts[i]);
        wchar_t wide[1000];
        (void)swprintf(wide, 1000, L"\\\\?\\%hs", directory);
        REQUIRE(CreateDirectoryW(wide, NULL) || GetLastError() == ERROR_ALREADY_EXISTS);
    }
    (void)snprintf(name, sizeof name, "%s\\segment", directory);
    (void)snprintf(same, sizeof same, "%s/segment", directory);
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    if (!CHECK_EQUAL(bshm_writer_create(&writer, name, &options, &error), BSHM_OK)) {
        printf("    %s\n", error.message);
        return;
    }
    CHECK_EQUAL(bshm_writer_create(&writer, same, &options, &error), BSHM_E_EXISTS);
    bshm_writer_free(writer);
    bshm_os_file next; /* creating it removes the leftovers; wine cannot check that for such a long path */
    REQUIRE(bshm_os_create(same, &next) == 0);
    bshm_os_close(next);
    CHECK_EQUAL(bshm_os_unlink(name), 0);
    while (used > strlen(bshm_object_directory())) {
        wchar_t wide[1000];
        (void)swprintf(wide, 1000, L"\\\\?\\%hs", directory);
        CHECK(RemoveDirectoryW(wide));
        used -= sizeof parts[0];
        directory[used] = '\0';
    }
}

static void a_path_that_is_not_utf_8_is_refused_for_that(void)
{
    char path[BSHM_OS_PATH_BYTES];
    CHECK_EQUAL(bshm_object_path("C:/\xff/segment", path, sizeof path, &fixture_error), BSHM_E_NAME);
    CHECK_CONTAINS(fixture_error.message, "UTF-8");
}

static void a_users_files_belong_to_that_user(void)
{
    bshm_os_file file;
    bshm_os_info info;
    REQUIRE(bshm_os_create(fixture_path(), &file) == 0 && bshm_os_info_of(file, &info) == 0);
    CHECK_EQUAL(info.owner_uid, bshm_os_user_id());
    CHECK_EQUAL(info.mode & 0077, 0);
    CHECK(info.regular && !info.symbolic_link);
    bshm_os_close(file);
    (void)bshm_os_unlink(fixture_path());
}

static void a_sleeper_that_is_not_woken_sleeps_until_its_timeout_and_a_late_one_does_not_sleep(void)
{
    void *address;
    bshm_os_file file = make_mapped(fixture_path(), &address);
    uint32_t *word = address;
    *word = 5;
    int64_t began = bshm_now_ns();
    bshm_os_wait(word, 4, 1000000000);
    CHECK(bshm_now_ns() - began < 500000000);
    bshm_os_wake_all(word); /* as after the change from 4 to 5: the events exist from now on */
    began = bshm_now_ns();
    for (int i = 0; i < 20; i++)
        bshm_os_wait(word, 5, 10000000);
    int64_t slept = bshm_now_ns() - began;
    CHECK(slept >= 100000000); /* at most one returns early, by the event of the last turn */
    bshm_os_close(file);
    bshm_os_unmap(address, BSHM_REGION_BYTES);
    (void)bshm_os_unlink(fixture_path());
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(a_mapped_file_loses_its_name_immediately_and_goes_with_its_last_mapping);
    RUN(a_mapped_file_is_replaced_under_its_name);
    RUN(a_frame_outlives_name_and_writer_and_leaves_nothing);
    RUN(locks_are_found_by_their_kind);
    RUN(paths_may_have_either_separator_and_any_length);
    RUN(a_path_that_is_not_utf_8_is_refused_for_that);
    RUN(a_users_files_belong_to_that_user);
    RUN(a_sleeper_that_is_not_woken_sleeps_until_its_timeout_and_a_late_one_does_not_sleep);
    return check_summary();
}
