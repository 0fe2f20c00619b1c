from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from robocompute_node.executor import segments
from robocompute_node.executor.folder import JobFolder
from robocompute_node.executor.log import RecordReader
from robocompute_protocol import receipts
from robocompute_protocol.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_protocol.messages import Output


async def read_all(path: Path, start: int = 0) -> list[Output]:
    reader = RecordReader(JobFolder(path), start=start, finished=lambda: True)
    return [record async for record in reader]


def write(path: Path, count: int, *, size: int = 10, max_bytes: int = 1 << 30) -> bytes:
    writer = segments.SegmentWriter(str(path / "log"), max_bytes)
    for number in range(count):
        stream = number % len(segments.STREAMS)
        writer.append(stream, number % len(segments.KINDS), b"%d" % number * size, number)
        if number % 3 == 0:
            writer.flush()
    writer.close()
    return writer.digest


async def test_the_supervisor_and_the_receipt_chain_output_alike(tmp_path: Path):
    digest = write(tmp_path, 50)
    chained = receipts.NO_OUTPUT
    for record in await read_all(tmp_path):
        chained = receipts.chain(chained, record)
    assert chained == digest


async def test_reading_begins_at_any_number(tmp_path: Path):
    write(tmp_path, 20)
    assert [record.sequence for record in await read_all(tmp_path, 17)] == [17, 18, 19]
    assert await read_all(tmp_path, 20) == []


async def test_numbers_go_on_over_segments_and_old_ones_are_dropped(tmp_path: Path):
    write(tmp_path, 400, size=20_000, max_bytes=3 * segments.SEGMENT_BYTES)
    kept = [record.sequence for record in await read_all(tmp_path)]
    assert kept[0] == 0
    assert kept[-1] == 399
    assert len(kept) < 400
    assert kept == sorted(kept)


async def test_a_record_that_is_still_being_written_is_waited_for(tmp_path: Path):
    write(tmp_path, 3)
    (path,) = (tmp_path / "log").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    done = False
    reader = RecordReader(JobFolder(tmp_path), start=0, finished=lambda: done)
    assert [(await anext(reader)).sequence for _ in range(2)] == [0, 1]
    async with trio.open_nursery() as nursery:

        async def complete() -> None:
            nonlocal done
            with path.open("ab") as file:
                file.write(whole[-1:])
            done = True

        nursery.start_soon(complete)
        assert (await anext(reader)).sequence == 2
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


async def test_a_damaged_log_is_an_error_and_not_output(tmp_path: Path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / segments.segment_name(0)).write_bytes(b"\xff" * 40)
    with pytest.raises(StoreError, match="damaged"):
        await read_all(tmp_path)
