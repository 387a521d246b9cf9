"""Serves one task of a model over HTTP; requests that wait at the same time run as one batch. See docs/deploy.md."""

import io
import os
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, HTTPException, Query, Request
from PIL import Image
from transformers import pipeline

from modeling_lavis.embedded import embedded_model_path

MAX = {"BATCH": 8, "WAIT_MS": 10, "PENDING": 64, "BYTES": 2**23, "PIXELS": 2**25, "TEXTS": 32, "CHARACTERS": 300}
MAX = {name: int(os.environ.get(f"MAX_{name}", default)) for name, default in {**MAX, "SECONDS": 30}.items()}
pipe = pipeline(os.environ.get("TASK", "image-captioning"), model=os.environ.get("MODEL") or embedded_model_path())
prepare_row, run_rows = pipe.steps()
Text = Annotated[str, Query(max_length=MAX["CHARACTERS"])]
Texts = Annotated[list[Text] | None, Query(max_length=MAX["TEXTS"])]
app, decoding, running = FastAPI(), anyio.CapacityLimiter(2), anyio.Lock()
waiting, counts = {}, {"pending": 0, "rows": 0, "batches": 0}
Image.MAX_IMAGE_PIXELS = None  # prepare() has a limit of its own
app.get("/health")(lambda: counts)


def prepare(content: bytes, question: str | None, text: list[str] | None) -> Any:
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP"))  # its size, not yet its pixels
    except Exception as error:  # decoders raise unrelated types
        raise HTTPException(415, "The body is not a JPEG, PNG or WebP image.") from error
    if image.width * image.height > MAX["PIXELS"]:
        raise HTTPException(413, f"The image has {image.width} x {image.height} pixels; at most {MAX['PIXELS']}.")
    if hasattr(row := prepare_row({"image": image, "question": question, "text": text}), "message"):
        raise HTTPException(422, row.message)
    return row


@app.post("/predict")
async def predict(request: Request, question: Text | None = None, text: Texts = None) -> Any:
    if counts["pending"] >= MAX["PENDING"]:
        raise HTTPException(503, "Too many requests are waiting; try again.", {"Retry-After": "1"})
    if int(request.headers.get("content-length", MAX["BYTES"] + 1)) > MAX["BYTES"]:
        raise HTTPException(413, f"Send an image with a Content-Length of at most {MAX['BYTES']} bytes.")
    counts["pending"] += 1
    try:
        with anyio.move_on_after(MAX["SECONDS"]):
            content = await request.body()
            waiting[request] = await anyio.to_thread.run_sync(prepare, content, question, text, limiter=decoding)
            async with running:
                if not hasattr(request.state, "answer"):  # else an earlier request took it along
                    await anyio.sleep(MAX["WAIT_MS"] / 1000 if len(waiting) < MAX["BATCH"] else 0)
                    batch = dict([*waiting.items()][: MAX["BATCH"]])
                    counts.update(rows=counts["rows"] + len(batch), batches=counts["batches"] + 1)
                    for other, answer in zip(batch, await anyio.to_thread.run_sync(run_rows, [*batch.values()])):
                        other.state.answer = answer
            return request.state.answer
        raise HTTPException(504, f"There was no answer within {MAX['SECONDS']} s.")
    finally:
        counts["pending"] -= 1
        waiting.pop(request, None)
