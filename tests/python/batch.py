"""Fifty lines through the official client's files and batches."""

import io
import json
import sys
import time

import openai

client = openai.OpenAI(max_retries=20)
LINES = 50

lines = [
    {
        "custom_id": f"question-{i}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "smollm2",
            "messages": [{"role": "user", "content": f"What is {i} plus {i}?"}],
            "max_tokens": 24,
            "temperature": 0,
        },
    }
    for i in range(LINES)
]
content = "\n".join(json.dumps(line) for line in lines).encode()
file = client.files.create(file=("questions.jsonl", io.BytesIO(content)), purpose="batch")
assert client.files.content(file.id).read() == content
assert file.id in [f.id for f in client.files.list()]

batch = client.batches.create(
    input_file_id=file.id,
    endpoint="/v1/chat/completions",
    completion_window="24h",
    metadata={"from": "test"},
)
print(batch.id, flush=True)

while batch.status not in ("completed", "failed", "cancelled", "expired"):
    time.sleep(0.3)
    batch = client.batches.retrieve(batch.id)
assert batch.status == "completed", batch
assert batch.metadata == {"from": "test"}
counts = batch.request_counts
assert (counts.total, counts.completed, counts.failed) == (LINES, LINES, 0), batch
assert batch.error_file_id is None, batch
assert batch.id in [b.id for b in client.batches.list()]

answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
assert [a["custom_id"] for a in answers] == [line["custom_id"] for line in lines], "one answer each, in order"
for answer in answers:
    assert answer["error"] is None and answer["response"]["status_code"] == 200, answer
    body = answer["response"]["body"]
    assert body["choices"][0]["message"]["content"].strip(), answer
    assert body["usage"]["completion_tokens"] > 0, answer

client.files.delete(file.id)
try:
    client.files.retrieve(file.id)
except openai.NotFoundError:
    pass
else:
    sys.exit("a deleted file can still be read")
print("ok")
