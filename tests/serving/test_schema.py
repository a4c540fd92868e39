"""Requests made from the server's own description, right and wrong, are answered as it says."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Client, encode, form_of, noise

IMAGES = st.sampled_from(
    [encode(noise(20, 30)), encode(noise(30, 20), "JPEG"), b"", b"\x89PNG\r\n\x1a\n", b"photo.jpg"]
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    """Values of a parameter: some as its schema has them, some at its limits, some anything."""
    kinds = schema.get("anyOf", [schema])
    allowed: list[Any] = [choice for kind in kinds for choice in kind.get("enum", ())]
    for kind in kinds:
        for limit in (kind.get("minimum"), kind.get("maximum")):
            if limit is not None:
                allowed += [limit, limit - 1, limit + 1, limit + 0.5]
    return st.one_of(
        st.sampled_from(list(map(str, allowed)) or [""]),
        st.integers().map(str),
        st.floats().map(str),
        st.text(max_size=20),
    )


def requests(document: dict[str, Any]) -> st.SearchStrategy[tuple[str, str, dict[str, str], bytes, str]]:
    """Method, path, settings, body and content type."""
    described = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            names = {row["name"]: values(row["schema"]) for row in operation.get("parameters", ())}
            query = st.fixed_dictionaries({}, optional={**names, "other": st.text(max_size=5)})
            raw = st.tuples(IMAGES, st.sampled_from(["image/png", "application/json", "multipart/form-data", ""]))
            parts = st.lists(st.tuples(st.sampled_from(["images", "x"]), st.sampled_from(["a.png", None]), IMAGES))
            form = parts.map(lambda rows: form_of(*rows))
            methods_tried = st.sampled_from([*(method.upper() for method in methods), "GET", "POST", "PUT"])
            described.append(st.tuples(methods_tried, st.just(path), query, st.one_of(raw, form)))
    return st.one_of(described).map(lambda row: (*row[:3], *row[3]))


def test_no_request_finds_a_bug(client: Client) -> None:
    document = client.get("/openapi.json").json
    known = {
        (path, method.upper()): {*operation["responses"]}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(requests(document))
    def holds(request: tuple[str, str, dict[str, str], bytes, str]) -> None:
        method, path, query, body, kind = request
        answer = client.request(method, f"{path}?{urlencode(query)}", body, {"Content-Type": kind})
        if (path, method) not in known:
            assert answer.status == 405
        else:
            assert str(answer.status) in known[path, method], answer
            assert answer.status == 200 or answer.sentence

    holds()
