"""The merge algebra: commutative, associative, idempotent, conservative; withdrawal is exact."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sona.federated.merge import Ledger, Stamp, ruling

agents = st.sampled_from(["a", "b", "c"])
stamps = st.builds(
    lambda epoch, version: Stamp(epoch, 100 + version, version, f"id-{version}"),
    st.integers(0, 3),
    st.integers(0, 4),
)
ledgers = st.builds(
    Ledger,
    st.dictionaries(st.tuples(agents, st.integers(0, 2)), stamps, max_size=6),
    st.dictionaries(agents, st.integers(0, 3), max_size=3),
)


@settings(deadline=None)
@given(ledgers, ledgers)
def test_joining_is_commutative(a, b):
    assert a | b == b | a


@settings(deadline=None)
@given(ledgers, ledgers, ledgers)
def test_joining_is_associative(a, b, c):
    assert (a | b) | c == a | (b | c)


@settings(deadline=None)
@given(ledgers, ledgers)
def test_joining_is_idempotent(a, b):
    assert a | a == a
    assert (a | b) | b == a | b


@settings(deadline=None)
@given(ledgers, ledgers)
def test_nothing_is_lost_and_nothing_invented(a, b):
    both = a | b
    assert set(both.stamps) == set(a.stamps) | set(b.stamps)
    for session, stamp in both.stamps.items():
        assert stamp in (a.stamps.get(session), b.stamps.get(session))
    for session in both.sessions():
        assert both.epoch(session[0]) == both[session].epoch


@settings(deadline=None)
@given(ledgers, ledgers)
def test_what_is_told_is_all_that_is_lacking(a, b):
    """News and graves of one side are what the other needs to agree with both."""
    stamps = {**b.stamps, **b.graves_in(a), **{s: a[s] for s in a.news_for(b)}}
    met = Ledger(stamps, {agent: max(a.epoch(agent), b.epoch(agent)) for agent in "abc"})
    both = a | b
    assert set(met.sessions()) == set(both.sessions())
    assert all(met[s] == both[s] for s in both.sessions())


@settings(deadline=None)
@given(ledgers)
def test_a_ledger_travels(a):
    assert Ledger.from_bytes(a.to_bytes()) == a


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), agents, st.integers(0, 2), st.integers(0, 4)),
            st.tuples(st.just("withdraw"), agents),
            st.tuples(st.just("readmit"), agents),
        ),
        max_size=25,
    )
)
def test_a_withdrawn_session_stays_withdrawn_over_any_history(history):
    held, epochs, dead = {}, {}, set()
    for event in history:
        kind, agent = event[:2]
        epoch = epochs.get(agent, 0)
        if kind == "send":
            session, version = (agent, event[2]), event[3]
            order = (100 + version, version, f"id-{version}")
            decided = ruling(held.get(session), epoch, order)
            assert (decided == "withdrawn") == (session in dead or epoch % 2 == 1)
            if decided in ("accepted", "superseded") or session not in held:
                held[session] = Stamp(epoch, *order)
            if epoch % 2:
                dead.add(session)
        elif (kind == "withdraw") == (epoch % 2 == 0):
            epochs[agent] = epoch + 1
            dead |= {session for session in held if session[0] == agent}
        assert not dead & set(Ledger(held, epochs).sessions())
