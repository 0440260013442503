import json

import pytest

from model_store.errors import IntegrityError, NotFound
from service import errors
from service.experiments.errors import StateUnavailable
from slimctr.errors import BadValue, EngineError


def subclasses(family: type) -> set[type]:
    return {family}.union(*(subclasses(child) for child in family.__subclasses__()))


def test_every_expected_error_has_a_kind_of_its_own_family() -> None:
    abstract = {errors.ServiceError, errors.Unavailable}
    # Differs from its parent by a header alone.
    for error in subclasses(errors.ServiceError) - abstract - {errors.UnsupportedCoding}:
        assert error in errors.PROBLEMS, error.__name__


def test_a_slug_means_one_thing() -> None:
    by_slug: dict[str, errors.ProblemKind] = {}
    for kind in errors.PROBLEMS.values():
        assert by_slug.setdefault(kind.slug, kind) == kind


@pytest.mark.parametrize(
    ("error", "under_v2", "status", "slug"),
    [
        (errors.QueueFull("x"), False, 503, "queue-full"),
        (errors.DeadlineExceeded("x"), False, 504, "deadline"),
        (errors.InvalidInput([errors.Fault("#/a", "b")]), False, 422, "invalid-input"),
        (errors.InvalidInput([errors.Fault("#/a", "b")]), True, 400, "invalid-input"),
        (BadValue("f", "detail"), False, 422, "invalid-input"),
        (NotFound("x"), False, 404, "unknown-name"),
        (StateUnavailable("x"), False, 503, "state-unavailable"),
        (IntegrityError("a path"), False, 500, "internal"),
        (EngineError("a path"), False, 500, "internal"),
        (ZeroDivisionError("a secret"), False, 500, "internal"),
    ],
)
def test_status_and_slug(error: Exception, under_v2: bool, status: int, slug: str) -> None:
    problem = errors.problem_of(error, under_v2=under_v2)
    assert (problem.status, problem.kind.slug) == (status, slug)
    assert ("Retry-After" in problem.headers) is (status == 503)


def test_an_internal_error_tells_the_caller_nothing() -> None:
    assert "secret" not in errors.problem_of(ZeroDivisionError("a secret"), under_v2=False).detail


def test_the_document_follows_rfc_9457_and_repeats_the_detail_as_error() -> None:
    faults = [errors.Fault(f"#/instances/{row}/price", "wrong") for row in range(30)]
    problem = errors.problem_of(errors.InvalidInput(faults), under_v2=False)
    response = errors.problem_response(problem, path="/v1/predict", request_id="r1")
    document = json.loads(response.body)
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"] == "/problems/invalid-input"
    assert document["error"] == document["detail"] == "#/instances/0/price: wrong (and 19 more)"
    assert (document["instance"], document["request_id"], document["status"]) == ("/v1/predict", "r1", 422)
    assert len(document["errors"]) == 20
