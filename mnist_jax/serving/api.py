"""The requests and answers of the API, for openapi.json."""

from typing import Any

from pydantic import BaseModel, Field

from mnist_jax.datasets.image_files import FORMATS

MAX_BYTES = 20_000_000  # per upload; larger than a camera's JPEG
MAX_PIXELS = 50_000_000  # per image, checked before decoding, which takes up to 0.8 GB
SLOWEST = 30.0  # seconds per upload


class Problem(BaseModel):
    """The reason for an error."""

    detail: str = Field(description="one sentence")


class Answer(BaseModel):
    """The network's answer for an image, as by `mnist-jax predict --json`."""

    label: str | None = Field(description="most probable class; null if nothing is drawn")
    probability: float = Field(description="probability of the label")
    runner_up: str | None = Field(description="second most probable class")
    runner_up_probability: float = Field(description="probability of the runner-up")
    problem: str = Field(description="reason to doubt the answer, or empty")
    probabilities: dict[str, float] = Field(description="by class; empty if nothing is drawn")


class Explanation(Answer):
    """The network's answer, its input and its feature maps."""

    seen: str = Field(description="the network's input, a PNG as a data URL")
    feature_maps: dict[str, str] = Field(
        description="by convolution: a PNG of each filter's activations, as a data URL"
    )


class About(BaseModel):
    """The network."""

    step: int = Field(description="training updates before it was saved")
    architecture: str = Field(description="name of the model")
    dataset: str = Field(description="name of the training data")
    label_names: list[str] = Field(description="classes, in order")
    image_shape: list[int] = Field(description="height, width and channels of an image")
    drawings: bool = Field(
        description="whether the images are light drawings on black, like MNIST's"
    )
    params: int = Field(description="number of parameters")
    test_accuracy: float | None = Field(description="0 to 1; null if unknown")


class Health(BaseModel):
    """The server's load."""

    status: str = Field(description='"ok"')
    waiting: int = Field(description="images that wait to be prepared")
    held: int = Field(description="bytes of uploads not yet prepared")
    images: int = Field(description="images classified so far")
    batches: int = Field(description="batches classified so far")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": description}
    for code, description in {
        400: "The request has no body, or the upload was interrupted.",
        408: f"The upload took longer than {SLOWEST:.0f} seconds.",
        413: f"The upload has more than {MAX_BYTES:,} bytes, or the image more than "
        f"{MAX_PIXELS:,} pixels.",
        422: "The upload is not a readable image.",
        500: "An unexpected error; see the server's log.",
        503: "Too many images are waiting; retry after Retry-After seconds. Or the server is "
        "stopping.",
    }.items()
}
FILE = {"type": "string", "format": "binary"}
KINDS = ("*", *(name.lower() for name in FORMATS if name != "PPM"))
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"An image file of at most {MAX_BYTES:,} bytes and {MAX_PIXELS:,} pixels, "
        "or a form (multipart/form-data) with one. Any other Content-Type is ignored.",
        "content": {f"image/{kind}": {"schema": FILE} for kind in KINDS}
        | {"multipart/form-data": {"schema": {"type": "object", "properties": {"file": FILE}}}},
    }
}
