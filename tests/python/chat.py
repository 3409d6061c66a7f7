"""What a developer does first, with the official client: models, chat,
streaming, completions, and the errors the client turns into exceptions."""

import openai

client = openai.OpenAI(max_retries=0)
QUESTION = [{"role": "user", "content": "Name three rivers."}]

names = [model.id for model in client.models.list()]
assert "smollm2" in names, names
assert client.models.retrieve("smollm2").id == "smollm2"

whole = client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=24, temperature=0)
text = whole.choices[0].message.content
assert text.strip(), whole
assert whole.choices[0].message.role == "assistant"
assert whole.choices[0].finish_reason in ("stop", "length"), whole
assert whole.usage.completion_tokens <= 24
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

chunks = list(
    client.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
)
streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert streamed == text, (streamed, text)
assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, chunks[-1]
assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason

stopped = client.chat.completions.create(
    model="smollm2", messages=QUESTION, max_tokens=24, temperature=0, stop=[text.split()[1]]
)
assert text.split()[1] not in stopped.choices[0].message.content
assert stopped.choices[0].finish_reason == "stop"

sampled = [
    client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=16, temperature=1, seed=7)
    .choices[0]
    .message.content
    for _ in range(2)
]
assert sampled[0] == sampled[1], "the same seed gives the same answer"

plain = client.completions.create(model="smollm2", prompt="The capital of France is", max_tokens=5, temperature=0)
assert "Paris" in plain.choices[0].text, plain

parts = [{"type": "text", "text": "Name three "}, {"type": "text", "text": "rivers."}]
joined = client.chat.completions.create(
    model="smollm2", messages=[{"role": "user", "content": parts}], max_tokens=24, temperature=0
)
assert joined.choices[0].message.content == text


def refused(kind, **arguments):
    request = {"model": "smollm2", "messages": QUESTION, "max_tokens": 4} | arguments
    try:
        client.chat.completions.create(**request)
    except kind as error:
        assert error.body and error.body["message"], error
    else:
        raise AssertionError(f"{arguments} was accepted")


refused(openai.NotFoundError, model="no-such-model")
refused(openai.BadRequestError, temperature=9)
refused(openai.BadRequestError, messages=[])
refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 20000}])
refused(openai.BadRequestError, n=3)

try:
    openai.OpenAI(api_key="chy_nonsense", max_retries=0).models.list()
except openai.AuthenticationError:
    pass
else:
    raise AssertionError("a wrong key was accepted")
print("ok")
