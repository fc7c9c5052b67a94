"""Typical field failures of such systems, and the tests that show they do not happen here."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from repository import TESTS

import billiards_shm

PACKAGE = Path(billiards_shm.__file__).parent

FAILURES: dict[str, list[str]] = {
    "the resolution changes, or a segment of another size is left over": [
        "test_capture_loop.py::test_a_source_that_comes_back_with_another_size_just_works",
        "test_real_streams.py::test_a_server_that_comes_back_with_another_resolution_just_works",
        "test_writer.py::test_a_larger_frame_replaces_the_segment_and_the_numbers_go_on",
        "test_readers_live_on.py::test_every_kind_of_reader_follows_kills_closes_and_other_sizes",
    ],
    "/dev/shm is smaller than three frames": [
        "test_memory.py::test_a_segment_that_does_not_fit_is_refused_with_the_bytes_needed_and_nothing_is_left",
        "test_capture_process.py::test_too_little_shared_memory_is_exit_4_and_leaves_nothing",
        "test_memory.py::test_a_segment_with_holes_on_a_full_file_system_is_a_named_error_and_never_sigbus",
    ],
    "a reader's exit unlinks the segment": [
        "test_lifetime.py::test_a_reader_that_exits_leaves_the_living_segment_alone",
    ],
    "a writer's restart rewinds the numbers, and readers wait forever": [
        "test_capture_process.py::test_readers_follow_a_capture_process_that_was_killed_and_started_again",
        "test_processes.py::test_numbers_go_on_after_whatever_a_killed_writer_may_have_shown",
        "test_processes.py::test_a_waiting_reader_goes_on_through_kill_after_kill_with_rising_numbers",
    ],
    "a frozen picture is reported healthy": [
        "test_capture_loop.py::test_a_frozen_picture_is_a_stall_and_the_source_is_opened_again",
        "test_frozen.py::test_identical_frames_are_frozen_after_the_limit",
        "test_capture_loop.py::test_the_measured_rate_falls_to_nothing_while_the_grab_hangs",
        "test_statistics.py::test_the_rate_falls_to_zero_when_no_frames_arrive",
        "test_serve.py::test_health_is_judged_by_the_age_of_the_newest_captured_frame",
        "test_serve.py::test_placeholders_do_not_make_a_source_healthy",
    ],
    "reading a frame never returns": [
        "test_capture_loop.py::test_readers_see_a_stall_while_the_grab_hangs",
        "test_real_streams.py::test_a_server_that_hangs_is_a_timeout_and_found_again",
        "test_supervisor.py::test_a_stopped_process_is_ended_and_started_again",
        "test_capture_process.py::test_a_source_that_does_not_return_does_not_delay_a_stop",
    ],
    "a camera that was plugged in again has another number": [
        "test_camera.py::test_a_stable_name_is_followed_again_at_each_attempt",
    ],
    "the driver says 30 fps and delivers 4, or says 0, 2000 or 180000": [
        "test_capture_loop.py::test_a_camera_slower_than_its_driver_claims_is_warned_about_once",
        "test_camera.py::test_an_impossible_rate_counts_as_unknown",
        "test_capture_loop.py::test_requested_and_actual_settings_are_logged_once_and_in_the_statistics",
        "test_statistics.py::test_a_steady_rate_is_measured_exactly",
    ],
    "looping by seeking to the first frame is inexact": [
        "test_capture_loop.py::test_a_file_is_opened_again_for_every_pass_and_never_sought",
        "test_capture_loop.py::test_a_file_that_loops_begins_again_at_its_first_frame",
    ],
    "RTSP options apply to the whole process": [
        "test_field.py::test_each_source_has_its_own_process",
    ],
    "HTTP clients lag by minutes, and each costs an encoding": [
        "test_serve_streams.py::test_a_slow_client_gets_the_newest_frame_when_it_reads_and_its_skipped_frames_are_counted",
        "test_serve_streams.py::test_fifty_clients_at_once_cost_one_encoding_per_frame",
    ],
    "the wall clock is set": [
        "test_field.py::test_nothing_is_measured_by_the_wall_clock",
    ],
    "retrying without back-off, giving up after five failures, reconnecting in storms": [
        "test_statistics.py::test_delays_grow_from_half_a_second_to_half_a_minute",
        "test_statistics.py::test_delays_differ_so_that_many_processes_do_not_try_in_step",
        "test_capture_loop.py::test_delays_start_over_once_frames_arrive_again",
        "test_restart_policy.py::test_it_goes_on_forever_and_reports_when_the_limit_makes_it_wait",
    ],
    "shared memory that everyone may write, or that only the owner may read": [
        "test_permissions.py::test_0600_keeps_everybody_else_out",
        "test_writer.py::test_the_object_has_exactly_the_mode_asked_for_whatever_the_umask",
    ],
    "OpenCV returns old frames to a loop that was delayed": [
        "test_capture_loop.py::test_frames_that_have_piled_up_are_skipped_and_counted",
        "test_real_streams.py::test_frames_missed_by_a_stopped_capture_process_are_skipped",
    ],
    "one corrupt packet looks like the end": [
        "test_real_files.py::test_all_good_frames_of_a_partly_corrupt_file_arrive",
        "test_capture_loop.py::test_damaged_frames_of_a_file_are_left_out_and_reported",
    ],
    "rotated video from phones is not decoded into the given memory": [
        "test_engines.py::test_a_turned_clip_is_shown_upright_and_lands_in_the_slot",
        "test_real_files.py::test_video_of_a_phone_held_upright_is_shown_upright",
    ],
}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse(next(TESTS.rglob(file)).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_has_its_tests(failure: str) -> None:
    for test in FAILURES[failure]:
        file, _, name = test.partition("::")
        assert name in names_in(file), test


def test_each_source_has_its_own_process() -> None:
    """OpenCV reads FFmpeg's options from the environment: options of one source apply to its whole process."""
    from billiards_shm.capture.loop import CaptureLoop

    making = re.compile(rf"= {CaptureLoop.__name__}[(]")
    made = {
        path.relative_to(PACKAGE).as_posix(): len(making.findall(path.read_text())) for path in PACKAGE.rglob("*.py")
    }
    # `run_capture` is the main program of a process, and creates one.
    assert {path: count for path, count in made.items() if count} == {"capture/process.py": 1}


def test_nothing_is_measured_by_the_wall_clock() -> None:
    """It may jump at any time. It is only for telling people when a frame was taken, and for dates kept by clients."""
    dates = {
        "capture/capture_time.py",  # the time at which the sender of a stream took a frame, by its own wall clock
        "record/recorder.py",  # the age of files that `--keep` removes
        "serve/access.py",  # the end of a cookie
        "serve/signed_urls.py",  # the end of a signed address
        "serve/guard.py",  # the end of a stream that such an address opened
        "serve/webhook.py",  # the time of a change, which another machine reads
    }
    wall = re.compile(r"\btime\.time(_ns)?\(\)|\bdatetime\.(now|utcnow)\(|\bCLOCK_REALTIME\b")
    used = {
        path.relative_to(PACKAGE).as_posix()
        for path in [*PACKAGE.rglob("*.py"), PACKAGE / "_core.pyx", *PACKAGE.rglob("*.pxi")]
        if any(wall.search(code) for code in path.read_text().splitlines() if "``" not in code)
    }
    assert used == dates
