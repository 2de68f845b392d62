"""The API of `serve`, in this process, and the arguments that it refuses."""

import io
import itertools
import socket

import numpy as np
import pytest
from PIL import Image
from servers import FILES, pixels_of

from mnist_jax.cli.main import main
from mnist_jax.datasets.info import DataInfo
from mnist_jax.handwriting.files import predict_files, prepare
from mnist_jax.network import as_network
from mnist_jax.reporting.pictures import png
from mnist_jax.serving import app as app_module


@pytest.mark.parametrize("name", FILES)
def test_the_api_answers_as_predict_does_to_the_last_digit(name, client, trained, tmp_path):
    content = FILES[name]()
    (tmp_path / "a").write_bytes(content)
    (expected,) = predict_files(as_network(trained), [tmp_path / "a"])
    found = client.post("/api/predict", content=content).json()
    probabilities = found.pop("probabilities")
    assert found.items() < expected._asdict().items()
    if name == "blank":
        assert (found["label"], probabilities) == (None, {})
    else:
        assert found["label"] == "7"
        assert max(probabilities.values()) == found["probability"]
        assert sum(probabilities.values()) == pytest.approx(1)


def test_explain_returns_the_network_input_and_the_feature_maps(client, trained):
    content = FILES["colour"]()
    found = client.post("/api/explain", content=content).json()
    with Image.open(io.BytesIO(content)) as picture:
        expected = prepare(picture.copy(), trained.info).pixels[..., 0]
    np.testing.assert_array_equal(pixels_of(found["seen"]), expected)
    assert {*found["feature_maps"]} == {"conv1"}
    assert pixels_of(found["feature_maps"]["conv1"]).shape == (12, 8 * 12 + 7)  # 8 of 12x12
    assert client.post("/api/predict", content=content).json().items() <= found.items()


def test_the_api_serves_a_network_of_colour_pictures_with_other_classes(connect, trained):
    info = DataInfo(image_shape=(8, 12, 3), label_names=("a cat", "a dog"), drawing_box=0)
    given = []

    def apply(_, images):
        given.append(images)
        return np.array([[0.25, 0.75]] * len(images), np.float32), np.ones(len(images), int)

    client = connect(as_network(trained)._replace(apply=apply, info=info))
    pixels = np.random.default_rng(0).integers(0, 256, info.image_shape, np.uint8)
    found = client.post("/api/predict", content=png(pixels)).json()
    np.testing.assert_array_equal(given[0][0], pixels)
    assert (found["label"], found["probabilities"]) == ("a dog", {"a cat": 0.25, "a dog": 0.75})


def test_the_api_says_which_network_it_has_and_nothing_of_this_computer(client, workdir):
    response = client.get("/api/network")
    assert str(workdir.parent) not in response.text
    found = response.json()
    assert (found["architecture"], found["dataset"], found["drawings"]) == ("cnn", "mnist", True)
    assert found["label_names"] == list("0123456789")
    assert found["test_accuracy"] > 0.93


def test_other_paths_and_methods_are_refused(client):
    response = client.get("/api/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_the_api_is_documented(client):
    found = client.get("/openapi.json").json()
    assert {*found["paths"]} == {"/api/predict", "/api/explain", "/api/network", "/health"}
    for path in ("/api/predict", "/api/explain"):
        operation = found["paths"][path]["post"]
        assert {"image/*", "image/png"} <= {*operation["requestBody"]["content"]}
        assert {*operation["responses"]} == {"200", *map(str, app_module.PROBLEMS)}
    for schema in found["components"]["schemas"].values():
        assert all("description" in field for field in schema["properties"].values())


def test_a_foreign_name_for_this_computer_is_refused(connect, trained):
    for host, status in {"localhost:8000": 200, "evil.example": 400}.items():
        client = connect(as_network(trained), "localhost", host=host)
        assert client.get("/").status_code == status


def test_an_unexpected_error_is_one_sentence_and_the_next_request_is_answered(connect, trained):
    network = as_network(trained)
    fails = itertools.chain([True], itertools.repeat(False))

    def apply(variables, images):
        if next(fails):
            raise RuntimeError("out of something")
        return network.apply(variables, images)

    client = connect(network._replace(apply=apply))
    response = client.post("/api/predict", content=FILES["grey"]())
    assert (response.status_code, response.json()) == (500, {"detail": "unexpected RuntimeError"})
    assert client.post("/api/predict", content=FILES["grey"]()).json()["label"] == "7"


def test_serve_refuses_bad_arguments_in_one_line(workdir, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = {
            f"--port {port}": f"port {port}: Address already in use; choose another",
            f"--port {port} --workdir nowhere": "Address already in use",  # before it is read
            "--quiet": "serve prints its address; leave --quiet and --json out",
            "--json": "serve prints its address; leave --quiet and --json out",
            "--port 70000": "--port must be 0 to 65535, got 70000",
            "--host no.such.host.invalid": "cannot listen at 'no.such.host.invalid'",
        }
        for arguments, message in refused.items():
            assert main(["serve", f"--workdir={workdir}", *arguments.split()]) == 2
            captured = capsys.readouterr()
            assert message in captured.err
            assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["serve", f"--workdir={workdir}"]) == 2
    assert "pip install fastapi uvicorn" in capsys.readouterr().err
