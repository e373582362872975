"""Who may do what: tokens, tenants, and what is refused to everyone else."""

import sqlite3
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from tests.service.conftest import Running, eventually, make_export

from sona.cli import main
from sona.errors import RangeError
from sona.service.guard import Guard
from sona.service.history import History
from sona.service.limits import Limits, RateLimit
from sona.service.problems import ProblemError
from sona.service.tokens import TokenBook


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service with two tenants, and a token for each kind of caller."""
    store = tmp_path_factory.mktemp("tokens") / "store"
    store.mkdir()
    book = TokenBook(store / "tokens.db")
    tokens = {
        "acme": book.create("acme"),
        "acme-1": book.create("acme", "agent-1"),
        "rival": book.create("rival"),
    }
    book.close()
    with Running(store) as running:
        yield running, tokens


def get(service, path, token):
    return service.json("GET", path, None, {"Authorization": f"Bearer {token}"})


def test_every_door_is_closed_without_a_token(shared):
    service, _ = shared
    for path in ("warm-start", "patterns", "agents", "overview", "events"):
        assert service.json("GET", f"/v1/{path}")[0] == 401
    assert service.json("GET", "/metrics")[0] == 401
    assert service.post(make_export().to_bytes())[0] == 401
    assert service.json("POST", "/v1/route", '{"embedding": [1.0]}')[0] == 401
    assert service.json("GET", "/healthz")[0] == 200


def test_a_tenant_never_sees_what_another_learned(shared):
    service, tokens = shared
    assert service.post(make_export("spy", routes="xy").to_bytes(), token=tokens["acme"])[0] == 201
    eventually(lambda: get(service, "/v1/patterns", tokens["acme"])[1]["total"])
    assert get(service, "/v1/patterns", tokens["rival"])[1]["total"] == 0
    assert get(service, "/v1/agents", tokens["rival"])[1]["agents"] == []
    assert get(service, "/v1/warm-start", tokens["rival"])[0] == 404
    assert get(service, "/v1/overview", tokens["rival"])[1]["recent"] == []
    # Dimensions are the tenant's own, and so are keys and sessions.
    other = make_export("spy", dim=3).to_bytes()
    assert service.post(other, token=tokens["rival"])[0] == 201
    assert {a["agent_id"] for a in get(service, "/v1/agents", tokens["acme"])[1]["agents"]} == {
        "spy"
    }


def test_a_token_of_another_tenant_replays_into_its_own(shared):
    service, tokens = shared
    data = make_export("replayed", rows=20).to_bytes()
    assert service.post(data, key="r", token=tokens["acme"])[0] == 201
    before = get(service, "/v1/overview", tokens["acme"])[1]["totals"]["exports"]
    # Who steals the bytes and the key needs acme's token too: with another, acme is untouched.
    assert service.post(data, key="r", token=tokens["rival"])[0] in (201, 422)
    assert get(service, "/v1/overview", tokens["acme"])[1]["totals"]["exports"] == before


def test_an_agents_token_speaks_for_that_agent_only(shared):
    service, tokens = shared
    assert service.post(make_export("agent-1").to_bytes(), token=tokens["acme-1"])[0] == 201
    status, problem = service.post(make_export("agent-2").to_bytes(), token=tokens["acme-1"])
    assert (status, problem["place"]) == (403, "agent_id")


def test_a_revoked_token_is_refused_at_once(shared, capsys):
    service, _ = shared
    store = str(service.store)
    assert main(["token", "create", "--store", store, "--tenant", "brief", "--agent", "b"]) == 0
    token = capsys.readouterr().out.strip()
    assert get(service, "/v1/patterns", token)[0] == 200
    assert main(["token", "list", "--store", store]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "brief" in x)
    assert token.split("_", 2)[2] not in line  # a secret may hold underscores itself
    assert main(["token", "revoke", line.split()[0], "--store", store]) == 0
    assert get(service, "/v1/patterns", token)[0] == 401
    assert main(["token", "revoke", line.split()[0], "--store", store]) == 1


def test_secrets_are_not_kept(tmp_path):
    book = TokenBook(tmp_path / "tokens.db")
    token = book.create("acme")
    secret = token.split("_", 2)[2]
    (row,) = sqlite3.connect(tmp_path / "tokens.db").execute("SELECT * FROM tokens").fetchall()
    assert not any(secret in str(value) for value in row)
    assert secret.encode() not in (tmp_path / "tokens.db").read_bytes()
    book.close()


@given(st.integers(0, 64), st.sampled_from("abcXYZ019_-"))
def test_no_altered_token_is_valid(place, letter):
    book = TokenBook(":memory:")
    token = book.create("acme")
    altered = token[:place] + letter + token[place + 1 :]
    assert (book.verify(altered) is not None) == (altered == token)
    assert book.verify(altered[:place]) is None
    book.close()


@pytest.mark.parametrize("tenant", ["", "../etc", "A", "a/b", "-a", "a" * 64, "ä", None])
def test_a_tenants_name_is_a_safe_file_name(tenant):
    book = TokenBook(":memory:")
    with pytest.raises(RangeError, match="`tenant`"):
        book.create(tenant)
    book.close()


def test_binding_elsewhere_needs_a_token(tmp_path, capsys):
    assert main(["serve", "--store", str(tmp_path), "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "sona token create" in capsys.readouterr().err


def test_a_folder_has_one_service(tmp_path, capsys):
    with Running(tmp_path) as holder:
        assert main(["serve", "--store", str(tmp_path), "--port", "0"]) == 1
        told = capsys.readouterr().err
        assert "another service" in told
        assert f"process {holder.process.pid} on" in told
    with Running(tmp_path):  # the lock went with its holder
        pass


def test_the_first_founders_race_makes_one_tenant(tmp_path):
    with Running(tmp_path) as service:
        statuses = []
        threads = [
            threading.Thread(
                target=lambda n=n: statuses.append(service.post(make_export(f"a{n}").to_bytes())[0])
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [201] * 8
        assert service.json("GET", "/v1/agents")[1]["total"] == 8


@given(
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200),
    st.floats(0.5, 20.0),
    st.integers(1, 10),
)
def test_a_rate_is_never_exceeded_and_waiting_as_told_is_enough(pauses, rate, burst):
    now = 0.0
    limit = RateLimit(rate, burst, clock=lambda: now)
    granted = 0
    for pause in pauses:
        now += pause
        wait = limit.wait("caller")
        granted += wait == 0.0
        assert granted <= burst + rate * now + 1e-6
        if wait > 0.0:
            now += wait + 1e-9
            assert limit.wait("caller") == 0.0
            granted += 1


@pytest.mark.parametrize("kind", [TokenBook, History])
def test_a_file_that_another_process_is_making_is_waited_for(tmp_path, kind):
    path = tmp_path / "file.db"
    other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.2, other.execute, ("COMMIT",))
    done.start()
    kind(path).close()
    done.join()
    other.close()


def test_a_look_into_the_file_is_shared_for_a_millisecond_only(tmp_path):
    class Counting(TokenBook):
        looks = 0

        def verify(self, token):
            self.looks += 1
            return super().verify(token)

    book = Counting(tmp_path / "tokens.db")
    token = book.create("acme")
    guard = Guard(book, Limits(rate=1e6, burst=1_000_000))
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]}
    until = time.monotonic() + 0.2
    admitted = 0
    while time.monotonic() < until:
        admitted += guard.admit(Request(scope)).tenant == "acme"
    assert 2 <= book.looks <= 210
    assert admitted > book.looks
    assert book.revoke(book.tokens()[0].token_id)
    time.sleep(0.002)
    with pytest.raises(ProblemError):
        guard.admit(Request(scope))
    book.close()
