"""The streaming chat of FastAPI tutorials: AsyncOpenAI, StreamingResponse, one SSE line a chunk."""

import json

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

client = AsyncOpenAI()
app = FastAPI()


class Chat(BaseModel):
    model: str
    messages: list[dict[str, str]]


@app.get("/healthz")
async def healthz():
    return {"ok": True}


@app.post("/chat")
async def chat(request: Chat):
    async def lines():
        stream = await client.chat.completions.create(model=request.model, messages=request.messages, stream=True)
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps({'text': chunk.choices[0].delta.content})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
