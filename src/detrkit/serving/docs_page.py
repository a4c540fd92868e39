"""The page `/docs`: the addresses and a form to try them, without scripts and without a network."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from jinja2 import Environment

CSP = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The page loads nothing and runs nothing."""

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886 }
form { padding: 1rem; border: 1px solid #8886; border-radius: .4rem }
</style>
<h1>{{ title }} {{ version }}</h1>
<p>The machine-readable description is <a href="openapi.json">openapi.json</a>.</p>
{% if with_form %}
<form action="v1/predict" method="post" enctype="multipart/form-data">
<label>Try it with images: <input type="file" name="images" multiple required accept="image/*"></label>
<button>Detect</button>
</form>
{% endif %}
{% for path, method, operation in operations %}
<h2><code>{{ method }} {{ path }}</code></h2>
<p>{{ operation.description or operation.summary }}</p>
{% if operation.requestBody %}
<p>Body: {{ operation.requestBody.content | join(" or ") }}</p>
{% endif %}
{% if operation.parameters %}
<table>
<tr><th>setting in the address<th>default<th>meaning
{% for row in operation.parameters %}
<tr><td><code>{{ row.name }}</code><td>{{ row.schema.default }}<td>{{ row.schema.description or row.description }}
{% endfor %}
</table>
{% endif %}
<table>
<tr><th>status<th>meaning
{% for status, row in operation.responses.items() %}
<tr><td>{{ status }}<td>{{ row.description }}
{% endfor %}
</table>
{% endfor %}
</html>
"""


def docs_response(document: dict[str, Any], *, with_form: bool) -> Response:
    """The page of an OpenAPI document.

    Args:
        document: OpenAPI document.
        with_form: whether to show a form, which cannot send a key.
    """
    operations = [
        (path, method.upper(), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    info = document["info"]
    template = Environment(autoescape=True).from_string(TEMPLATE)
    page = template.render(title=info["title"], version=info["version"], operations=operations, with_form=with_form)
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": CSP})
