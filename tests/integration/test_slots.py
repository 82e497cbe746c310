from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import pytest
import redis

from lanewise.process import wait_until
from shared.redis import Keys
from shared.slots import MOST_TRIES, Slots, member, run_of
from tests.services import in_parallel

PATIENCE_S = 5
KEYS = Keys("test")
MakeSlots = Callable[[float], "KnownSlots"]


def nobody() -> Sequence[str]:
    """Postgres knows of no live run."""
    return ()


class KnownSlots(Slots):
    """Slots of users of whom Postgres knows nothing, unless a test says so."""

    def acquire(
        self, user_id: str, members: Sequence[str], limit: int, live: Callable[[], Iterable[str]] = nobody
    ) -> list[str]:
        return super().acquire(user_id, members, limit, live)


class Live:
    """What Postgres says of a user's live runs, and how often it was asked."""

    def __init__(self, *members: str) -> None:
        self.members = members
        self.asked = 0

    def __call__(self) -> Sequence[str]:
        self.asked += 1
        return self.members


@pytest.fixture
def make(redis_client: redis.Redis) -> MakeSlots:
    return lambda lease_s: KnownSlots(redis_client, KEYS, lease_s)


@pytest.fixture
def slots(make: MakeSlots) -> KnownSlots:
    return make(60)


def remaining_s(client: redis.Redis, run_id: str) -> float:
    """Returns the seconds until the lease of Alice's run ends."""
    seconds, micros = client.time()
    score = client.zscore(KEYS.slots("alice"), run_id)
    assert isinstance(score, float)
    return score - seconds - micros / 1e6


def test_a_member_names_run_and_attempt() -> None:
    assert member("r1", 2) == "r1:2"
    assert run_of("r1:2") == "r1"
    assert run_of(member("a:b", 1)) == "a:b"


def test_nobody_is_asked_for_nothing(slots: KnownSlots) -> None:
    live = Live()
    assert slots.acquire("alice", [], 1, live) == []
    assert live.asked == 0


def test_keeping_takes_no_slot_and_leaves_no_mark(slots: KnownSlots, redis_client: redis.Redis) -> None:
    assert not slots.keep("alice", "r1")  # in doubt, and whoever cannot restore says nothing of it
    assert redis_client.keys("*") == []
    assert slots.acquire("alice", ["r1"], 3) == ["r1"]
    assert not slots.keep("alice", "r2")
    assert slots.keep("alice", "r1")
    assert slots.held("alice") == ["r1"]
    slots.release("alice", ["r1"])
    assert not slots.keep("alice", "r1")
    assert slots.held("alice") == []


def test_leases_end_by_the_clock_of_redis_to_the_fraction(make: MakeSlots, redis_client: redis.Redis) -> None:
    """And keys go after two leases, whatever was done last."""
    slots, key = make(1000), KEYS.slots("alice")
    slots.acquire("alice", ["r1"], 1)
    assert wait_until(lambda: 0.5e6 < redis_client.time()[1] < 0.9e6, PATIENCE_S)
    for renew in (
        lambda: slots.acquire("alice", ["r1"], 1),
        lambda: slots.renew({"alice": ["r1"]}),
        lambda: slots.restore("alice", ["r1"]),
    ):
        redis_client.persist(key)
        renew()
        assert 999.5 < remaining_s(redis_client, "r1") <= 1000
        assert 1_990_000 < redis_client.pttl(key) <= 2_000_000
    redis_client.delete(key)
    with pytest.raises(ZeroDivisionError):
        slots.acquire("alice", ["r1"], 1, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert 1_990_000 < redis_client.pttl(key) <= 2_000_000  # a mark of doubt alone


def test_the_oldest_take_what_is_free(slots: KnownSlots) -> None:
    assert slots.acquire("alice", ["r1", "r2", "r3"], 2) == ["r1", "r2"]
    assert slots.acquire("alice", ["r3"], 2) == []
    assert slots.held("alice") == ["r1", "r2"]


def test_acquire_is_idempotent_and_renews(make: MakeSlots, redis_client: redis.Redis) -> None:
    assert make(10).acquire("alice", ["r1"], 1) == ["r1"]
    assert make(60).acquire("alice", ["r1"], 1) == ["r1"]
    assert 55 < remaining_s(redis_client, "r1") <= 60
    assert make(60).held("alice") == ["r1"]


def test_a_holder_keeps_its_slot_under_a_lowered_limit(slots: KnownSlots) -> None:
    slots.acquire("alice", ["r1", "r2", "r3"], 3)
    assert slots.acquire("alice", ["r0", "r2", "r3"], 1) == ["r2", "r3"]
    slots.release("alice", ["r1", "r2", "r3"])
    assert slots.acquire("alice", ["r0", "r2"], 1) == ["r0"]


def test_users_do_not_count_for_one_another(slots: KnownSlots) -> None:
    assert slots.acquire("alice", ["r1"], 1) == ["r1"]
    assert slots.acquire("bob", ["r1"], 1) == ["r1"]
    slots.release("bob", ["r1"])
    assert (slots.held("alice"), slots.held("bob")) == (["r1"], [])


def test_a_release_frees_only_what_it_names(slots: KnownSlots) -> None:
    slots.acquire("alice", ["r1", "r2"], 2)
    assert slots.release("alice", ["r1", "unknown"]) == 1
    assert slots.release("alice", []) == 0
    assert slots.held("alice") == ["r2"]
    assert slots.acquire("alice", ["r3", "r4"], 2) == ["r3"]


class TestEndedLease:
    """Nobody has renewed it: the run may be over, or go on where Redis does not hear its worker."""

    @pytest.fixture
    def short(self, make: MakeSlots) -> KnownSlots:
        short = make(0.2)
        assert short.acquire("alice", ["r1"], 1) == ["r1"]
        assert wait_until(lambda: short.held("alice") == [], PATIENCE_S)
        return short

    def test_it_is_over_if_postgres_does_not_know_its_run(self, short: KnownSlots) -> None:
        live = Live()
        assert short.acquire("alice", ["r2"], 1, live) == ["r2"]
        assert live.asked == 1
        assert short.acquire("alice", ["r1"], 1, live) == []
        assert live.asked == 1

    def test_it_holds_on_if_postgres_knows_its_run(self, short: KnownSlots) -> None:
        assert short.acquire("alice", ["r2"], 1, Live("r1")) == []
        assert short.held("alice") == ["r1"]

    def test_whoever_owns_the_run_may_still_renew_it(self, short: KnownSlots) -> None:
        assert not short.keep("alice", "r1")  # in doubt
        assert short.renew({"alice": ["r1"]}) == {}
        assert short.keep("alice", "r1")
        assert short.acquire("alice", ["r2"], 1) == []


def test_an_expired_slot_is_not_held_even_before_it_is_removed(make: MakeSlots, redis_client: redis.Redis) -> None:
    make(0.1).acquire("alice", ["r1"], 2)
    make(60).restore("alice", ["r2"])
    assert wait_until(lambda: make(60).held("alice") == ["r2"], PATIENCE_S)
    assert redis_client.zcard(KEYS.slots("alice")) == 3  # with the mark of readiness
    assert make(60).count(["alice", "nobody"]) == 2


def test_renewing_keeps_a_slot_beyond_its_first_lease(make: MakeSlots) -> None:
    short = make(0.3)
    short.acquire("alice", ["kept", "left"], 2)

    def renewed_and_other_gone() -> bool:
        assert short.renew({"alice": ["kept"]}) == {}
        return short.held("alice") == ["kept"]

    assert wait_until(renewed_and_other_gone, PATIENCE_S)


def test_renewing_tells_what_is_not_held_and_takes_nothing(slots: KnownSlots) -> None:
    slots.acquire("alice", ["r1", "r2"], 2)
    assert slots.renew({"alice": ["r1", "r2"]}) == {}
    slots.release("alice", ["r2"])
    assert slots.renew({"alice": ["r1", "r2"], "bob": ["r3"]}) == {"alice": ["r2"], "bob": ["r3"]}
    assert (slots.held("alice"), slots.held("bob")) == (["r1"], [])
    assert slots.renew({}) == {}


class TestWipe:
    def test_nothing_is_given_before_what_runs_is_put_back(self, slots: KnownSlots, redis_client: redis.Redis) -> None:
        slots.acquire("alice", ["r1", "r2"], 2)
        redis_client.flushall()
        assert slots.restore("alice", ["r1"]) == 1  # a worker's beat: of its own runs alone
        assert not slots.keep("alice", "r1")
        live = Live("r1", "r2")
        assert slots.acquire("alice", ["r3"], 2, live) == []
        assert slots.acquire("alice", ["r3", "r1"], 3, live) == ["r3", "r1"]
        assert live.asked == 1

    def test_what_is_put_back_counts_above_the_limit_too(self, slots: KnownSlots) -> None:
        assert slots.acquire("alice", ["r4"], 2, Live("r1", "r2", "r3")) == []
        slots.release("alice", ["r1", "r2"])
        assert slots.acquire("alice", ["r4"], 2) == ["r4"]

    def test_a_wipe_while_postgres_is_asked_is_noticed(self, slots: KnownSlots, redis_client: redis.Redis) -> None:
        slots.acquire("alice", ["r1"], 1)
        redis_client.flushall()
        answers = iter([(), ("r1",)])  # a run began between the two, elsewhere; its slot was wiped at once
        asked = 0

        def live() -> Sequence[str]:
            nonlocal asked
            asked += 1
            redis_client.flushall()
            return next(answers, ("r1",))

        with pytest.raises(redis.RedisError):  # it is wiped each time
            slots.acquire("alice", ["r2"], 1, live)
        assert slots.held("alice") == []
        assert asked == MOST_TRIES == 4

    def test_who_was_slower_takes_what_the_faster_has_restored(
        self, slots: KnownSlots, redis_client: redis.Redis
    ) -> None:
        redis_client.flushall()

        def live() -> Sequence[str]:  # meanwhile another one restores, takes the only slot, and is stored
            assert slots.acquire("alice", ["r1"], 1) == ["r1"]
            return ()

        assert slots.acquire("alice", ["r2"], 1, live) == []
        assert slots.held("alice") == ["r1"]

    def test_putting_back_does_not_shorten_a_lease(self, make: MakeSlots, redis_client: redis.Redis) -> None:
        make(60).acquire("alice", ["r1"], 1)
        make(60).restore("alice", ["r1"])
        assert remaining_s(redis_client, "r1") > 55
        assert make(60).restore("alice", []) == 0

    def test_other_users_are_not_concerned(self, slots: KnownSlots) -> None:
        slots.acquire("bob", ["r1"], 1)
        slots.restore("alice", ["r1"])
        live = Live()
        assert slots.acquire("bob", ["r2"], 1, live) == []
        assert live.asked == 0

    def test_marks_count_as_no_slot(self, slots: KnownSlots, redis_client: redis.Redis) -> None:
        redis_client.flushall()
        with pytest.raises(ZeroDivisionError):
            slots.acquire("alice", ["r1"], 1, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        assert (slots.held("alice"), slots.count(["alice"])) == ([], 0)
        assert slots.acquire("alice", ["r1", "r2"], 1) == ["r1"]


def test_a_user_who_is_gone_leaves_no_key_behind(make: MakeSlots, redis_client: redis.Redis) -> None:
    make(0.1).acquire("alice", ["r1"], 1)
    make(0.1).restore("bob", ["r2"])
    assert wait_until(lambda: redis_client.keys("*") == [], PATIENCE_S)


def test_a_scripts_text_is_sent_again_after_a_wipe(slots: KnownSlots, redis_client: redis.Redis) -> None:
    slots.acquire("alice", ["r1"], 1)
    slots.renew({"alice": ["r1"]})
    redis_client.script_flush()
    assert slots.renew({"alice": ["r1"]}) == {}
    assert slots.acquire("alice", ["r1"], 1) == ["r1"]


def test_the_limit_holds_under_sixteen_threads(slots: KnownSlots) -> None:
    limit, inside, most, taken = 3, set[str](), 0, 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal most, taken
        for n in range(30):
            run_id = f"{number}-{n}"
            if slots.acquire("alice", [run_id], limit):
                with lock:
                    inside.add(run_id)
                    most, taken = max(most, len(inside)), taken + 1
                assert run_id in slots.held("alice")
                with lock:
                    inside.remove(run_id)
                slots.release("alice", [run_id])

    in_parallel(16, work)
    assert most == limit
    assert taken > 16
    assert slots.held("alice") == []


def test_keys_of_users_cannot_imitate_one_another() -> None:
    names = {KEYS.slots(user) for user in ("a", "a:slots", "*", "a}:{b", "A", "lw:test:x", "ä", "a" * 128)}
    assert len(names) == 8
    prefix = "lw:test:{"
    for name in names:
        assert name.startswith(prefix)
        assert len(name) == len(prefix) + 32 + len("}:slots")
        assert name.isascii()
