"""The API in this process, without a network."""

import json
import re
import threading

import numpy as np
import pytest
from colour_net import ColourNet, FarColourNet
from exports import FORMATS, exported, photo, scored_net
from PIL import Image
from prediction import pixels_of
from service import colour_model, encoded, local, pixels_in, until

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.serve.model import open_model
from fullconv.serve.settings import Limits, ServeSettings, read_token

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def served():
    with local() as served:
        yield served


@pytest.fixture
def photos(tmp_path):
    """Write photos of several sizes and kinds."""
    (tmp_path / "in").mkdir()
    for index, (size, suffix) in enumerate(
        [
            ((96, 130), "png"),
            ((70, 90), "jpg"),
            ((1, 1), "bmp"),
            ((33, 70), "webp"),
            ((9, 9), "tif"),
        ]
    ):
        Image.fromarray(photo(size, index)).save(tmp_path / "in" / f"{index}.{suffix}")
    return sorted((tmp_path / "in").iterdir())


def agrees_with_predict(settings, photos, words, out, command_line):
    """Compare answers byte by byte with the files that `fullconv predict` writes."""
    assert command_line("predict", *words, "--out", out, "--quiet") == 0
    with local(open_model(settings)) as served:
        for path in photos:
            answer = served.segment(path.read_bytes())
            assert answer.status_code == 200
            assert answer.content == (out / f"{path.stem}.png").read_bytes()
            answer = served.segment(path.read_bytes(), "image/jpeg")
            assert answer.content == (out / "overlay" / f"{path.stem}.jpg").read_bytes()


def test_answers_are_the_files_of_predict(random_model, photos, tmp_path, command_line):
    settings = ServeSettings(random_model, engine="torch", precision="fp32")
    words = [random_model, *photos, "--engine", "torch", "--precision", "fp32"]
    agrees_with_predict(settings, photos, words, tmp_path / "out", command_line)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_so_are_those_of_an_export(form, photos, tmp_path, command_line):
    path = exported(scored_net(), tmp_path / "e", form).path
    agrees_with_predict(
        ServeSettings(path), photos, [path, *photos], tmp_path / "out", command_line
    )


def test_photos_of_one_size_are_worked_out_together():
    model = colour_model()
    with local(model, Limits(batch=3)) as served:
        model.label.gate.clear()
        images = [encoded((6, 8), seed) for seed in range(3)] + [encoded((5, 8))]
        requests = [("POST", "/v1/segment", {"content": image}) for image in images]

        def open_when_all_wait():
            until(lambda: len(served.service._workers._views._waiting) == 3)
            model.label.gate.set()

        opener = threading.Thread(target=open_when_all_wait)
        opener.start()
        answers = served.ask_all(requests)
        opener.join()
        for image, answer in zip(images, answers, strict=True):
            assert (pixels_in(answer.content) == pixels_in(image).argmax(2)).all()
        assert sorted(map(len, model.label.groups)) in ([1, 1, 2], [1, 3])
        told = served.ask("GET", "/metrics").text
        assert "fullconv_batch_images_sum 4.0" in told


def test_the_first_head_is_given_unless_another_is_asked_for(two_headed_model):
    with pytest.raises(FullconvError, match=r"takes models of one input.*color, depth"):
        open_model(ServeSettings(two_headed_model, engine="torch", precision="fp32"))
    far = FarColourNet()
    net = ColourNet({"sem": far.heads["sem"], "inverse": far.heads["geo"]})
    net.coarse = lambda images: {"sem": images, "inverse": -images[:, :2]}
    image = encoded()
    with local(colour_model(net)) as served:
        first, same, other, none = (
            served.segment(image, path=f"/v1/segment{query}")
            for query in ("", "?head=sem", "?head=inverse", "?head=invers")
        )
    pixels = pixels_in(image)
    assert first.content == same.content
    assert (pixels_in(first.content) == pixels.argmax(2)).all()
    assert (pixels_in(other.content) == pixels[..., :2].argmin(2)).all()
    assert none.status_code == 422 and "did you mean inverse?" in none.json()["detail"]


# Bounds


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no image"),
        (b"hello", "no readable JPEG"),
        (encoded((64, 64), kind="JPEG")[:900], "damaged or truncated"),
    ],
)
def test_what_is_no_image_is_refused_in_a_line(served, body, reason):
    answer = served.segment(body)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"] and "\n" not in answer.json()["detail"]


def test_too_many_pixels_are_refused_by_the_header_alone():
    whole = encoded((50, 50))
    with local(reader=ImageReader(max_pixels=2499)) as served:
        answer = served.segment(whole[:60])  # of the pixels there is nothing
        assert answer.status_code == 422
        assert "50 x 50 pixels are more than the 2,499 allowed" in answer.json()["detail"]


def test_too_many_bytes_are_refused_before_they_are_read():
    async def endless():
        for _ in range(1 << 20):
            sent.append(1)
            yield bytes(1 << 16)

    sent = []
    with local(limits=Limits(max_bytes=1 << 20)) as small:
        assert small.segment(endless()).status_code == 413
        assert len(sent) <= 18
        declared = small.segment(b"x", headers={"Content-Length": str(1 << 30)})
        assert declared.status_code == 413
        assert small.service.in_hand == 0
    assert small.segment(encoded()).status_code == 503  # it was closed


def test_nothing_is_held_after_answers_of_any_kind(served):
    for body in (encoded(), b"", b"hello"):
        served.segment(body)
    until(lambda: served.service.in_hand == 0)


def test_a_full_queue_says_when_to_come_back():
    model = colour_model()
    with local(model, Limits(queue=2, batch=1)) as served:
        model.label.gate.clear()
        answers = []
        asking = threading.Thread(
            target=lambda: answers.extend(
                served.ask_all([("POST", "/v1/segment", {"content": encoded()})] * 2)
            )
        )
        asking.start()
        until(lambda: served.service.in_hand == 2)
        refused = served.segment()
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert served.ask("GET", "/health/ready").status_code == 200
        model.label.gate.set()
        asking.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert served.segment().status_code == 200


def test_what_takes_too_long_is_given_up_but_keeps_its_slot_until_it_is_done():
    model = colour_model()
    with local(model, Limits(queue=1, timeout=0.05)) as served:
        model.label.gate.clear()
        late = served.segment()
        assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
        assert served.service.in_hand == 1
        model.label.gate.set()
        until(lambda: served.service.in_hand == 0)


# Who may ask


def test_a_token_is_needed_for_all_but_the_page_and_health():
    with local(token="s3cret") as served:
        right, wrong = ({"Authorization": f"Bearer {token}"} for token in ("s3cret", "s3creT"))
        for method, path in (("POST", "/v1/segment"), ("GET", "/v1/model"), ("GET", "/metrics")):
            for headers in ({}, wrong, {"Authorization": "Basic s3cret"}):
                refused = served.ask(method, path, content=encoded(), headers=headers)
                assert refused.status_code == 401
                assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert served.ask(method, path, content=encoded(), headers=right).status_code == 200
        for path in ("/", "/model.json", "/health/live", "/health/ready", "/docs"):
            assert served.ask("GET", path).status_code == 200
        assert "s3cret" not in served.ask("GET", "/openapi.json").text
    assert "s3cret" not in repr(ServeSettings("model", token="s3cret"))


def test_tokens_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("FULLCONV_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("FULLCONV_TOKEN", "from-environment")
    assert read_token(None) == "from-environment"
    (tmp_path / "token").write_text("from-file\n")
    assert read_token(tmp_path / "token") == "from-file"
    for text in ("", " \n", "two words", "é"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(FullconvError, match="holds no token"):
            read_token(tmp_path / "token")
    with pytest.raises(FullconvError, match="can't be read"):
        read_token(tmp_path / "none")


def test_pages_of_others_may_ask_only_if_they_are_named(served):
    ask = {"Origin": "https://here.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in served.segment(headers=ask).headers
    with local(cors=("https://here.example",)) as open_one:
        answer = open_one.ask("OPTIONS", "/v1/segment", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://here.example"
        others = {**ask, "Origin": "https://there.example"}
        answer = open_one.ask("OPTIONS", "/v1/segment", headers=others)
        assert "access-control-allow-origin" not in answer.headers


# What it tells of itself


def test_health_and_model(served):
    assert served.ask("GET", "/health/live").json() == {"status": "live"}
    assert served.ask("GET", "/health/ready").json() == {"status": "ready"}
    told = served.ask("GET", "/v1/model").json()
    assert told["heads"]["labels"]["classes"] == ["red", "green", "blue"]
    assert told["limits"] == {
        "bytes": 32 << 20,
        "pixels": 200_000_000,
        "seconds": 30.0,
        "in_hand": 64,
    }
    served.service.draining = True
    assert served.ask("GET", "/health/ready").status_code == 503
    assert served.ask("GET", "/health/live").status_code == 200
    answer = served.segment()
    assert (answer.status_code, answer.headers["connection"]) == (503, "close")


def test_metrics_count_answers_by_known_paths_alone(served):
    served.segment()
    served.segment(b"")
    for path in ("/", "/made-up", "/made/up"):
        served.ask("GET", path)
    told = served.ask("GET", "/metrics").text
    assert 'fullconv_requests_total{path="/v1/segment",status="200"} 1.0' in told
    assert 'fullconv_requests_total{path="/v1/segment",status="422"} 1.0' in told
    assert 'fullconv_requests_total{path="other",status="404"} 2.0' in told
    assert "fullconv_pixels_total 48.0" in told
    assert "fullconv_in_hand 0.0" in told
    with local() as another:  # counts by itself
        assert "fullconv_pixels_total 0.0" in another.ask("GET", "/metrics").text


def test_openapi_tells_all_with_examples(served):
    told = served.ask("GET", "/openapi.json").json()
    assert set(told["paths"]) == {
        "/v1/segment",
        "/v1/model",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    segment = told["paths"]["/v1/segment"]["post"]
    assert "image/jpeg" in segment["requestBody"]["content"]
    assert set(segment["responses"]) == {"200", "401", "406", "408", "413", "422", "503"}
    assert {each["name"] for each in segment["parameters"]} == {"head", "accept"}
    for media in ("application/json", "application/geo+json"):
        example = segment["responses"]["200"]["content"][media]["example"]
        image = np.zeros((2, 3, 3), np.uint8)
        image[..., 0] = 255
        assert example == json.loads(served.segment(png_of(image), media).content)


def png_of(pixels):
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_no_page_names_another_host(served):
    files = ["/", "/docs", "/main.js", "/server.js", "/style.css", "/model.json"]
    for path in files:
        answer = served.ask("GET", path)
        assert answer.status_code == 200
        assert not re.findall(
            r"""(?:src|href|url|import|from)[=(\s]*["']?(?:https?:)?//""", answer.text
        )
    assert served.ask("GET", "/").headers["content-type"].startswith("text/html")
    assert served.ask("GET", "/main.js").headers["content-type"].startswith("text/javascript")
    assert served.ask("GET", "/sw.js").status_code == 404
    told = served.ask("GET", "/model.json").json()
    assert (told["backend"], told["endpoint"]) == ("server", "v1/segment")
    assert told["heads"][0]["classes"] == ["red", "green", "blue"]


def test_pixels_of_files_and_answers_are_alike(served, tmp_path):
    answer = served.segment()
    (tmp_path / "labels.png").write_bytes(answer.content)
    assert (pixels_of(tmp_path / "labels.png") == pixels_in(encoded()).argmax(2)).all()
