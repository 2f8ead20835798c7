# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit on the helpers' callers: a burst, then a steady rate."""

from dataclasses import dataclass

from momhelper.gate import TokenBucket


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def takes(bucket: TokenBucket, tries: int) -> int:
    return sum(bucket.take() for _ in range(tries))


def test_a_burst_and_not_one_more() -> None:
    assert takes(TokenBucket(20, 1, Clock()), 100) == 20


def test_then_as_many_as_time_gives() -> None:
    clock = Clock()
    bucket = TokenBucket(20, 1, clock)
    takes(bucket, 20)
    clock.now_s += 0.9
    assert not bucket.take()
    clock.now_s += 0.2
    assert takes(bucket, 2) == 1
    clock.now_s += 3
    assert takes(bucket, 10) == 3


def test_rest_gives_no_more_than_a_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(20, 1, clock)
    clock.now_s += 1e6
    assert takes(bucket, 100) == 20


def test_less_than_one_a_second() -> None:
    clock = Clock()
    bucket = TokenBucket(1, 1 / 60, clock)
    assert takes(bucket, 2) == 1
    clock.now_s += 59
    assert not bucket.take()
    clock.now_s += 1.5
    assert takes(bucket, 2) == 1
