/* Old versions of Linux: system calls that came later fail as they did there. Each test installs a seccomp filter in
 * its own child process. */
#include "fixture.h"
#include "names.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define LARGE_BYTES (UINT64_C(4) << 20)
#define ANY_VALUE   UINT32_MAX

/* From now on, in this process, system call `number` fails with `error` if its argument `argument` is in the range. */
static void forbid(long number, unsigned argument, uint32_t first, uint32_t last, int error)
{
    const uint32_t low_half = (uint32_t)(offsetof(struct seccomp_data, args) + 8 * argument); /* little-endian */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low_half),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, last, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void without_populate(void)
{
    forbid(SYS_madvise, 2, 22, 23, EINVAL); /* MADV_POPULATE_READ, MADV_POPULATE_WRITE */
}

static void in_child(void (*test)(void))
{
    int status;
    (void)fflush(stdout);
    unsigned before = check_failures_so_far();
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        test();
        (void)fflush(stdout);
        _exit(check_failures_so_far() != before);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---------------------------------------------------------------- before 5.14 */

static long faults_of_three_large_frames(void)
{
    struct rusage before, after;
    uint8_t *pixels = malloc(LARGE_BYTES);
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = LARGE_BYTES, .slots = 3, .mode = 0600};
    bshm_frame_info info = {.width = 1024, .height = LARGE_BYTES / 1024, .item_size = 1, .ndim = 2, .kind = 'u'};
    REQUIRE(pixels != NULL);
    memset(pixels, 9, LARGE_BYTES);
    REQUIRE(bshm_writer_create(&writer, fixture_name, &options, &fixture_error) == BSHM_OK);
    REQUIRE(getrusage(RUSAGE_SELF, &before) == 0);
    for (int i = 0; i < 3; i++) {
        uint64_t sequence;
        CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, 1024, &sequence, &fixture_error), BSHM_OK);
    }
    REQUIRE(getrusage(RUSAGE_SELF, &after) == 0);
    bshm_writer_free(writer);
    free(pixels);
    return after.ru_minflt - before.ru_minflt;
}

static void touched(void)
{
    without_populate();
    long faults = faults_of_three_large_frames();
    printf("    faults while 3072 pages were written: %ld\n", faults);
    CHECK(faults < 300);
}

static void touched_without_a_look(void)
{
    forbid(SYS_process_vm_readv, 0, 0, ANY_VALUE, EPERM);
    touched();
}

static void before_5_14_pages_are_touched_before_they_are_used(void)
{
    in_child(touched);
    in_child(touched_without_a_look);
}

static void look_beyond_the_end(void)
{
    bshm_os_file file;
    void *address;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    without_populate();
    REQUIRE(bshm_os_create(fixture_path(), &file) == 0 && bshm_os_resize(file, 4 * page) == 0);
    REQUIRE(bshm_os_map(file, 0, 4 * page, BSHM_OS_MAP_WRITE, &address) == 0);
    CHECK_EQUAL(bshm_os_prefault(address, 4 * page, true), 0);
    REQUIRE(bshm_os_resize(file, 2 * page) == 0);
    CHECK_EQUAL(bshm_os_prefault(address, 2 * page, true), 0);
    CHECK_EQUAL(bshm_os_prefault(address, 4 * page, true), -EFAULT);
    CHECK_EQUAL(bshm_os_prefault(address, 4 * page, false), -EFAULT);
    (void)bshm_os_unlink(fixture_path());
}

static void before_5_14_missing_memory_is_an_error_and_not_a_crash(void)
{
    in_child(look_beyond_the_end);
}

static void write_and_read(void)
{
    bshm_writer *writer = new_writer(5);
    bshm_reader *reader = new_reader(2);
    for (int i = 0; i < 10; i++) {
        (void)put(writer);
        bshm_frame frame = newest(reader);
        CHECK(is_whole(&frame) && frame.pinned);
        bshm_frame_release(&frame);
    }
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

/* ---------------------------------------------------------------- 3.15, on a file system without anything newer */

static void barely(void)
{
    without_populate();
    forbid(SYS_renameat2, 0, 0, ANY_VALUE, ENOSYS);
    forbid(SYS_fallocate, 0, 0, ANY_VALUE, EOPNOTSUPP);
    forbid(SYS_process_vm_readv, 0, 0, ANY_VALUE, ENOSYS);
    write_and_read();
    bshm_writer *writer = new_writer(3);
    bshm_writer *second = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    CHECK_EQUAL(bshm_writer_create(&second, fixture_name, &options, &fixture_error), BSHM_E_EXISTS);
    char temporary[BSHM_OS_PATH_BYTES];
    bshm_os_file file;
    REQUIRE(bshm_temporary_path(fixture_path(), temporary, &fixture_error) == BSHM_OK);
    REQUIRE(bshm_os_create(temporary, &file) == 0);
    CHECK_EQUAL(bshm_os_rename(temporary, fixture_path(), false), -EEXIST);
    CHECK_EQUAL(bshm_os_unlink(temporary), 0);
    bshm_writer_free(writer);
    leave_dead_segment(3, 4);
    writer = new_writer(3);
    CHECK_EQUAL(put(writer), 5);
    bshm_writer_free(writer);
}

static void a_kernel_of_3_15_is_enough(void)
{
    in_child(barely);
}

/* ---------------------------------------------------------------- before 3.15 */

static void try_without_locks(void)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    bshm_os_info found;
    forbid(SYS_fcntl, 1, 36, 38, EINVAL); /* F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW */
    CHECK_EQUAL(bshm_writer_create(&writer, fixture_name, &options, &fixture_error), BSHM_E_SYSTEM);
    CHECK_EQUAL(fixture_error.system_errno, ENOSYS);
    CHECK_CONTAINS(fixture_error.message, "Linux 3.15");
    CHECK_EQUAL(bshm_os_info_at(fixture_path(), &found), -ENOENT);
}

static void before_3_15_a_writer_says_what_it_needs_and_leaves_nothing(void)
{
    in_child(try_without_locks);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(before_5_14_pages_are_touched_before_they_are_used);
    RUN(before_5_14_missing_memory_is_an_error_and_not_a_crash);
    RUN(a_kernel_of_3_15_is_enough);
    RUN(before_3_15_a_writer_says_what_it_needs_and_leaves_nothing);
    return check_summary();
}
