"""The OpenAPI document and the service agree: schemathesis asks everything that it describes."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from sona.service.openapi import document

SCHEMA = schemathesis.openapi.from_dict(document())
# Events have no end; test_http reads them.
ASKED = [
    (path, method)
    for path, methods in document()["paths"].items()
    for method in methods
    if path != "/v1/events"
]
# Where some input is wrong by the schema; the others take any text or nothing.
CAN_BE_WRONG = {"/v1/exports", "/v1/route", "/v1/patterns", "/v1/agents"}


def ask_and_check(service, path, method, mode, excluded):
    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEMA[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        case.call_and_validate(base_url=service.url, timeout=20, excluded_checks=excluded)

    ask()


@pytest.mark.parametrize(("path", "method"), ASKED)
def test_good_requests_are_answered_as_documented(service, path, method):
    # No schema can say what a checksum must be, nor the dimension that a tenant has.
    excluded = [positive_data_acceptance] if method == "post" else []
    ask_and_check(service, path, method, GenerationMode.POSITIVE, excluded)


@pytest.mark.parametrize(("path", "method"), [a for a in ASKED if a[0] in CAN_BE_WRONG])
def test_bad_requests_are_refused_as_documented(service, path, method):
    ask_and_check(service, path, method, GenerationMode.NEGATIVE, [])


def test_the_document_is_served_and_names_every_path(service):
    status, served = service.json("GET", "/openapi.json")
    assert status == 200
    assert served == json.loads(json.dumps(document()))
    for path in served["paths"]:
        methods = list(served["paths"][path])
        other = "GET" if methods == ["post"] else "POST"
        assert service.request(other, path)[0] == 405
