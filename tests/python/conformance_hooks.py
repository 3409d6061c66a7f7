"""A fresh Idempotency-Key for each case that sends a good one: kept ones would
answer the first request for ever. Cases with a bad one stay as they are."""

import uuid

import schemathesis

NAME = "Idempotency-Key"


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers
    key = headers.get(NAME) if headers else None
    if isinstance(key, str) and 1 <= len(key) <= 255 and all("!" <= c <= "~" for c in key):
        headers[NAME] = str(uuid.uuid4())
