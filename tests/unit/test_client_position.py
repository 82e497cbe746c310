"""A consumer that keeps its position: what it did not finish it gets again, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from lanewise import Client, GapError
from tests.scripted import Service, event, says, welcome

CONSUMER = """
import os, signal, sys
from lanewise import Client
url, position, done, die_at = sys.argv[1:]
with Client(url, "a-token") as client, client.stream(0, position=position) as stream, open(done, "a") as log:
    for event in stream:
        if event["seq"] == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)
        log.write(f"{event['seq']} ")
        log.flush()
        if event["seq"] == 5:
            break
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "position"


def test_a_consumer_that_was_killed_goes_on_with_what_it_had_not_done(
    service: Service, tmp_path: Path, path: Path
) -> None:
    done = tmp_path / "done"
    service.connections = [
        says(welcome(5), *map(event, range(1, 6))),
        says(welcome(5), *map(event, range(3, 6))),
    ]
    for die_at, status in ((3, -signal.SIGKILL), (0, 0)):
        command = [sys.executable, "-c", CONSUMER, service.url, str(path), str(done), str(die_at)]
        assert subprocess.run(command, timeout=30, check=False).returncode == status
    assert done.read_text() == "1 2 3 4 5 "
    assert [hello["after"] for hello in service.hellos] == [0, 2]
    assert path.read_text() == "5\n"
    assert sorted(tmp_path.iterdir()) == [done, path]


def test_an_event_that_could_not_be_handled_comes_again(service: Service, client: Client, path: Path) -> None:
    service.connections = [says(welcome(2), event(1), event(2)), says(welcome(2), event(2))]
    with pytest.raises(KeyError), client.stream(0, position=path) as stream:
        for item in stream:
            if item["seq"] == 2:
                raise KeyError
    with client.stream(0, position=path) as stream:
        assert next(stream)["seq"] == 2
    assert path.read_text() == "2\n"


def test_without_a_start_the_head_is_kept_before_anything_comes(service: Service, client: Client, path: Path) -> None:
    service.connections = [says(welcome(7), event(8)), says(welcome(8), event(8))]
    with pytest.raises(KeyError), client.stream(position=path) as stream:
        assert next(stream)["seq"] == 8
        assert path.read_text() == "7\n"
        raise KeyError
    with client.stream(position=path) as stream:
        assert next(stream)["seq"] == 8
    assert [hello["after"] for hello in service.hellos] == [None, 7]


def test_a_gap_is_told_until_the_consumer_goes_on(service: Service, client: Client, path: Path) -> None:
    path.write_text("3\n")
    gap = welcome(9, recovered=False, snapshot={"runs": []}) | {"reason": "trimmed"}
    service.connections = [says(gap), says(gap, event(10))]
    with pytest.raises(GapError), client.stream(position=path) as stream:
        next(stream)
    assert path.read_text() == "3\n"
    with client.stream(position=path) as stream:
        with pytest.raises(GapError):
            next(stream)
        assert [item["seq"] for item in islice(stream, 1)] == [10]
    assert path.read_text() == "10\n"


@pytest.mark.parametrize("content", ["", "x", "-1", "1 2"])
def test_a_file_that_is_something_else_is_left_alone(client: Client, path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no position"):
        client.stream(position=path)
    assert path.read_text() == content


def test_a_run_has_no_position(client: Client, path: Path) -> None:
    with pytest.raises(ValueError, match="leave out run_id"):
        client.stream(run_id="r1", position=path)
