"""The streaming chat of Flask tutorials: the sync SDK in a generator, one SSE line a chunk."""

import json

from flask import Flask, Response, request
from openai import OpenAI

client = OpenAI()
app = Flask(__name__)


@app.get("/healthz")
def healthz():
    return {"ok": True}


@app.post("/chat")
def chat():
    body = request.get_json()

    def lines():
        stream = client.chat.completions.create(model=body["model"], messages=body["messages"], stream=True)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps({'text': chunk.choices[0].delta.content})}\n\n"
        yield "data: [DONE]\n\n"

    return Response(lines(), mimetype="text/event-stream")
