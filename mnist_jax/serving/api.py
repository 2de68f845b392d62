"""The requests and answers of the page's API, as openapi.json describes them."""

from typing import Any

from pydantic import BaseModel, Field

from mnist_jax.datasets.image_files import FORMATS

MAX_BYTES = 20_000_000  # of an upload: no camera's JPEG is larger
MAX_PIXELS = 50_000_000  # of a picture, decided before it is decoded: that takes up to 0.8 GB
SLOWEST = 30.0  # seconds that an upload may take


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str = Field(description="one sentence")


class Answer(BaseModel):
    """What the network says of an image, as `mnist-jax predict --json` has it."""

    label: str | None = Field(description="the likeliest class; null where nothing is drawn")
    probability: float = Field(description="the label's")
    runner_up: str | None = Field(description="the class after it")
    runner_up_probability: float = Field(description="the runner-up's")
    problem: str = Field(description="why not to trust the answer; empty where nothing tells")
    probabilities: dict[str, float] = Field(description="by class; empty where nothing is drawn")


class Explanation(Answer):
    """What the network says of an image, and what it has seen."""

    seen: str = Field(description="what the network is given: a PNG file as a data URL")
    feature_maps: dict[str, str] = Field(
        description="by convolution, where each of its filters finds its pattern: a PNG file of "
        "all, as a data URL; none where the network has no convolution"
    )


class About(BaseModel):
    """The network that answers."""

    step: int = Field(description="number of training updates before it was saved")
    architecture: str = Field(description="the name of the model")
    dataset: str = Field(description="name of the training data")
    label_names: list[str] = Field(description="its classes, in their order")
    image_shape: list[int] = Field(description="height, width and channels of its images")
    drawings: bool = Field(description="whether these are light drawings on black, as MNIST's")
    params: int = Field(description="number of parameters")
    test_accuracy: float | None = Field(description="0 to 1; null where it is not known")


class Health(BaseModel):
    """That the server is there, and what waits in it."""

    status: str = Field(description='"ok"')
    waiting: int = Field(description="pictures that wait to be prepared")
    held: int = Field(description="bytes of the uploads that are not prepared yet")
    images: int = Field(description="images classified so far")
    batches: int = Field(description="calls of the network for them")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": description}
    for code, description in {
        400: "There is no image in the request, or the upload was broken off.",
        408: f"The upload took longer than {SLOWEST:.0f} seconds.",
        413: f"The upload has more than {MAX_BYTES:,} bytes, or the image more than "
        f"{MAX_PIXELS:,} pixels.",
        422: "The upload is no image that can be read.",
        500: "An unexpected error: the server's log says more.",
        503: "Too many images are waiting: try again, after the seconds of Retry-After. Or the "
        "server stops.",
    }.items()
}
FILE = {"type": "string", "format": "binary"}
KINDS = ("*", *(name.lower() for name in FORMATS if name != "PPM"))
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"An image file, of any size up to {MAX_BYTES:,} bytes and {MAX_PIXELS:,} "
        "pixels, as it is or as the one file of a form (multipart/form-data). What it is, the file "
        "itself tells: any other Content-Type will do.",
        "content": {f"image/{kind}": {"schema": FILE} for kind in KINDS}
        | {"multipart/form-data": {"schema": {"type": "object", "properties": {"file": FILE}}}},
    }
}
