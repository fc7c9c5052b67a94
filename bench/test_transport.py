"""What one process can measure: writing, lending, reading. Latencies between processes are measured elsewhere.

The floor of every copy is `numpy.copyto` between two private, touched arrays in the same run.
"""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sizes import Picture, own_name
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter


@pytest.mark.benchmark(group="write")
def test_floor_copy_into_private_memory(benchmark: BenchmarkFixture, picture: Picture) -> None:
    destination = np.zeros_like(picture)
    benchmark(np.copyto, destination, picture)


@pytest.mark.benchmark(group="write")
def test_write_frame(benchmark: BenchmarkFixture, writer: SharedMemoryFrameWriter, picture: Picture) -> None:
    benchmark(writer.write_frame, picture)
    assert writer.statistics.dropped == 0


@pytest.mark.benchmark(group="loan")
def test_loan_and_publish_without_touching_pixels(benchmark: BenchmarkFixture, writer: SharedMemoryFrameWriter) -> None:
    def lend() -> None:
        with writer.loan():
            pass

    benchmark(lend)


@pytest.mark.benchmark(group="read")
def test_read_frame_that_is_new(
    benchmark: BenchmarkFixture, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    def publish() -> None:
        with writer.loan():
            pass

    def read() -> bool:
        return reader.read_frame()[0] is not None

    assert benchmark.pedantic(read, setup=publish, rounds=3000)


@pytest.mark.benchmark(group="read")
def test_read_frame_with_nothing_new(benchmark: BenchmarkFixture, reader: SharedMemoryFrameReader) -> None:
    assert benchmark(reader.read_frame) == (None, None)


@pytest.mark.benchmark(group="read a copy")
def test_read_frame_as_a_copy(
    benchmark: BenchmarkFixture, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    def publish() -> None:
        with writer.loan():
            pass

    def read() -> bool:
        return reader.read_frame(copy=True)[0] is not None

    assert benchmark.pedantic(read, setup=publish, rounds=200)


@pytest.mark.benchmark(group="start")
def test_create_and_close_a_segment(benchmark: BenchmarkFixture, picture: Picture) -> None:
    def cycle() -> None:
        SharedMemoryFrameWriter(own_name("start"), picture.shape).close()

    benchmark.pedantic(cycle, rounds=20)
