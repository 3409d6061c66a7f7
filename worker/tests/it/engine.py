#!/usr/bin/env python3
"""Speaks the protocol of `chancery engine` and does what the prompt says."""
import json, os, socket, sys, threading

args = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "engine", sys.argv
evidence = os.path.join(os.path.dirname(os.path.dirname(args["--socket"])), "evidence")
os.makedirs(evidence, exist_ok=True)


def note(name, text):
    with open(os.path.join(evidence, name), "a") as f:
        f.write(text + "\n")


def first_time(name):
    try:
        os.close(os.open(os.path.join(evidence, name), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


with open(args["--model"], "rb") as f:
    content = f.read()
if b"unloadable" in content:
    print("error: model.gguf has no tokenizer", file=sys.stderr)
    sys.exit(3)


def serve(connection):
    with connection, connection.makefile("rw") as stream:
        request = json.loads(stream.readline())
        text = request["input"]["text"]
        note("requests", text)

        def say(**event):
            stream.write(json.dumps(event) + "\n")
            stream.flush()

        if text == "invalid":
            return say(event="failed", kind="invalid", message="too long")
        if text == "overloaded-once" and first_time(text):
            return say(event="failed", kind="overloaded", message="full")
        say(event="started", prompt_tokens=len(text.split()))
        if text == "die" or text == "die-once" and first_time(text):
            os._exit(1)
        if text == "hang":
            stream.read(1)
            return note("cancelled", text)
        words = text.split()
        for word in words:
            say(event="text", text=word + " ", tokens=1)
        counts = {"prompt_tokens": len(words), "completion_tokens": len(words)}
        say(event="finished", reason="stop", counts=counts, accelerator_ms=5)


listener = socket.socket(socket.AF_UNIX)
listener.bind(args["--socket"])
listener.listen(64)
note("starts", f'{os.getpid()} {args["--memory-bytes"]} {args["--kv-bytes"]} {args["--threads"]}')
print(json.dumps({"ready": True}), flush=True)


def accept():
    while True:
        threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()


threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
note("ends", str(os.getpid()))
os._exit(0)
